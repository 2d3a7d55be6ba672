"""Memory of one process of the stages that run frozen networks: encode, baseline, pairs and evaluate.

It is counted on the networks themselves, on the meta device, as that of stage `train` is.
"""

from collections.abc import Mapping, Sequence

from torch import nn

from dmd.codecs.latents import Latents
from dmd.config import Params, Precision
from dmd.families.transformers.base import TextTransformer
from dmd.networks.wrapper import unwrap
from dmd.teachers.teacher import Teacher
from flows.plan.activations import saved_in_a_block
from flows.plan.memory import FLOAT, HALF, count_bytes, halved_bytes
from flows.plan.passes import passes_per_prediction

ENCODE = "encode"


def sampling_memory(teacher: Teacher, encoders: Sequence[nn.Module], params: Params) -> dict[str, dict[str, int]]:
    """Bytes of each kind of content, by stage. Teacher and text encoders are on the meta device.

    The activations are those that a pass through the largest block would save for a backward pass: what the block holds
    at once is at most that, apart from buffers of single operations.
    """
    block = saved_in_a_block(teacher.denoiser.copy(), teacher.shape, teacher.conditions)
    vae = {"VAE": count_bytes(teacher.codec)} if isinstance(teacher.codec, Latents) else {}
    both, cfg = _passes_at_once(teacher, params), params.evaluate
    images = both * params.pairs.batch_size if params.pairs.count else 0

    def sample(images: int, precision: Precision) -> dict[str, int]:
        size = images * block
        return {"teacher": _network(teacher, precision), **vae, "activations": _in_precision(size, precision)}

    evaluate = sample(max(cfg.batch_size, both * min(cfg.timing_batch, cfg.batch_size)), cfg.precision)
    return {
        ENCODE: _encoders(teacher, encoders, params),
        "baseline": sample(both * params.baseline.batch_size, params.baseline.precision),
        "pairs": sample(images, params.pairs.precision),
        "evaluate": {"teacher": evaluate["teacher"], "student": evaluate["teacher"]}
        | ({"two VAEs": 2 * vae["VAE"]} if vae else {})
        | {"activations": evaluate["activations"]},
    }


def total_bytes(stage: str, sizes: Mapping[str, int]) -> int:
    """Bytes of all contents; of the largest one for stage `encode`, which has VAE and text encoders in turn."""
    return max(sizes.values(), default=0) if stage == ENCODE else sum(sizes.values())


def _passes_at_once(teacher: Teacher, params: Params) -> int:
    """Images that a prediction for one image passes through the teacher at once: two with guidance."""
    net = teacher.denoiser.net
    if isinstance(net, TextTransformer) and net.family.embeds_guidance and unwrap(net).config["guidance_embeds"]:
        return 1
    return passes_per_prediction(params)


def _network(teacher: Teacher, precision: Precision) -> int:
    """Bytes of the diffusion network."""
    whole = count_bytes(teacher.denoiser)
    return whole - halved_bytes(teacher.denoiser) if precision == "bf16" else whole


def _in_precision(size: int, precision: Precision) -> int:
    """Bytes of contents that take `size` bytes in float32."""
    return size * HALF // FLOAT if precision == "bf16" else size


def _encoders(teacher: Teacher, encoders: Sequence[nn.Module], params: Params) -> dict[str, int]:
    """Bytes of VAE and text encoders in stage `encode`, which runs them in bf16 if that is the stored type."""
    halves, sizes = params.encode.precision == "bf16", dict[str, int]()
    if isinstance(teacher.codec, Latents):
        sizes["VAE"] = count_bytes(teacher.codec) - (halved_bytes(teacher.codec) if halves else 0)
    if encoders:
        whole = sum(count_bytes(encoder) for encoder in encoders)
        sizes["text encoders"] = _in_precision(whole, "bf16" if halves else "fp32")
    return sizes
