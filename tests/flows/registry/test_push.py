"""A registered version is uploaded to the hub, and what was uploaded runs without this project."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
from huggingface_hub import ModelCard

from dmd.errors import UserError
from dmd.generator.export import card
from dmd.generator.generator import Generator
from dmd.teachers.teacher import Teacher
from flows import push
from flows.sharing.bundle import build_bundle, join_card
from flows.sharing.hub import check_name, check_ready, upload
from tests.helpers.published import NAME
from tests.helpers.sharing.hub import OWNER, TOKEN, Hub, serve_hub

REPOSITORY = f"{OWNER}/digits"
# Loads the folder with diffusers alone, and makes images as the generator's own card does.
LOAD = """
import importlib.util, json, sys, torch
from diffusers import UNet2DModel
assert importlib.util.find_spec("dmd") is None
unet = UNet2DModel.from_pretrained(sys.argv[1], subfolder="unet")
step = json.load(open(f"{sys.argv[1]}/generator.json"))["steps"][0]
with torch.inference_mode():
    x_t = step["sigma"] * torch.randn(2, 1, 8, 8)
    out = unet(step["c_in"] * x_t, step["time"], class_labels=torch.tensor([0, 1])).sample
assert (step["c_skip"] * x_t + step["c_out"] * out).isfinite().all()
"""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A local stand-in of the hub, with the token of its only user in the environment."""
    with serve_hub() as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small folder to upload."""
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "README.md").write_text("---\nlicense: mit\n---\n# small\n")
    (tmp_path / "small" / "weights.safetensors").write_bytes(b"weights")
    return tmp_path / "small"


@pytest.mark.slow
def test_a_version_is_uploaded_and_loads_without_this_project(
    workspace: Path,
    version: str,
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(workspace)
    assert push.main([f"models:/{NAME}/{version}", REPOSITORY, "--private"]) == 0
    assert f"{hub.address}/{REPOSITORY}/commit/" in capsys.readouterr().out
    files = hub.repositories[REPOSITORY]
    assert {"README.md", "samples.png", "generator.json", "unet/config.json"} <= set(files)
    assert hub.private == {REPOSITORY} and hub.messages == [f"Upload models:/{NAME}/{version}"]
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-I", "-c", LOAD, str(tmp_path)], cwd=tmp_path, check=False, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()


def test_the_card_has_figures_picture_licence_and_lineage(workspace: Path, version: str, tmp_path: Path) -> None:
    folder = build_bundle(workspace, f"models:/{NAME}@candidate", tmp_path)
    readme = ModelCard.load(folder / "README.md")
    assert readme.data.license == "unknown" and readme.data.library_name == "diffusers"
    assert readme.data.pipeline_tag == "unconditional-image-generation"
    results = {result.metric_type: result.metric_value for result in readme.data.eval_results or []}
    assert results["fd.clip"] == 1.25 and results["ratio.clip"] == 1.0 and results["clip_score"] == 21.5
    assert "git.sha" not in results and "nfe" not in results
    for text in (f"# {NAME}", "![", "(samples.png)", "## Measures", "`git.sha`", f"models:/{NAME}/{version}`"):
        assert text in readme.text
    assert "/VERSION" not in readme.text and (folder / "samples.png").is_file()


def test_the_code_of_the_generators_card_is_in_the_readme(teacher: Teacher) -> None:
    generator = Generator(teacher.denoiser, (999,), teacher.shape, tuple("abcdefghij"), teacher.codec)
    text = join_card(
        "---\nlicense: mit\n---\n", "# toy\n\nIt is small.\n\n## Measures\n\nnone\n", card(generator, teacher)
    )
    assert text.startswith("---\nlicense: mit\n---\n# toy\n\nIt is small.\n\n## Samples\n")
    assert text.count("---\n") == 2 and "run_steps(unet" in text and "Labels: 0 a, 1 b" in text
    assert text.index("## Use") < text.index("```python") < text.index("## Measures") and text.endswith("none\n")


def test_a_dry_run_needs_no_token_and_uploads_nothing(
    workspace: Path, version: str, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", "/nonexistent")
    monkeypatch.chdir(workspace)
    assert push.main([f"models:/{NAME}/{version}", REPOSITORY, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "unet/diffusion_pytorch_model.safetensors" in out and "README.md" in out
    assert f"{hub.address}/{REPOSITORY}" in out and hub.repositories == {}
    with pytest.raises(UserError, match=r"^no token for http.*hf auth login"):
        check_ready()


@pytest.mark.parametrize("model", ["digits", f"models:/{NAME}/7", "models:/nothing/1", f"models:/{NAME}@nobody"])
def test_a_version_that_does_not_exist_is_one_line(
    model: str, workspace: Path, version: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(workspace)
    assert push.main([model, REPOSITORY, "--dry-run"]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_existing_repository_needs_update(hub: Hub, folder: Path) -> None:
    upload(folder, REPOSITORY, "first")
    with pytest.raises(UserError, match=rf"^{REPOSITORY}: exists already; add a commit to it with --update"):
        upload(folder, REPOSITORY, "second")
    upload(folder, REPOSITORY, "third", update=True)
    assert hub.messages == ["first", "third"]
    assert hub.repositories[REPOSITORY]["weights.safetensors"] == b"weights"


def test_a_refused_upload_is_one_line(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories |= {"other/private": {}, "other/gated": {}}
    hub.hidden, hub.gated = {"other/private"}, {"other/gated"}
    for name, update, reason in (
        ("other/private", True, "does not exist, or is private and not visible to this token"),
        ("other/gated", True, "is gated: ask its owner for access"),
        ("other/new", False, "this token may not write there"),
    ):
        with pytest.raises(UserError, match=rf"^{name}: {reason}") as caught:
            upload(folder, name, "commit", update=update)
        assert "\n" not in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    with pytest.raises(UserError, match=r"the hub does not accept the token: log in"):
        upload(folder, REPOSITORY, "commit")


def test_a_hub_that_goes_away_is_one_line(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # after `check_ready`
    with pytest.raises(UserError, match=rf"^{REPOSITORY}: could not be uploaded \(.*\); run the command again$"):
        upload(folder, REPOSITORY, "commit")


def test_no_network_is_one_line(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        check_ready()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    check_ready()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"^http://127\.0\.0\.1:9 can't be reached \(.*--dry-run$"):
        check_ready()


@pytest.mark.parametrize("name", ["digits", "a/b/c", "someone/", "../x"])
def test_a_wrong_name_is_named(name: str) -> None:
    with pytest.raises(UserError, match="write owner/name"):
        check_name(name)
