"""Describes a teacher in one line, and checks that it fits the data."""

from dmd.diffusion.denoiser import Guided
from dmd.diffusion.networks import Transformer, unwrap
from dmd.errors import TeacherError
from dmd.teachers.teacher import Teacher


def describe(teacher: Teacher) -> str:
    """One line of what was read from the folder: kind, size, parametrisation, schedule, conditions, images."""
    scheduler, net = teacher.pipeline.scheduler, unwrap(teacher.denoiser.net)
    cfg = scheduler.config
    labels = f"{teacher.classes} labels with the null one" if teacher.classes else "unconditional"
    facts = (
        f"{type(teacher.pipeline).__name__} with {type(net).__name__}",
        f"{net.num_parameters():,} parameters",
        f"predicts {cfg.get('prediction_type', 'flow')}",
        f"{cfg.get('beta_schedule', type(scheduler).__name__)} schedule of {teacher.denoiser.process.timesteps} steps",
        "told of captions" if teacher.captions else labels,
        "images {}x{}x{}".format(*teacher.codec.image_shape(teacher.shape)),
    )
    return ", ".join(facts)


def check_fits(teacher: Teacher, shape: tuple[int, int, int], classes: int) -> None:
    """Raise TeacherError where the teacher's images or labels are not the data's.

    classes: of the data, 0 where captions alone are their conditions. Of a UNet on labels the last row may be the null
    label or the last class; a DiT has a null label always.
    """
    made = teacher.codec.image_shape(teacher.shape)
    if made != shape:
        raise TeacherError(f"the teacher makes images of shape {made}, the data are {shape}")
    if not teacher.classes or teacher.captions:
        return
    if not classes:
        raise TeacherError("the teacher is told of labels, and the data have captions but no classes")
    no_null = classes == teacher.classes and not isinstance(teacher.denoiser.net, Transformer)
    if classes != teacher.classes - 1 and not no_null:
        raise TeacherError(
            f"the teacher knows {teacher.classes} labels with the null one, the data have {classes}: "
            "they would not mean the same"
        )
    if no_null and isinstance(teacher.guided, Guided):
        raise TeacherError(
            f"guidance.scale: the teacher's {teacher.classes} labels are all classes of the data; "
            "guidance needs a null one besides"
        )
