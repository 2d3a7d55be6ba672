"""Baseline: reference statistics and the teacher's measures at each number of steps, shared by all ablations."""

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from dmd.config import EVERYWHERE, BaselineConfig, Precision
from dmd.samplers.sampler import Sampler
from dmd.training.shared_work import ALONE, SharedWork
from evaluation.evaluator.evaluator import Evaluator
from evaluation.evaluator.reference import EvaluationData, build_reference
from evaluation.evaluator.reuse import find_reusable
from evaluation.features.extractors import Extractors
from evaluation.features.store import FeatureStore
from evaluation.metrics.reference import hash_tensors
from evaluation.metrics.schema import INDEPENDENT_PAIRS, Baseline, Provenance, RealMeasures, write_model


@dataclass(frozen=True)
class TeacherIdentity:
    """Everything that the images of a teacher's sampler depend on, apart from the sampler and its noise."""

    sha256: str  # hash of the teacher's folder
    guidance_scale: float
    guidance_interval: tuple[float, float] = EVERYWHERE
    guidance_rescale: float = 0.0
    precision: Precision = "fp32"  # of its weights


def list_samplers(cfg: BaselineConfig) -> list[str]:
    """Names of the teacher's samplers that the params ask for."""
    return [*(f"ddim_{n}" for n in cfg.ddim_steps), *(f"heun_{n}" for n in cfg.heun_steps)]


def build_baseline(
    cfg: BaselineConfig,
    samplers: list[Sampler],
    teacher: TeacherIdentity,
    data: EvaluationData,
    extractors: Extractors,
    device: str,
    folder: Path,
    work: SharedWork = ALONE,
) -> Baseline:
    """Write the reference, the measures of the teacher's samplers and their pictures; return the measures."""
    # Without real images, the reference is images of the teacher's sampler with the most network passes.
    substitute = None if data.train.has_images else max(samplers, key=lambda sampler: sampler.nfe)
    store = FeatureStore.default(extractors.identities)
    reference = build_reference(cfg, data, extractors.networks, substitute, store, device, work)
    reference.save(folder)
    provenance = Provenance(
        reference_sha256=data.real_sha256 if substitute is None else hash_tensors(reference.features),
        reference_images=len(reference.real_labels),
        held_out_sha256=data.test_sha256,
        conditions_sha256=hash_conditions(reference.labels, reference.captions),
        teacher_sha256=teacher.sha256,
        guidance_scale=teacher.guidance_scale,
        guidance_interval=teacher.guidance_interval,
        guidance_rescale=teacher.guidance_rescale,
        teacher_precision=teacher.precision,
        neighbours=cfg.neighbours,
        kernel_pairs=INDEPENDENT_PAIRS,
        made_by=substitute and substitute.name,
        extractors=extractors.describe(reference.features),
        judges={name: loaded.facts for name, loaded in extractors.judges.items()},
        skipped=extractors.skipped,
    )
    evaluator = Evaluator(extractors, reference, store, work)
    held_out = data.held_out_prompts(reference.labels) if substitute else data.test
    real = evaluator.evaluate_real(held_out, cfg.batch_size)
    baseline = evaluate_teacher(cfg, evaluator, samplers, provenance, real)
    write_model(baseline, folder / "baseline.json")
    pictures = {s.name: evaluator.generate_pictures(s, cfg.batch_size) for s in samplers}
    save_file(pictures, folder / "pictures.safetensors")
    return baseline


def evaluate_teacher(
    cfg: BaselineConfig, evaluator: Evaluator, samplers: list[Sampler], provenance: Provenance, real: RealMeasures
) -> Baseline:
    """Evaluate the teacher's samplers, except those whose measures an earlier run provides."""
    names = [sampler.name for sampler in samplers]
    reusable = find_reusable(cfg, names, provenance)
    if reusable.differences:
        print(
            f"baseline: {cfg.measured} has other settings ({reusable.differences}): the teacher is evaluated again",
            file=sys.stderr,
            flush=True,
        )
    results = dict(reusable.teachers)
    source = f"{provenance.teacher_sha256} guidance {provenance.guidance_scale}"
    if provenance.guidance_interval != EVERYWHERE:
        source += f" from {provenance.guidance_interval[0]} to {provenance.guidance_interval[1]}"
    if provenance.guidance_rescale:
        source += f" rescaled by {provenance.guidance_rescale}"
    if provenance.teacher_precision != "fp32":
        source += f" in {provenance.teacher_precision}"
    for sampler in samplers:
        if sampler.name not in results:
            measures, scores = evaluator.evaluate(sampler, cfg.seed, cfg.batch_size, source)
            results[sampler.name] = measures, {k: [s.values("fd")[k] for s in scores] for k in measures.values("fd")}
    teachers = {name: results[name][0] for name in names}
    return Baseline(
        teachers=teachers,
        real=real,
        best_teacher={k: min(teachers, key=lambda name: teachers[name].values("fd")[k]) for k in provenance.extractors},
        provenance=provenance,
        fd_replicates={name: results[name][1] for name in names},
        taken_over=[name for name in names if name in reusable.teachers],
    )


def describe_baseline(baseline: Baseline, measured: str) -> str:
    """One line with the best sampler by each extractor, the source of reused measures, and missing extractors."""
    best = [
        f"best by {k}: {name}, FD {baseline.teachers[name].values('fd')[k]:.3f}"
        for k, name in baseline.best_teacher.items()
    ]
    reused = [f"reused from {measured}: {', '.join(baseline.taken_over)}"] if baseline.taken_over else []
    skipped = [f"{k} left out: {reason}" for k, reason in baseline.provenance.skipped.items()]
    return "; ".join([*best, *reused, *skipped])


def hash_conditions(labels: Tensor, captions: list[str]) -> str:
    """sha256 of the conditions of images: labels [N], and the caption of each label."""
    return hashlib.sha256(json.dumps([labels.tolist(), captions]).encode()).hexdigest()
