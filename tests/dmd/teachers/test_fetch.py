"""Teachers are fetched from a folder or from the hub."""

from pathlib import Path

import diffusers
import httpx
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from dmd.config import Params
from dmd.data.splits import load_split
from dmd.errors import TeacherError
from dmd.teachers.fetch import download, fetch_teacher
from dmd.teachers.teacher import load_teacher
from tests.helpers.networks import CPU


def test_a_teacher_folder_is_copied_without_change(
    teacher_folder: Path, data_folder: Path, params: Params, tmp_path: Path
) -> None:
    cfg = params.teacher.model_copy(update={"source": "folder", "folder": str(teacher_folder)})
    origin, _ = fetch_teacher(cfg, load_split(data_folder, "train"), tmp_path / "copy", CPU)
    assert origin == {"source": "folder"}
    a, b = load_teacher(teacher_folder, CPU), load_teacher(tmp_path / "copy", CPU)
    assert all(
        torch.equal(x, y)
        for x, y in zip(a.denoiser.state_dict().values(), b.denoiser.state_dict().values(), strict=True)
    )


def test_a_hub_id_without_network_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(TeacherError, match=r"hub_id 'owner/no-such-model' at 'main' could not be fetched") as e:
        download("owner/no-such-model", "main")
    assert "\n" not in str(e.value) and "source: folder" in str(e.value)


@pytest.mark.parametrize("hidden", [True, False])
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (GatedRepoError, "is gated: accept its terms at https://huggingface.co/owner/name"),
        (RepositoryNotFoundError, "does not exist, or is private"),
        (RevisionNotFoundError, "'v9' could not be fetched: there is no such revision"),
    ],
)
def test_an_answer_of_the_hub_becomes_an_error_that_explains_it(
    monkeypatch: pytest.MonkeyPatch, answer: type[HfHubHTTPError], message: str, hidden: bool
) -> None:
    """hidden: whether diffusers raises an error about its cache instead of the hub's error."""

    def refuse(*_: object, **__: object) -> str:
        error = answer("no", response=httpx.Response(403, request=httpx.Request("GET", "https://huggingface.co")))
        if hidden:
            raise OSError("not cached") from error
        raise error

    monkeypatch.setattr(diffusers.DiffusionPipeline, "download", refuse)
    with pytest.raises(TeacherError, match=message):
        download("owner/name", "v9")
