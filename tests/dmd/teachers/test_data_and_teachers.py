"""Teachers and generators: unchanged since they were written, and refused with a sentence."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DDIMPipeline, DDPMPipeline, DDPMScheduler, UNet2DModel
from torch import Tensor

from dmd.config import Params
from dmd.diffusion.denoiser import Denoiser, Guided, as_denoiser
from dmd.diffusion.pipelines import save_pipeline
from dmd.errors import TeacherError
from dmd.generator.export import export_generator
from dmd.generator.generator import Generator, load_generator
from dmd.sample import grid, read_labels
from dmd.samplers.ddim import ddim
from dmd.samplers.few_step import one_step
from dmd.samplers.sampler import draw_noise
from dmd.teacher_training.architectures import new_scheduler, new_unet
from dmd.teachers.check import check_fits
from dmd.teachers.fetch import download, fetch
from dmd.teachers.pairs import load_pairs, make_pairs, save_pairs
from dmd.teachers.teacher import Teacher, load_teacher
from tests.helpers.networks import CPU


def generator_folder(teacher: Teacher, out: Path, *times: int) -> Generator:
    denoiser = teacher.denoiser.copy().eval()
    with torch.no_grad():
        for p in denoiser.parameters():
            p.add_(0.01 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    classes = tuple(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
    generator = Generator(denoiser.requires_grad_(False), times or (999,), teacher.shape, classes)
    export_generator(generator, teacher, out)
    return generator


@pytest.mark.parametrize("times", [(999,), (400,), (999, 749, 499, 249)])
def test_the_card_of_an_exported_generator_is_right(
    teacher: Teacher, tmp_path: Path, times: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snippet in the card, run as it stands, gives the image that this project gives for the same seed."""
    generator = generator_folder(teacher, tmp_path / "generator", *times)
    snippet = (tmp_path / "generator/README.md").read_text().split("```python\n")[1].split("```")[0]
    assert "dmd" not in snippet
    monkeypatch.chdir(tmp_path / "generator")
    namespace: dict = {}
    exec(snippet, namespace)
    ours = generator.sampler().images(torch.tensor([0, 1, 2]), torch.Generator().manual_seed(0))
    assert torch.equal(namespace["pixels"], ours) and ours.float().std() > 5
    assert Path("image.png").is_file()


@pytest.mark.parametrize("kind", ["epsilon", "sample", "flow", "edm"])
def test_a_teacher_of_every_kind_is_read_back_and_its_generator_runs_by_the_card(
    params: Params, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saved and loaded as a diffusers folder, then exported: the card's few lines give this project's images."""
    # More channels than normalisation groups, and a last layer that is not near zero: the output depends on the time.
    cfg = params.teacher.model_copy(update={"channels": [16, 32], "prediction_type": kind, "beta_schedule": "linear"})
    torch.manual_seed(0)
    net = new_unet(cfg, (1, 8, 8), 10)
    with torch.no_grad():
        net.conv_out.weight.normal_(std=0.3)
    save_pipeline(net, new_scheduler(cfg), tmp_path / "teacher")
    teacher = load_teacher(tmp_path / "teacher", CPU)
    z, y, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 7]), torch.tensor([999, 400])
    # Frozen, as the loaded one is: on some CPUs other kernels convolve weights that learn, with other last bits.
    frozen = as_denoiser(net, new_scheduler(cfg)).eval().requires_grad_(False)
    assert torch.equal(teacher.denoiser(z, t, y), frozen(z, t, y))
    generator = generator_folder(teacher, tmp_path / "generator", 999, 499)
    assert load_generator(tmp_path / "generator", CPU).sampler().sample(torch.randn(2, 2, 1, 8, 8), y).isfinite().all()
    snippet = (tmp_path / "generator/README.md").read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path / "generator")
    namespace: dict = {}
    exec(snippet, namespace)
    ours = generator.sampler().images(torch.tensor([0, 1, 2]), torch.Generator().manual_seed(0))
    apart = (namespace["pixels"].int() - ours.int()).abs()
    assert apart.max() <= 1 and apart.float().mean() < 0.01  # a rounding, here and there


def test_guidance_needs_class_labels_and_takes_the_last_one_for_none(teacher_folder: Path, tmp_path: Path) -> None:
    teacher = load_teacher(teacher_folder, CPU, guidance_scale=2.0)
    z, y, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 7]), torch.tensor([600, 600])
    u, c = teacher.denoiser(z, t, torch.full_like(y, 10)), teacher.denoiser(z, t, y)
    torch.testing.assert_close(teacher.guided(z, t, y), u + 2 * (c - u), rtol=1e-4, atol=1e-4)
    assert not isinstance(teacher.denoiser, Guided) and isinstance(teacher.guided, Guided)
    plain = load_teacher(teacher_folder, CPU)
    assert plain.guided is plain.denoiser


def test_a_generator_survives_its_folder(teacher: Teacher, tmp_path: Path) -> None:
    generator = generator_folder(teacher, tmp_path / "generator", 700)
    back = load_generator(tmp_path / "generator", CPU)
    z, y = draw_noise((1, 8, 8), 5, torch.Generator().manual_seed(3)), torch.arange(5)
    assert torch.equal(back.sampler().sample(z, y), one_step(generator.denoiser, z, 700, y))
    assert (back.times, back.classes) == ((700,), generator.classes)
    names = {p.name for p in (tmp_path / "generator").rglob("*") if p.is_file()}
    expected = {
        "model_index.json",
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "scheduler_config.json",
        "generator.json",
        "README.md",
    }
    assert names == expected


def test_exports_do_not_say_where_they_came_from(teacher: Teacher, teacher_folder: Path, tmp_path: Path) -> None:
    """diffusers writes the path a network was loaded from into its config: two clones would differ."""
    generator_folder(teacher, tmp_path / "generator")
    for file in (tmp_path / "generator").rglob("*.json"):
        assert str(teacher_folder.parent) not in file.read_text() and "_name_or_path" not in file.read_text(), file


@pytest.mark.parametrize(
    ("prediction", "beta", "t"), [("v_prediction", "squaredcos_cap_v2", 999), ("epsilon", "linear", 258)]
)
def test_an_unconditional_generator_runs_in_the_stock_pipeline(
    tmp_path: Path, prediction: str, beta: str, t: int
) -> None:
    """One step with trailing spacing is one_step where the generator begins: its own schedule ends there."""
    torch.manual_seed(0)
    net = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    with torch.no_grad():
        net.conv_out.weight.normal_(std=0.05)
    DDPMPipeline(net, DDPMScheduler(beta_schedule=beta, prediction_type=prediction)).save_pretrained(tmp_path / "t")
    teacher = load_teacher(tmp_path / "t", CPU)
    assert teacher.classes == 0
    assert teacher.denoiser.default_generator_timestep() == t
    generator = Generator(teacher.denoiser, (t,), teacher.shape, ())
    export_generator(generator, teacher, tmp_path / "generator")
    pipe = DDIMPipeline.from_pretrained(tmp_path / "generator")
    pipe.set_progress_bar_config(disable=True)
    images = pipe(
        batch_size=2, num_inference_steps=1, generator=torch.Generator().manual_seed(1), output_type="np"
    ).images
    z = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    ours = (one_step(generator.denoiser, z, t).clamp(-1, 1) + 1) / 2
    torch.testing.assert_close(torch.from_numpy(images).permute(0, 3, 1, 2), ours.detach(), rtol=0, atol=1e-5)
    again = load_generator(tmp_path / "generator", CPU)
    assert torch.equal(one_step(again.denoiser, z, t), one_step(generator.denoiser, z, t))


def test_a_teacher_folder_is_copied_without_change(teacher_folder: Path, params: Params, tmp_path: Path) -> None:
    cfg = params.teacher.model_copy(update={"source": "folder", "folder": str(teacher_folder)})
    assert fetch(cfg, tmp_path / "copy") == {"source": "folder"}
    a, b = load_teacher(teacher_folder, CPU), load_teacher(tmp_path / "copy", CPU)
    assert all(
        torch.equal(x, y)
        for x, y in zip(a.denoiser.state_dict().values(), b.denoiser.state_dict().values(), strict=True)
    )


def damaged(folder: Path, tmp_path: Path, file: str, content: bytes | None) -> Path:
    import shutil

    copy = tmp_path / "damaged"
    shutil.copytree(folder, copy)
    if content is None:
        (copy / file).write_bytes((copy / file).read_bytes()[:5000])
    else:
        (copy / file).write_bytes(content)
    return copy


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("unet/diffusion_pytorch_model.safetensors", None),
        ("unet/diffusion_pytorch_model.safetensors", b""),
        ("unet/config.json", b"{"),
        ("model_index.json", b"not json"),
    ],
)
def test_a_damaged_teacher_is_one_line_that_names_it(
    teacher_folder: Path, tmp_path: Path, file: str, content: bytes | None
) -> None:
    folder = damaged(teacher_folder, tmp_path, file, content)
    with pytest.raises(TeacherError) as e:
        load_teacher(folder, CPU)
    assert str(folder) in str(e.value) and "\n" not in str(e.value)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"not a diffusers pipeline folder: it has no model_index\.json"):
        load_teacher(tmp_path, CPU)
    with pytest.raises(TeacherError, match=r"is not a generator folder"):
        load_generator(tmp_path, CPU)


def test_a_hub_id_without_network_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(TeacherError, match=r"hub_id 'owner/no-such-model' at 'main' could not be fetched") as e:
        download("owner/no-such-model", "main")
    assert "\n" not in str(e.value) and "source: folder" in str(e.value)


def test_a_teacher_of_another_shape_is_refused(teacher: Teacher) -> None:
    with pytest.raises(TeacherError, match=r"shape \(1, 8, 8\), the data are \(3, 8, 8\)"):
        check_fits(teacher, (3, 8, 8), 10)


def test_labels_that_are_not_the_datas_are_refused(teacher: Teacher, teacher_folder: Path) -> None:
    """Eleven of them: ten classes and the null label, or eleven classes and none to guide by."""
    for classes in (1, 9, 12, 100):
        with pytest.raises(TeacherError, match=f"knows 11 labels with the null one, the data have {classes}"):
            check_fits(teacher, (1, 8, 8), classes)
    with pytest.raises(TeacherError, match="told of labels, and the data have captions but no classes"):
        check_fits(teacher, (1, 8, 8), 0)
    guided = load_teacher(teacher_folder, CPU, guidance_scale=2.0)
    check_fits(teacher, (1, 8, 8), 11)
    check_fits(guided, (1, 8, 8), 10)
    with pytest.raises(TeacherError, match="guidance needs a null one"):
        check_fits(guided, (1, 8, 8), 11)
    for classes in (0, 1, 10):
        check_fits(replace(teacher, classes=0), (1, 8, 8), classes)


@pytest.mark.parametrize("solver", ["ddim", "heun"])
def test_pairs_are_the_teachers_own_trajectories(solver: str, teacher: Teacher, params: Params, tmp_path: Path) -> None:
    cfg = params.pairs.model_copy(update={"count": 7, "solver": solver, "steps": 4, "batch_size": 3})
    save_pairs(make_pairs(teacher, torch.arange(5), cfg, CPU), tmp_path / "pairs")
    pairs = load_pairs(tmp_path / "pairs")
    assert pairs.labels is not None and pairs.labels.tolist() == [0, 1, 2, 3, 4, 0, 1]
    with torch.inference_mode():
        torch.testing.assert_close(
            teacher.sampler(f"{solver}_4").sample(pairs.z, pairs.labels), pairs.x, rtol=1e-4, atol=1e-5
        )


def test_pairs_that_were_interrupted_go_on_where_they_ended(
    teacher: Teacher, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches that are whole are not made again, and the result is that of a run that was not interrupted."""
    cfg = params.pairs.model_copy(update={"count": 7, "steps": 4, "batch_size": 3})
    whole = make_pairs(teacher, torch.arange(5), cfg, CPU)
    made: list[int] = []

    def interrupted(denoiser: Denoiser, z: Tensor, steps: int, cond: Tensor) -> Tensor:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(len(z))
        return ddim(denoiser, z, steps, cond)

    monkeypatch.setattr("dmd.teachers.pairs.ddim", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_pairs(teacher, torch.arange(5), cfg, CPU, tmp_path)
    made[:] = [0]
    again = make_pairs(teacher, torch.arange(5), cfg, CPU, tmp_path)
    assert made == [0, 1] and torch.equal(again.x, whole.x) and torch.equal(again.z, whole.z)


def test_no_pairs_are_an_empty_valid_store(teacher: Teacher, params: Params, tmp_path: Path) -> None:
    none = params.pairs.model_copy(update={"count": 0})
    save_pairs(make_pairs(teacher, torch.arange(5), none, CPU), tmp_path / "pairs")
    assert len(load_pairs(tmp_path / "pairs")) == 0
    assert json.loads((tmp_path / "pairs/manifest.json").read_text()) == {"count": 0}


def test_labels_are_read_as_numbers_or_names() -> None:
    classes = ("zero", "one", "two")
    assert read_labels("2, one,0", classes) == [2, 1, 0] and read_labels("", classes) == [0, 1, 2]
    with pytest.raises(ValueError, match=r"'3' is none of 0\.\.2 or zero, one, two"):
        read_labels("0,3", classes)
    with pytest.raises(ValueError, match="takes no labels"):
        read_labels("0", ())


def test_a_grid_has_a_column_per_label(teacher: Teacher, tmp_path: Path) -> None:
    generator = generator_folder(teacher, tmp_path / "generator")
    picture = torch.from_numpy(__import__("numpy").array(grid(generator, [3, 5, 8], 2, 4, 2)))
    images = generator.sampler().images(torch.tensor([3, 3, 5, 5, 8, 8]), torch.Generator().manual_seed(4))
    assert picture.shape == (2 * 8 * 2, 3 * 8 * 2)
    assert torch.equal(
        picture[16:32:2, 16:32:2], images[3, 0]
    )  # second row, second column: the second image of label 5
