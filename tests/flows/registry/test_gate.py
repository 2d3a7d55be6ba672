"""The gate's rule does not depend on the order of versions, and the registry keeps verdicts and history."""

import itertools
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient, MlflowException

from dmd.config import GateConfig
from dmd.errors import ConfigError, UserError
from evaluation.metrics.measures import list_compared
from flows.registry.champion import (
    BY_HAND,
    CHAMPION,
    FIGURES,
    HISTORY,
    VERDICT,
    WITHDRAWN,
    champion,
    promote,
    rollback,
    settle,
)
from flows.registry.gate import Contender, Figures, advantage, check_gate, choose, explain, missed_limit
from flows.registry.result import RESULT
from tests.helpers.registry.stores import copy_store
from tests.helpers.reports import generator_measures, run_metrics

GATE = GateConfig(measures=["fd", "recall"], margin=0.0, max_fd_ratio=1.25, min_recall_ratio=0.9)
NAME = "model"


def figures(fd: float, recall: float = 0.8, noise: float = 0.1, protocol: str = "p") -> Figures:
    measures = {"fd a": (fd, noise), "fd b": (10 * fd, noise), "recall a": (recall, 0.01), "precision a": (0.5, 0.0)}
    return Figures(measures, {"fd a": fd, "fd b": fd, "recall a": recall / 0.8}, protocol)


def contender(version: int, values: Figures) -> Contender:
    return Contender(str(version), f"{version:064d}", values)


def test_figures_are_read_from_the_metrics() -> None:
    student = generator_measures({"a": 2.0}, half=0.2, recall={"a": 0.6})
    teacher = generator_measures({"a": 1.8}, nfe=50, recall={"a": 0.75})
    metrics = run_metrics(student, {"a": 1.1}, teachers={"ddim_50": teacher})
    result = Figures.from_metrics(metrics)
    assert result.ratios == {"fd a": 1.1, "recall a": pytest.approx(0.8)}
    assert result.measures["fd a"] == (2.0, pytest.approx(0.2))
    assert result.measures["clip_score"] == (0.5, pytest.approx(0.2))
    assert set(result.measures) == {f"{m.name} a" if m.per_extractor else m.name for m in list_compared()}
    assert Figures.from_json(result.to_json()).protocol == result.protocol
    metrics.ratio.fd |= {"evaluator": 1.0}
    metrics.ratio.seen, metrics.ratio.selects = {"hps": "why"}, ["evaluator"]  # a judge of text to image, and CLIP
    marked = Figures.from_json(Figures.from_metrics(metrics).to_json())
    assert (marked.marked("hps"), marked.marked("fd a")) == ("hps (seen in training)", "fd a")
    assert marked.marked("clip_score") == "clip_score (selects)"
    metrics.provenance.reference_sha256 = "y"
    assert Figures.from_metrics(metrics).protocol != result.protocol


def test_a_gate_that_names_no_measure_is_one_line() -> None:
    check_gate(GATE)
    with pytest.raises(ConfigError, match=r"register\.gate\.measures: 'beauty' is no measure; use fd, kid, "):
        check_gate(GATE.model_copy(update={"measures": ["fd", "beauty"]}))


def test_a_more_negative_kernel_distance_is_no_advantage() -> None:
    """KID is unbiased, so that it may fall below zero; a generator cannot be better than zero."""
    gate = GATE.model_copy(update={"measures": ["kid"]})
    lowest, low, zero, high = (Figures({"kid a": (kid, 1.0)}, {}, "p") for kid in (-9.0, -5.0, 0.0, 5.0))
    assert not any(advantage(a, b, gate) for a, b in itertools.permutations((lowest, low, zero), 2))
    assert all(advantage(a, high, gate) and not advantage(high, a, gate) for a in (lowest, low, zero))


def test_only_a_difference_beyond_the_noise_counts() -> None:
    base = figures(1.0)
    assert advantage(figures(0.8), base, GATE) and not advantage(base, figures(0.8), GATE)
    assert not advantage(figures(0.99), base, GATE)  # the noise of the difference is sqrt(2) x 0.1
    assert not advantage(figures(0.8, recall=0.7), base, GATE), "better by one measure, worse by another"
    assert advantage(figures(0.8, recall=0.79), base, GATE), "worse within the noise"
    wide = GATE.model_copy(update={"margin": 0.5})
    assert not advantage(figures(0.8), base, wide) and advantage(figures(0.4), base, wide)
    assert not advantage(figures(1.0, recall=0.9), base, GATE.model_copy(update={"measures": ["fd"]}))


def test_a_difference_beyond_the_noise_and_within_the_margin_is_not_called_noise() -> None:
    better, base = contender(2, figures(0.8)), contender(1, figures(1.0))
    assert explain(contender(3, figures(0.99)), base, GATE).startswith(
        "within the noise of version 1, or better in one"
    )
    wide = GATE.model_copy(update={"margin": 0.5})
    assert explain(better, base, wide).startswith("within the noise or the margin of version 1, or better in one")


def test_a_verdict_says_what_the_ratio_is_and_when_versions_beat_each_other_in_a_circle() -> None:
    noise = {"fd a": 1.0, "fd b": 1.0, "fd c": 1.0}

    def placed(version: int, ratio: float, *values: float) -> Contender:
        measures = {key: (value, noise[key]) for key, value in zip(noise, values, strict=True)}
        return contender(version, Figures(measures, {"fd a": ratio, "fd b": ratio}, "p"))

    # Each is better than the next one in one measure, and worse within the noise in the others.
    a, b, c = placed(1, 0.7, 1, 2, 3), placed(2, 0.8, 3, 1, 2), placed(3, 0.9, 2, 3, 1)
    for better, worse in ((a, b), (b, c), (c, a)):
        assert advantage(better.figures, worse.figures, GATE) and not advantage(worse.figures, better.figures, GATE)
    assert choose([a, b, c], GATE) == a
    mean = "FD over the teacher's (geometric mean over 2 extractors) is"
    circle = f"champion: {mean} 0.700, the lowest of all: versions beat each other in a circle"
    assert explain(a, a, GATE, [a, b, c]) == circle
    assert explain(c, a, GATE, [a, b, c]).startswith("beats version 1, but versions beat each other in a circle: fd ")
    assert explain(c, a, GATE, [a, b, c]).endswith(f"; {mean} 0.900, the champion's is 0.700")
    assert explain(a, a, GATE, [a, b]) == f"champion: {mean} 0.700, and no version beats it"
    assert explain(b, a, GATE, [a, b]).startswith("beaten by version 1: fd a 1 against 3")


def test_a_missed_limit_is_named() -> None:
    assert missed_limit(figures(1.0), GATE) is None
    assert "max_fd_ratio is 1.25" in (missed_limit(figures(1.3), GATE) or "")
    assert "min_recall_ratio is 0.9" in (missed_limit(figures(1.0, recall=0.7), GATE) or "")


def test_marks_of_judges_stand_in_every_verdict() -> None:
    metrics = run_metrics(generator_measures({"a": 2.0, "b": 1.0}), {"a": 1.5, "b": 1.0})
    metrics.ratio.seen, metrics.ratio.selects = {"a": "why"}, ["a", "b"]
    marked = Figures.from_metrics(metrics)
    assert Figures.from_json(marked.to_json()).marks == marked.marks
    assert marked.marks == {"a": " (seen in training, selects)", "b": " (selects)"}
    assert missed_limit(marked, GATE) == (
        "fd a (seen in training, selects) is 1.500 times the teacher's; register.gate.max_fd_ratio is 1.25"
    )
    good = contender(1, replace(figures(1.0), marks={"b": " (selects)"}))
    assert "(marked judges: b (selects))" in explain(good, good, GATE)
    words = advantage(replace(figures(0.5), marks={"a": " (selects)"}), figures(1.0), GATE)
    assert words is not None and words.startswith("fd a (selects) 0.5 against 1")
    older = Figures.from_json('{"measures": {}, "ratios": {}, "judges": "p"}')
    assert older.marks == {}


def test_the_champion_does_not_depend_on_the_order() -> None:
    """The versions include ties, cycles and a version beyond the limits."""
    values = [
        figures(1.0),
        figures(0.99),
        figures(0.8, recall=0.75),
        figures(1.3),
        figures(0.99),
        figures(0.9, noise=0.5),
    ]
    field = [contender(i, f) for i, f in enumerate(values)]
    for n in (2, 3, 6):
        for some in itertools.combinations(field, n):
            chosen = [choose(order, GATE) for order in itertools.islice(itertools.permutations(some), 24)]
            assert len({one.version if one else None for one in chosen}) == 1
    assert choose([contender(3, figures(1.3))], GATE) is None


@pytest.fixture
def client(tmp_path: Path, empty_store: Path) -> Iterator[MlflowClient]:
    client = MlflowClient(f"sqlite:///{copy_store(empty_store, tmp_path / 'mlflow.db')}")
    client.create_registered_model(NAME)
    yield client


def register(client: MlflowClient, values: Figures) -> str:
    number = len(client.search_model_versions(f"name = '{NAME}'")) + 1
    tags = {RESULT: f"{number:064d}", FIGURES: values.to_json()}
    version = str(client.create_model_version(NAME, "somewhere", tags=tags).version)
    settle(client, NAME, GATE)
    return version


def verdict(client: MlflowClient, version: str) -> str:
    return client.get_model_version(NAME, version).tags[VERDICT]


def test_a_better_version_becomes_champion_and_each_version_has_a_verdict(client: MlflowClient) -> None:
    assert (register(client, figures(2.0)), champion(client, NAME)) == ("1", None)
    assert verdict(client, "1").startswith("refused: fd a is 2.000 times the teacher's")
    register(client, figures(1.0))
    assert champion(client, NAME) == "2" and verdict(client, "2").startswith("champion: ")
    register(client, figures(1.2))
    assert champion(client, NAME) == "2" and verdict(client, "3").startswith("beaten by version 2: fd a 1 against 1.2")
    register(client, figures(0.5))
    assert champion(client, NAME) == "4" and verdict(client, "2").startswith("beaten by version 4")
    register(client, figures(0.1, protocol="other"))
    assert champion(client, NAME) == "4" and verdict(client, "5").startswith(
        "not compared: evaluated with other extractors"
    )


def test_a_rollback_restores_the_predecessor_and_lasts(client: MlflowClient) -> None:
    register(client, figures(1.0))
    with pytest.raises(UserError, match="version 1 has no predecessor to restore"):
        rollback(client, NAME)
    register(client, figures(0.5))
    assert rollback(client, NAME) == ("2", "1") and champion(client, NAME) == "1"
    settle(client, NAME, GATE)  # a second registration of the same result does this too
    assert champion(client, NAME) == "1" and verdict(client, "2") == "withdrawn: rolled back to version 1"
    with pytest.raises(UserError, match="no predecessor"):
        rollback(client, NAME)
    register(client, figures(0.4))
    assert champion(client, NAME) == "3"
    assert client.get_registered_model(NAME).tags[HISTORY] == "1"


def test_a_rollback_keeps_every_champion_before(client: MlflowClient) -> None:
    """Version 1 was champion twice, with version 2 in between."""
    for values in (figures(0.5), figures(1.0), figures(1.1)):
        register(client, values)
    for version in ("2", "1", "3"):
        promote(client, NAME, version, GATE)
    assert client.get_registered_model(NAME).tags[HISTORY] == "1,2,1"
    assert rollback(client, NAME) == ("3", "1") and client.get_registered_model(NAME).tags[HISTORY] == "1,2"
    assert rollback(client, NAME) == ("1", "2")


def test_a_promotion_by_hand_lasts_until_auto(client: MlflowClient) -> None:
    register(client, figures(0.5))
    register(client, figures(1.0))
    assert (
        promote(client, NAME, "2", GATE) == champion(client, NAME) == "2"
        and verdict(client, "2") == "champion: by hand"
    )
    register(client, figures(0.1))
    assert champion(client, NAME) == "2" and verdict(client, "3") == "not compared: version 2 is champion by hand"
    assert promote(client, NAME, "auto", GATE) == champion(client, NAME) == "3"
    assert BY_HAND not in client.get_registered_model(NAME).tags
    rollback(client, NAME)
    promote(client, NAME, "3", GATE)
    assert WITHDRAWN not in client.get_model_version(NAME, "3").tags
    with pytest.raises(UserError, match="has no version 9; it has 1, 2, 3"):
        promote(client, NAME, "9", GATE)


def test_versions_that_were_deleted_are_passed_by(client: MlflowClient) -> None:
    for values in (figures(1.0), figures(0.8), figures(0.6), figures(0.4)):
        register(client, values)
    assert client.get_registered_model(NAME).tags[HISTORY] == "1,2,3"
    client.delete_model_version(NAME, "3")
    assert rollback(client, NAME) == ("4", "2")
    promote(client, NAME, "1", GATE)
    client.delete_model_version(NAME, "1")
    assert champion(client, NAME) is None
    settle(client, NAME, GATE)
    assert champion(client, NAME) == "2" and BY_HAND not in client.get_registered_model(NAME).tags


def test_a_champion_that_misses_new_limits_loses_the_alias(client: MlflowClient) -> None:
    register(client, figures(1.0))
    settle(client, NAME, GATE.model_copy(update={"max_fd_ratio": 0.9}))
    assert champion(client, NAME) is None and verdict(client, "1").startswith("refused: fd a is 1.000")
    assert client.get_registered_model(NAME).tags[HISTORY] == "1"  # so that `clean` keeps it
    register(client, figures(0.5, protocol="other"))
    settle(client, NAME, GATE.model_copy(update={"max_fd_ratio": 0.9}))
    assert champion(client, NAME) is None and verdict(client, "2").startswith("not compared: evaluated with other")
    settle(client, NAME, GATE)
    assert champion(client, NAME) == "1"
    promote(client, NAME, "1", strict := GATE.model_copy(update={"max_fd_ratio": 0.9}))
    settle(client, NAME, strict)
    assert champion(client, NAME) == "1" and verdict(client, "1") == "champion: by hand"


def _register_elsewhere(uri: str, fd: float) -> None:
    register(MlflowClient(uri), figures(fd))


def test_an_alias_that_another_process_creates_first_is_set_again(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(client, figures(0.5))
    client.delete_registered_model_alias(NAME, CHAMPION)
    set_alias, attempts = MlflowClient.set_registered_model_alias, []

    def fail_once(self: MlflowClient, *args: str) -> None:
        attempts.append(args)
        if len(attempts) == 1:
            raise MlflowException("(sqlite3.IntegrityError) UNIQUE constraint failed: registered_model_aliases.name")
        set_alias(self, *args)

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", fail_once)
    settle(client, NAME, GATE)
    assert champion(client, NAME) == "1" and len(attempts) == 2


def test_two_registrations_at_the_same_moment_give_one_champion(client: MlflowClient) -> None:
    """In each of three rounds, two processes without a common lock register, and the better version wins."""
    uri = client.tracking_uri
    with ProcessPoolExecutor(2) as pool:
        for pair in ((1.0, 0.9), (0.7, 0.8), (0.5, 0.6)):
            list(pool.map(_register_elsewhere, [uri, uri], pair))
            figures_of_champion = client.get_model_version(NAME, champion(client, NAME) or "").tags[FIGURES]
            assert Figures.from_json(figures_of_champion).measures["fd a"][0] == min(pair)
