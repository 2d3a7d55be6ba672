"""Describes a teacher in one line, and checks that it fits the data."""

from dmd.diffusion.denoiser import Guided
from dmd.errors import TeacherError
from dmd.networks.dit import DitWrapper
from dmd.networks.wrapper import unwrap
from dmd.teachers.teacher import Teacher


def describe(teacher: Teacher) -> str:
    """Return one line: kind, size, parametrisation, schedule, conditions and images of a teacher."""
    scheduler, net = teacher.pipeline.scheduler, unwrap(teacher.denoiser.net)
    cfg = scheduler.config
    labels = f"{teacher.conditions} labels with the null one" if teacher.conditions else "unconditional"
    facts = (
        f"{type(teacher.pipeline).__name__} with {type(net).__name__}",
        f"{net.num_parameters():,} parameters",
        f"predicts {cfg.get('prediction_type', 'flow')}",
        f"{cfg.get('beta_schedule', type(scheduler).__name__)} schedule of {teacher.denoiser.process.timesteps} steps",
        "conditioned on captions" if teacher.captions else labels,
        "images {}x{}x{}".format(*teacher.codec.image_shape(teacher.shape)),
    )
    return ", ".join(facts)


def check_fits(teacher: Teacher, shape: tuple[int, int, int], classes: int) -> None:
    """Raise TeacherError unless the teacher's images and labels are those of the data.

    shape: (C, H, W) of the data; classes: their number, 0 if captions are the conditions. The last label of a UNet may
    be the null label or the last class; a DiT always has a null label.
    """
    image_shape = teacher.codec.image_shape(teacher.shape)
    if image_shape != shape:
        raise TeacherError(
            f"the teacher makes images of shape {image_shape}, but the data have {shape}; "
            "set data.channels and data.size to the teacher's"
        )
    if not teacher.conditions or teacher.captions:
        return
    if not classes:
        raise TeacherError("the teacher is conditioned on labels, but the data have only captions")
    without_null = classes == teacher.conditions and not isinstance(teacher.denoiser.net, DitWrapper)
    if classes != teacher.conditions - 1 and not without_null:
        raise TeacherError(
            f"the teacher has {teacher.conditions} labels with the null one, but the data have {classes}; "
            "labels of teacher and data must mean the same classes"
        )
    if without_null and isinstance(teacher.guided, Guided):
        raise TeacherError(
            f"guidance.scale: the teacher's {teacher.conditions} labels are all classes of the data; "
            "guidance needs a null label beside them, so set it to 1"
        )
