"""Old versions of the registered model go; champions, aliases and results of a dvc.lock stay."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow import MlflowClient

from flows.cleaning.versions import find_old_candidates, find_tags
from flows.registry.champion import WITHDRAWN
from flows.registry.store import open_store
from tests.helpers.registry.stores import copy_store

MODEL = "many-versions"


def new_version(client: MlflowClient, experiment: str, lock: str) -> str:
    """A version with files, made without loading a network."""
    model = client.create_logged_model(experiment_id=experiment, name="generator")
    files = Path(model.artifact_location.removeprefix("file://"))
    files.mkdir(parents=True)
    (files / "weights").write_text("1234")
    tags = {"git.sha": f"commit {lock}", "dvc.lock.sha256": lock, "dvc.data.md5": "d.dir"}
    return str(client.create_model_version(MODEL, model.artifact_location, tags=tags, model_id=model.model_id).version)


@pytest.fixture
def client(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{copy_store(empty_store, tmp_path / 'mlflow.db')}")
    with open_store(tmp_path) as client:
        pass
    return client


def test_old_candidates_are_found_and_what_is_named_stays(client: MlflowClient, tmp_path: Path) -> None:
    experiment = client.create_experiment("e", artifact_location=(tmp_path / "artifacts").as_uri())
    assert list(find_old_candidates(client, MODEL, 3, set())) == []
    client.create_registered_model(MODEL)
    for number in range(1, 11):
        assert new_version(client, experiment, f"lock {number}") == str(number)
    client.set_registered_model_alias(MODEL, "champion", "5")
    client.set_registered_model_alias(MODEL, "mine", "2")
    client.set_registered_model_tag(MODEL, "champion.history", "1,3")
    client.set_model_version_tag(MODEL, "4", WITHDRAWN, "rolled back")
    items = list(find_old_candidates(client, MODEL, 3, {"lock 6"}))
    assert [item.name for item in items] == [f"{MODEL} version 7"]
    assert all(item.size == 4 for item in items)
    folders = list((tmp_path / "artifacts").rglob("weights"))
    for item in items:
        item.remove()
    assert len(folders) - len(list((tmp_path / "artifacts").rglob("weights"))) == 1
    left = {int(v.version) for v in client.search_model_versions(f"name = '{MODEL}'")}
    assert left == {1, 2, 3, 4, 5, 6, 8, 9, 10}
    commits, data = find_tags(client, MODEL)
    assert commits == {f"commit lock {n}" for n in left} and data == {"d.dir"}


@pytest.mark.parametrize("place", ["mine", "mine/{model}/../precious", "mine/not-{model}"])
def test_only_a_folder_of_the_models_own_is_removed(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """The address stands in a store that others may write to; it could be any folder of the user."""
    experiment = client.create_experiment("e", artifact_location=(tmp_path / "artifacts").as_uri())
    client.create_registered_model(MODEL)
    for number in range(2):
        new_version(client, experiment, f"lock {number}")
    (item,) = find_old_candidates(client, MODEL, 1, set())
    name = client.search_logged_models([experiment])[-1].model_id
    folder = tmp_path / place.format(model=name)
    for path in (tmp_path / "mine", tmp_path / "mine" / name, tmp_path / "mine/precious", folder):
        path.mkdir(parents=True, exist_ok=True)
        (path / "file").touch()
    monkeypatch.setattr(
        MlflowClient, "get_logged_model", lambda *_: SimpleNamespace(artifact_location=folder.as_posix())
    )
    item.remove()
    assert len(list((tmp_path / "mine").rglob("file"))) >= 3 and (folder / "file").exists()
