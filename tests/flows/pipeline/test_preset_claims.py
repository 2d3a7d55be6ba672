"""A preset has the lengths of the published training that it names, and lists where it differs from its scripts."""

import pytest

from flows.pipeline.presets import load_preset
from tests.helpers.projects import ROOT


@pytest.mark.parametrize(
    ("name", "without_gan", "with_gan"),
    [("imagenet64", 400_000, 150_000), ("sd15", 40_000, 5_000), ("sdxl", 0, 20_000)],
)
def test_phases_have_the_iterations_of_the_paper(name: str, without_gan: int, with_gan: int) -> None:
    """An iteration is a critic turn; in every critic_turns-th the generator takes one, too (DMD2, appendix)."""
    changes = {key: value for key, value in load_preset(ROOT, name).changes.items() if isinstance(value, int)}
    ratio, first = changes["method.critic_turns"], changes["method.gan.from_turn"]
    assert first * ratio == without_gan
    assert (changes["train.generator_turns"] - first) * ratio == with_gan


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("imagenet64", ("middle block", "encoder's last block", "the critic, where theirs has 71")),
        ("sd15", ("39,000 and 2,000", "the critic, where theirs has 8")),
        ("sdxl", ("LPIPS on decoded images", "trains all of its weights", "the critic, where theirs has 8")),
    ],
)
def test_differences_from_the_scripts_are_named(name: str, words: tuple[str, ...]) -> None:
    head = (ROOT / "experiments" / "presets" / f"{name}.yaml").read_text().partition("description:")[0]
    text = " ".join(head.replace("#", " ").split())
    assert "Differences from DMD2's scripts" in text
    assert [word for word in words if word not in text] == []
