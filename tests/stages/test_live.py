"""Stage `train` hands its rows and pictures to the flow that follows it, which changes no byte of its outputs."""

import json
from pathlib import Path

import pandas as pd
import pytest

from dmd.progress import LIVE
from tests.helpers.params import set_params
from tests.helpers.stages import PATHS, arguments, stage

FEW = {
    "train.generator_turns": 6,
    "train.batch_size": 4,
    "train.generator_batch_size": 4,
    "train.validate_every": 3,
    "train.validation": {"images": 16, "draws": 2, "tolerance": 1.0},
    "train.warm_start": {"turns": 4, "batch_size": 4, "lr": 1e-3, "critic_turns": 2},
    "method.critic_turns": 1,
}


def train(out: Path) -> dict[str, bytes]:
    """Run the stage, and return the bytes of its outputs."""
    outs = ("--out", out / "generator", "--losses", out / "losses.csv", "--validation", out / "training")
    code, err = stage("train", *arguments(*PATHS), *outs)
    assert code == 0, err
    return {file.relative_to(out).as_posix(): file.read_bytes() for file in out.rglob("*") if file.is_file()}


@pytest.mark.slow
@pytest.mark.long
def test_a_training_that_is_followed_gives_the_same_bytes(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_params(inputs / "params.yaml", FEW)
    alone = train(inputs / "alone")
    (inputs / "file").write_text("")
    for folder in ("live", "file/below"):  # the second one cannot be written
        monkeypatch.setenv(LIVE, str(inputs / folder))
        assert train(inputs / f"followed-{Path(folder).name}") == alone

    rows = [json.loads(line) for line in (inputs / "live/train.jsonl").read_text().splitlines()]
    table = pd.read_csv(inputs / "alone/losses.csv")
    assert [row["step"] for row in rows] == table["turn"].tolist() == list(range(1, 11))
    numbers = table.drop(columns="turn").select_dtypes("number")
    for row, (_, wanted) in zip(rows, numbers.iterrows(), strict=True):
        assert row["numbers"] == wanted.dropna().to_dict()
    pictures = {file.name for file in (inputs / "live/pictures").iterdir()}
    assert pictures == {Path(name).name for name in alone if name.endswith(".png")} and len(pictures) == 4
