"""Stage `teacher` completes what configs leave open, and refuses in one line what later stages could not run."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLTemporalDecoder
from transformers import CLIPTextModelWithProjection

from tests.helpers.params import set_params
from tests.helpers.stages import PATHS, arguments, stage
from tests.helpers.teachers.changes import (
    DROP,
    SCHEDULER,
    UNET,
    Change,
    config,
    network,
    pixel_unet,
    tiny_vae,
    weights,
)
from tests.helpers.teachers.hub_folders import KINDS, TOKENS, hub_folder, text_encoder, text_unet, transformer

TEACHER = ("--data", PATHS["data"], "--out", PATHS["teacher"], "--losses", "losses.csv")
TOKENIZER, TRANSFORMER = "tokenizer/tokenizer_config.json", "transformer/config.json"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each kind of teacher: ddpm, dit, sd, sdxl."""
    root = tmp_path_factory.mktemp("hub")
    return {kind: hub_folder(kind, root / kind) for kind in KINDS}


def same(folder: Path) -> None:
    """Change nothing."""


def fetch(project: Path, folder: Path, change: Change) -> tuple[int, str]:
    """Run the stage on a changed copy of a teacher; return the exit code and its last line."""
    shutil.copytree(folder, project / "mine")
    change(project / "mine")
    set_params(project / "params.yaml", {"teacher.source": "folder", "teacher.folder": "mine"})
    code, err = stage("teacher", *TEACHER)
    assert "Traceback" not in err
    return code, err.splitlines()[-1]


@pytest.mark.parametrize(
    ("kind", "change", "file", "written"),
    [
        ("ddpm", config(UNET, sample_size=DROP), UNET, {"sample_size": 8}),
        ("ddpm", config(UNET, sample_size=None), UNET, {"sample_size": 8}),
        ("sd", config(UNET, sample_size=None), UNET, {"sample_size": 4}),
        ("sdxl", config(UNET, sample_size=DROP), UNET, {"sample_size": 4}),
        ("dit", network("transformer", transformer), TRANSFORMER, {"out_channels": 4}),
        ("dit", network("vae", tiny_vae), "vae/config.json", {"_class_name": "AutoencoderTiny"}),
        ("sd", config(TOKENIZER, model_max_length=DROP), TOKENIZER, {"model_max_length": TOKENS}),
        ("sd", config(TOKENIZER, model_max_length=77), TOKENIZER, {"model_max_length": TOKENS}),
        ("sdxl", config("tokenizer_2/tokenizer_config.json", model_max_length=DROP),
         "tokenizer_2/tokenizer_config.json", {"model_max_length": TOKENS}),
        ("flux", same, TRANSFORMER, {"_sample_size": 4, "out_channels": 16}),
        ("flux2", same, TRANSFORMER, {"_sample_size": 2, "out_channels": 16}),
        ("qwen_image", config(TRANSFORMER, _sample_size=DROP), TRANSFORMER, {"_sample_size": 4}),
        ("z_image", same, TRANSFORMER, {"_sample_size": 4}),
        ("pixart", same, TRANSFORMER, {"sample_size": 4}),
    ],
)  # fmt: skip
def test_what_a_config_leaves_open_is_written(
    project: Path, folders: dict[str, Path], kind: str, change: Change, file: str, written: dict[str, Any]
) -> None:
    code, line = fetch(project, folders[kind], change)
    assert code == 0, line
    assert json.loads((project / PATHS["teacher"] / file).read_text()).items() >= written.items()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sd", "dit"])
def test_a_vae_without_a_posterior_works(project: Path, folders: dict[str, Path], kind: str) -> None:
    code, line = fetch(project, folders[kind], network("vae", tiny_vae))
    assert code == 0, line
    code, err = stage("encode", *arguments("data", "teacher"), "--out", PATHS["encoded"])
    assert code == 0 and "1,347 latents" in err, err


def test_a_pipeline_of_a_single_network_may_have_no_folders(project: Path, folders: dict[str, Path]) -> None:
    """google/ddpm-cifar10-32 is stored so."""

    def flatten(folder: Path) -> None:
        for part in ("unet", "scheduler"):
            for file in (folder / part).iterdir():
                file.rename(folder / file.name)
            (folder / part).rmdir()

    code, line = fetch(project, folders["ddpm"], flatten)
    assert code == 0, line


def test_positions_that_older_text_encoders_hold_are_no_surplus(project: Path, folders: dict[str, Path]) -> None:
    """Text encoders saved before 2023, such as Stable Diffusion's, hold integers that are no weights."""
    code, line = fetch(
        project,
        folders["sd"],
        weights("text_encoder", lambda t: t.update({"embeddings.position_ids": torch.arange(40)})),
    )
    assert code == 0, line


NO_LABELS = "given no labels, as its config has no num_class_embeds, cannot run on [2, 1, 8, 8]"
NEEDS_RUN: list[tuple[str, Change, str]] = [
    ("ddpm", network("unet", pixel_unet(class_embed_type="timestep")), NO_LABELS),
    ("ddpm", network("unet", pixel_unet(class_embed_type="identity")), "class_labels should be provided"),
    ("ddpm", network("unet", pixel_unet(time_embedding_type="learned", num_train_timesteps=100)),
     "at the timesteps [0, 999]: IndexError"),
    ("sd", network("unet", lambda: text_unet(16, class_embed_type="timestep")), "class_labels should be provided"),
    ("sd", network("unet", lambda: text_unet(16, class_embed_type="projection",
                                             projection_class_embeddings_input_dim=8)), "given captions, cannot run"),
    ("sd", network("unet", lambda: text_unet(16, addition_embed_type="text_time", addition_time_embed_dim=8,
                                             projection_class_embeddings_input_dim=72)), "given captions, cannot run"),
    ("sd", network("unet", lambda: text_unet(24)), "(80x16 and 24x16)"),
    ("sd", network("text_encoder", lambda: text_encoder(CLIPTextModelWithProjection, projection_dim=24)),
     "given captions, cannot run"),
    ("sd", config(TOKENIZER, pad_token=None), "mine: its text encoder cannot embed captions: Asking to pad"),
    ("sd", lambda f: shutil.rmtree(f / "tokenizer"), "mine has no folder tokenizer"),
    ("sd", lambda f: [file.unlink() for file in (f / "tokenizer").iterdir()], "tokenizer"),
    ("sd", network("vae", lambda: AutoencoderKLTemporalDecoder(
        in_channels=1, out_channels=1, latent_channels=4, block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2)), "its VAE cannot decode latents [2, 4, 4, 4]: TypeError"),
    ("sd", config("vae/config.json", scaling_factor=None), "AutoencoderKL without scaling_factor"),
    ("sd", config("vae/config.json", scaling_factor=0), "its VAE decodes latents to values that are NaN or infinite"),
    ("dit", network("transformer", lambda: transformer(out_channels=6)), "makes 6 channels of 4; 4 or 8 are"),
    ("ddpm", config(SCHEDULER, beta_end=float("nan")), f"mine/{SCHEDULER} gives coefficients that are NaN or infinite"),
    ("ddpm", config(SCHEDULER, beta_schedule="sigmoid"), "mine could not be written as a pipeline of diffusers"),
    ("ddpm", config(SCHEDULER, prediction_type="bogus"), "mine: prediction_type 'bogus' is not supported"),
    ("ddpm", config(UNET, sample_size="8"), "mine/unet/config.json: sample_size '8' is not a number"),
    ("ddpm", weights("unet", lambda t: {k: 1e30 * v for k, v in t.items()}), "predicts values that are NaN"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "change", "words"), NEEDS_RUN)
def test_a_teacher_that_loads_but_cannot_run_is_refused(
    project: Path, folders: dict[str, Path], kind: str, change: Change, words: str
) -> None:
    code, line = fetch(project, folders[kind], change)
    assert code == 1 and line.startswith("error: teacher: ") and words in line, line
    assert not (project / PATHS["teacher"]).exists()


def first(tensors: dict[str, torch.Tensor], value: float) -> None:
    tensors[min(tensors)].view(-1)[0] = value


FILE, TEXT = "mine/unet/diffusion_pytorch_model.safetensors", "mine/text_encoder/model.safetensors"
NUMBERS: list[tuple[str, Change, str]] = [
    ("ddpm", weights("unet", lambda t: first(t, float("nan"))), f"{FILE} holds NaN or infinite values in conv_in.bias"),
    ("ddpm", weights("unet", lambda t: first(t, float("inf"))), f"{FILE} holds NaN or infinite values in conv_in.bias"),
    ("ddpm", weights("unet", lambda t: {k: v.double() * 1e300 for k, v in t.items()}), "(as float32)"),
    ("sd", weights("text_encoder", lambda t: first(t, float("nan"))), f"{TEXT} holds NaN or infinite values in emb"),
    ("sd", weights("vae", lambda t: first(t, float("nan"))), "infinite values in decoder.conv_in.bias"),
    ("ddpm", weights("unet", lambda t: t.pop("conv_out.bias")), f"{FILE} has no weight conv_out.bias"),
    ("sd", weights("text_encoder", lambda t: t.pop(min(t))), f"{TEXT} has no weight embeddings.position_embedding"),
    ("ddpm", weights("unet", lambda t: t.update(more=torch.zeros(3))), f"{FILE} has a weight that config.json"),
    ("sd", weights("text_encoder", lambda t: t.update(more=torch.zeros(3))), f"{TEXT} has a weight that config.json"),
    ("ddpm", weights("unet", lambda t: {k: v.long() for k, v in t.items()}), f"{FILE} holds integers for conv_in.bias"),
    ("sd", weights("text_encoder", lambda t: {k: v.int() for k, v in t.items()}), f"{TEXT} holds integers for emb"),
    ("ddpm", weights("unet", lambda t: t.update({"conv_in.bias": torch.zeros(3)})), "another shape than config.json"),
    ("sd", config("text_encoder/config.json", vocab_size=100), "config.json asks for in embeddings.token_embedding"),
    ("ddpm", config(UNET, block_out_channels=[]), "mine/unet could not be loaded: IndexError"),
    ("ddpm", config(UNET, norm_num_groups=0), "mine/unet could not be loaded: ZeroDivisionError"),
    ("ddpm", config(UNET, layers_per_block=10**7), "layers_per_block: 10000000 layers, but the files"),
    ("sd", config("text_encoder/config.json", num_hidden_layers=10**7), "num_hidden_layers: 10000000 layers, but"),
    ("ddpm", config(SCHEDULER, num_train_timesteps=10**9), "num_train_timesteps: 1e+09 is too large; use"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "change", "words"), NUMBERS)
def test_weights_that_are_no_numbers_are_refused_by_file_and_key(
    project: Path, folders: dict[str, Path], kind: str, change: Change, words: str
) -> None:
    test_a_teacher_that_loads_but_cannot_run_is_refused(project, folders, kind, change, words)


def test_pickled_weights_are_refused_before_they_are_read(project: Path, folders: dict[str, Path]) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (project / "ran",)

    def pickle(folder: Path) -> None:
        (folder / "unet/diffusion_pytorch_model.safetensors").unlink()
        torch.save({"conv_in.bias": Payload()}, folder / "unet/diffusion_pytorch_model.bin")

    code, line = fetch(project, folders["ddpm"], pickle)
    assert code == 1 and "mine/unet holds no weights in safetensors" in line and not (project / "ran").exists()


def with_code(index: dict[str, Any], *files: str) -> Change:
    """Put entries into model_index.json, and files of Python that leave a trace if they run."""

    def edit(folder: Path) -> None:
        file = folder / "model_index.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | index))
        for name in files:
            (folder / name).write_text(f"open({str(folder.parent / 'ran')!r}, 'w')\nclass Evil: pass\n")

    return edit


@pytest.mark.parametrize(
    "change",
    [
        with_code({"_class_name": ["evil", "Evil"]}, "evil.py"),
        with_code({}, "None.py", "pipeline.py", "__init__.py"),
        with_code({"unet": ["evil", "Evil"]}, "unet/evil.py", "evil.py"),
        with_code({"scheduler": ["evil", "Evil"]}, "scheduler/evil.py"),
        with_code({"scheduler": ["mine.evil", "Evil"]}, "evil.py"),
        with_code({"more": ["mine.evil", "Evil"]}, "evil.py"),
        config(UNET, auto_map={"AutoModel": "evil.Evil"}),
    ],
    ids=["pipeline", "default names", "network", "scheduler", "module", "another part", "auto_map"],
)
def test_code_in_the_folder_of_a_teacher_does_not_run(
    project: Path, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, change: Change
) -> None:
    """The folder lies in the project, from which Python imports modules."""
    monkeypatch.syspath_prepend(project)
    fetch(project, folders["ddpm"], change)
    assert not (project / "ran").exists()


def test_a_variant_alone_is_refused(project: Path, folders: dict[str, Path]) -> None:
    name = "diffusion_pytorch_model.fp16.safetensors"
    code, line = fetch(
        project, folders["ddpm"], lambda f: next((f / "unet").glob("*.safetensors")).rename(f / "unet" / name)
    )
    assert code == 1 and f"holds only a variant, {name}; rename" in line
