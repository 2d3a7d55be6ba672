"""Exported generators: their cards, their folder and the stock pipeline."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import DDIMPipeline, DDPMPipeline, DDPMScheduler, UNet2DModel

from dmd.config import Params
from dmd.diffusion.denoiser import as_denoiser
from dmd.diffusion.pipelines import save_pipeline
from dmd.errors import TeacherError
from dmd.generator.export import export_generator
from dmd.generator.generator import Generator, load_generator
from dmd.samplers.few_step import one_step
from dmd.samplers.sampler import draw_noise
from dmd.teacher_training.architectures import new_scheduler, new_unet
from dmd.teachers.teacher import Teacher, load_teacher
from tests.helpers.networks import CPU
from tests.helpers.teachers.generators import generator_folder


@pytest.mark.parametrize("times", [(999,), (400,), (999, 749, 499, 249)])
def test_the_code_of_the_card_gives_this_projects_image(
    teacher: Teacher, tmp_path: Path, times: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code runs as it stands in the card, and its image equals this project's at the same seed."""
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
def test_every_kind_of_teacher_loads_unchanged_and_its_generator_runs_by_the_card(
    params: Params, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher is saved and loaded as a diffusers folder, and then exported."""
    # More channels than normalisation groups, and a last layer that is not near zero: the output depends on the time.
    cfg = params.teacher.model_copy(update={"channels": [16, 32], "prediction_type": kind, "beta_schedule": "linear"})
    torch.manual_seed(0)
    net = new_unet(cfg, (1, 8, 8), 10)
    with torch.no_grad():
        net.conv_out.weight.normal_(std=0.3)
    save_pipeline(net, new_scheduler(cfg), tmp_path / "teacher")
    teacher = load_teacher(tmp_path / "teacher", CPU)
    z, y, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 7]), torch.tensor([999, 400])
    # Frozen like the loaded generator: on some CPUs, trainable weights use other kernels, which change the last bits.
    frozen = as_denoiser(net, new_scheduler(cfg)).eval().requires_grad_(False)
    assert torch.equal(teacher.denoiser(z, t, y), frozen(z, t, y))
    generator = generator_folder(teacher, tmp_path / "generator", 999, 499)
    assert load_generator(tmp_path / "generator", CPU).sampler().sample(torch.randn(2, 2, 1, 8, 8), y).isfinite().all()
    snippet = (tmp_path / "generator/README.md").read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path / "generator")
    namespace: dict = {}
    exec(snippet, namespace)
    ours = generator.sampler().images(torch.tensor([0, 1, 2]), torch.Generator().manual_seed(0))
    difference = (namespace["pixels"].int() - ours.int()).abs()
    assert difference.max() <= 1 and difference.float().mean() < 0.01  # rounding


def test_a_saved_generator_loads_unchanged(teacher: Teacher, tmp_path: Path) -> None:
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


def test_exported_files_hold_no_path(teacher: Teacher, teacher_folder: Path, tmp_path: Path) -> None:
    """diffusers writes the path of a loaded network into its config, so the files of two clones would differ."""
    generator_folder(teacher, tmp_path / "generator")
    for file in (tmp_path / "generator").rglob("*.json"):
        assert str(teacher_folder.parent) not in file.read_text() and "_name_or_path" not in file.read_text(), file


@pytest.mark.parametrize(
    ("prediction", "beta", "t"), [("v_prediction", "squaredcos_cap_v2", 999), ("epsilon", "linear", 258)]
)
def test_an_unconditional_generator_runs_in_the_stock_pipeline(
    tmp_path: Path, prediction: str, beta: str, t: int
) -> None:
    """One step with trailing spacing equals `one_step`: the exported schedule ends at the generator's timestep."""
    torch.manual_seed(0)
    net = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    with torch.no_grad():
        net.conv_out.weight.normal_(std=0.05)
    DDPMPipeline(net, DDPMScheduler(beta_schedule=beta, prediction_type=prediction)).save_pretrained(tmp_path / "t")
    teacher = load_teacher(tmp_path / "t", CPU)
    assert teacher.conditions == 0
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


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([], "the whole file: "),
        ({"timesteps": 5}, "timesteps: "),
        ({"timesteps": [True]}, "timesteps.0: "),
        ({"timesteps": [1000]}, "are not indices 0.."),
        ({"timesteps": [5] * 5000}, "are not indices 0.."),
        ({"timesteps": []}, "timesteps: "),
        ({"classes": 5}, "classes: "),
        ({"classes": "zero"}, "classes: "),
        ({"classes": ["a"] * 12}, "12 classes, but the network has 11 labels"),
        ({"captions": None}, "captions: "),
        ({"between": "noise"}, "between: "),
        (b"\xff", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
    ],
)
def test_a_generator_json_that_was_changed_is_one_line(
    teacher: Teacher, tmp_path: Path, changes: dict[str, object] | list[int] | bytes, words: str
) -> None:
    generator_folder(teacher, tmp_path / "generator", 700)
    file = tmp_path / "generator/generator.json"
    if isinstance(changes, bytes):
        file.write_bytes(changes)
    else:
        file.write_text(json.dumps(json.loads(file.read_text()) | changes if isinstance(changes, dict) else changes))
    with pytest.raises(TeacherError) as e:
        load_generator(tmp_path / "generator", CPU)
    assert words in str(e.value) and len(str(e.value).splitlines()) == 1 and len(str(e.value)) < 1000
