"""Headline cards of the report."""

from evaluation.metrics.measures import MEASURES
from evaluation.metrics.schema import Metrics
from evaluation.models.names import EVALUATOR
from evaluation.report.html import Card
from evaluation.report.table import list_extractors, sampler_title
from evaluation.timing.schema import Timing

TIMES = "\N{MULTIPLICATION SIGN}"
MEMORISED = 0.1  # the card warns if a larger share of images is suspiciously near


def build_cards(metrics: Metrics, timing: Timing | None) -> list[Card]:
    """The cards for which the metrics and the timing have figures."""
    ratios = [ratio_card(metrics, extractor) for extractor in list_extractors(metrics)]
    speed = timing and speed_card(metrics, timing)
    others = (unseen_card(metrics), cost_card(metrics), speed, clip_card(metrics), memory_card(metrics))
    return [*ratios, *(card for card in others if card)]


def ratio_card(metrics: Metrics, extractor: str) -> Card:
    """FD of the student over the best teacher's; better or worse only if the interval of the ratio excludes 1."""
    best = metrics.best_teacher[extractor]
    ratio, interval = metrics.ratio.fd[extractor], metrics.ratio.interval[extractor]
    student, teacher = (m.values("fd")[extractor] for m in (metrics.student, metrics.teachers[best]))
    if interval.low <= 1 <= interval.high:
        tone, text = "even", "No significant difference: the interval contains 1."
    elif ratio < 1:
        tone, text = "good", f"The student is closer to the real images by {_percent(1 - ratio, 0)}."
    else:
        tone, text = "bad", f"The student is farther from the real images by {_percent(ratio - 1, 0)}."
    text += _describe_marks(metrics, extractor)
    if metrics.provenance.made_by:
        text += " The reference is the teacher's own images, so that the teacher's distance is the bias of few images "
        text += "alone, and the ratio grows with baseline.samples."
    text += f" 95 % interval {interval.low:.2f} to {interval.high:.2f}."
    text += f" Fréchet distance {student:.3g}, the teacher's {teacher:.3g} at {metrics.teachers[best].nfe} passes."
    return Card(f"{ratio:.2f}", f"of the best teacher's distance, {extractor} features", text, tone)


def unseen_card(metrics: Metrics) -> Card | None:
    """Mean ratio by the extractors without a mark; None if no extractor is marked, since each has a card of its own."""
    ratio = metrics.ratio
    if not (ratio.seen or ratio.selects):
        return None
    label = "of the best teacher's distance, mean over extractors without a mark"
    if ratio.unseen is None:
        return Card("none", label, "Training has seen every extractor, or picks the generator by it.", "even")
    names = ", ".join(k for k in ratio.fd if not ratio.mark(k))
    return Card(f"{ratio.unseen:.2f}", label, f"By {names}, which had no part in training or selection.", "even")


def cost_card(metrics: Metrics) -> Card | None:
    """Cost of the generator's training; None for a result of an earlier version."""
    if metrics.training is None:
        return None
    others = ", ".join(f"{network} {count:,}" for network, count in metrics.training.images_of.items())
    text = f"In {metrics.training.turns:,} turns of the generator." + (f" Images of {others}." if others else "")
    return Card(f"{metrics.training.images:,}", "images that the generator made in training", text, "even")


def speed_card(metrics: Metrics, timing: Timing) -> Card | None:
    """Speed of the student over that of the teacher's best sampler."""
    speedup = timing.speedup
    best = [name for name in metrics.best_teacher.values() if name in speedup]
    if not best:
        return None
    slowest_last = sorted(speedup, key=speedup.__getitem__)
    others = ", ".join(f"{sampler_title(name)}: {speedup[name]:.0f} {TIMES}" for name in slowest_last)
    text = f"{timing.student.seconds_per_image * 1000:.3g} ms per image in batches of {timing.batch_size}; at most "
    text += f"{timing.images_per_second:,.0f} images per second, in batches of {timing.best_batch}. "
    text += f"Against each sampler: {others}."
    tone = "good" if speedup[best[0]] > 1 else "bad"
    return Card(f"{speedup[best[0]]:.0f} {TIMES}", f"as fast as the best teacher, {sampler_title(best[0])}", text, tone)


def clip_card(metrics: Metrics) -> Card | None:
    """CLIP score of the student over that of real images; None without conditions."""
    student, real = (m.values("clip_score").get("") for m in (metrics.student, metrics.real))
    if student is None or real is None:
        return None
    text = f"CLIP score {student:.2f}; real held-out images have {real:.2f}."
    text += _describe_marks(metrics, MEASURES["clip_score"].judge)
    return Card(_percent(student / real if real > 0 else 0.0), "of the CLIP score of real images", text, "even")


def memory_card(metrics: Metrics) -> Card:
    """Distance of the student's images to the nearest training image, over that of held-out images."""
    nearest = metrics.student.nearest[EVALUATOR]
    label = "of held-out images' distance to the nearest training image"
    tone = "bad" if nearest.closer > MEMORISED else "even"
    if nearest.held_out == 0:
        text = "All held-out images are copies of training images, so that they tell nothing of new images; "
        text += f"{_percent(nearest.closer)} of the student's images are copies, too."
        return Card("none", label, text, tone)
    text = (
        f"{_percent(nearest.closer)} of the student's images are nearer to a training image than 1 % of the held-out "
        f"images are; the median distance is {nearest.median:.3g}, that of held-out images {nearest.held_out:.3g}."
    )
    return Card(f"{nearest.median / nearest.held_out:.2f}", label, text, tone)


def _describe_marks(metrics: Metrics, judge: str) -> str:
    """A sentence for each mark of an extractor, each after a space."""
    reason = metrics.ratio.seen.get(judge)
    seen = f" Seen in training: {reason}." if reason else ""
    return (
        f"{seen} Selects: this extractor picks the generator while training."
        if judge in metrics.ratio.selects
        else seen
    )


def _percent(share: float, decimals: int = 1) -> str:
    return f"{share:.{decimals}%}".replace("%", " %")
