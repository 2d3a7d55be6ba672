"""One pass of the critic serves two losses, and one batch of images two turns; both are off by default."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import sharing
from benchmarks.block import Size
from dmd.config import ConfigError, Params, validate
from dmd.diffusion.denoiser import as_denoiser
from dmd.distillation.gan.activations import Recorder, activations
from dmd.distillation.gan.losses import GAN_LOSSES
from dmd.distillation.losses import denoising_loss
from dmd.distillation.methods import check_method
from dmd.distillation.methods.dmd import DMD
from dmd.distillation.state import TrainState
from dmd.distillation.trainer import train
from dmd.networks.dit import DitWrapper
from dmd.training.random_source import RandomSource
from tests.helpers.networks import scheduler, unet_denoiser
from tests.helpers.params import with_values
from tests.helpers.sources import split
from tests.helpers.teachers.hub_folders import transformer
from tests.helpers.training import alone, batch, draws, gan_method, gan_networks, short_training


@pytest.mark.parametrize("which", ["innermost", "encoder"])
@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_a_recorder_gives_the_prediction_and_the_activations_of_two_passes(kind: str, which: str) -> None:
    denoiser = unet_denoiser(3) if kind == "unet" else as_denoiser(DitWrapper(transformer()), scheduler())
    x_t = torch.randn(4, 1, 8, 8) if kind == "unet" else torch.randn(4, 4, 4, 4)
    t, y = torch.tensor([0, 10, 500, 999]), torch.tensor([0, 1, 2, 3])
    recorder = Recorder(denoiser, which)
    for _ in range(2):  # a second pass keeps its own activations alone
        torch.testing.assert_close(recorder(x_t, t, y), denoiser(x_t, t, y), rtol=0, atol=1e-6)
        for ours, alone_ in zip(recorder.activations, activations(denoiser, x_t, t, y, which), strict=True):
            torch.testing.assert_close(ours, alone_, rtol=0, atol=1e-6)


def test_the_critics_loss_with_a_shared_pass_is_that_of_two_passes_at_one_noise(params: Params) -> None:
    """Both ways give one value, and one gradient for the critic and its heads."""
    gan = {"weight": 0.1, "critic_weight": 0.1, "shared_pass": True, "trunks": ["critic:encoder"]}
    m: Any = gan_method(params, gan=gan)
    nets = gan_networks(m)
    z, y = batch()
    losses = m.adversarial_loss("critic", nets, z, y, draws(turn="critic"))
    learner = nets.trained_in("critic")
    ours = torch.autograd.grad(losses["total"], list(learner.parameters()), allow_unused=True)

    rng = draws(turn="critic")
    x = m.generate("critic", nets, z, y, rng)
    t = rng.integers(0, 1000)
    x_t = nets.critic.process.add_noise(x, rng.noise_like(x), t)
    denoising = denoising_loss(nets.critic(x_t, t, y), x, nets.critic.loss_weight(t))
    data, labels = m.data.draw(rng, x)
    data_logits = m.logits(nets, *m.add_noise(nets, data, rng), labels)
    adversarial = GAN_LOSSES["logistic"].discriminator(data_logits, m.logits(nets, x_t, t, y))
    total = denoising + 0.1 * adversarial
    theirs = torch.autograd.grad(total, list(learner.parameters()), allow_unused=True)
    assert losses["total"].item() == pytest.approx(total.item(), rel=1e-5)
    assert sum(g is not None for g in ours) > 10
    for a, b in zip(ours, theirs, strict=True):
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        assert (a is None) == (b is None)


@pytest.mark.parametrize("name", ["dmd", "dmd2"])
def test_a_critic_turn_takes_the_images_of_the_generator_turn_of_its_step(
    params: Params, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    made: list[tuple[str, Tensor]] = []
    seen: list[Tensor] = []
    generate, critic_loss = DMD.generate, DMD.critic_loss

    def watched(m: DMD, network: str, *more: Any) -> Tensor:
        x = generate(m, network, *more)
        made.append((network, x.detach().clone()))
        return x

    def seeing(m: DMD, nets: Any, x: Tensor, *more: Any) -> Any:
        seen.append(x.clone())
        return critic_loss(m, nets, x, *more)

    monkeypatch.setattr(DMD, "generate", watched)
    monkeypatch.setattr(DMD, "critic_loss", seeing)
    m = gan_method(params, name, critic_turns=3, reuse_images=True)
    nets = gan_networks(m)
    cfg = short_training(params, generator_turns=2)
    assert m.phases(cfg)[-1].turns[0].network == "generator"
    rows = list(train(TrainState(nets, cfg), m, cfg, (1, 8, 8), split().labels, alone()))
    assert [network for network, _ in made] == ["critic", "critic", "generator"] * 2
    for block in range(2):
        assert torch.equal(seen[3 * block + 2], made[3 * block + 2][1])
    assert m.kept == {} and {"critic_denoising", "generator_dm"} <= rows[-1].keys()  # type: ignore[attr-defined]


def test_images_that_no_critic_turn_takes_are_not_kept(params: Params) -> None:
    """A step keeps those of all its parts, and drops those of earlier steps."""
    m: Any = gan_method(params, "dmd", reuse_images=True)
    nets, (z, y) = gan_networks(m), batch()
    for step in range(3):
        for samples in (range(6), range(6, 12)):
            m.draw_images("generator", nets, z, y, RandomSource(0, step, "generator", samples))
    assert list(m.kept) == [(2, range(6)), (2, range(6, 12))]


def test_the_batch_of_a_second_method_must_fit_reused_images(params: Params) -> None:
    values = params.model_dump(by_alias=True)
    values["method"] |= {"reuse_images": True}
    values["method"]["then"] |= {"name": "dmd2", "generator_batch_size": 32}
    values["train"] |= {"batch_size": 64, "generator_batch_size": 64}
    words = r"reuse_images: train.batch_size 64 and then.generator_batch_size 32 differ; make them equal, or set"
    with pytest.raises(ConfigError, match=words):
        validate(values, "params.yaml")
    for then in ({"generator_batch_size": 64}, {"generator_batch_size": "same"}, {"name": "gdd"}, {"name": "none"}):
        changed = {**values, "method": {**values["method"], "then": {**values["method"]["then"], **then}}}
        validate(changed, "params.yaml")


def test_options_that_do_not_fit_are_refused(params: Params) -> None:
    values = params.model_dump(by_alias=True)
    values["method"]["reuse_images"] = True
    with pytest.raises(ConfigError, match=r"reuse_images: train.batch_size 64 and generator_batch_size 192 differ"):
        validate(values, "params.yaml")
    values["method"]["reuse_images"] = False
    values["method"]["gan"] |= {"shared_pass": True, "t_max": 0.5}
    with pytest.raises(ConfigError, match=r"shared_pass: the critic denoises at every noise level"):
        validate(values, "params.yaml")


@pytest.mark.parametrize("name", ["dmd2", "f_distill"])
@pytest.mark.parametrize("changes", [{"t_shift": 3.0}, {"condition_dropout": 0.1}])
def test_a_shared_pass_does_not_show_heads_other_times_or_labels_than_those_of_data(
    params: Params, name: str, changes: dict[str, float]
) -> None:
    gan = params.method.gan.model_copy(update={"shared_pass": True, "trunks": ["critic"]})
    check_method(with_values(params, method={"name": name, "gan": gan}))
    with pytest.raises(ConfigError) as error:
        check_method(with_values(params, method={"name": name, "gan": gan, **changes}))
    assert str(error.value).startswith("method.gan.shared_pass: t_shift ") and "\n" not in str(error.value)


@pytest.mark.slow
def test_the_benchmark_of_sharing_writes_its_ratios(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(sharing, "SIZES", {"tiny": Size(8, (8, 8), 4, critic_turns=2)})
    out = tmp_path / "sharing.json"
    monkeypatch.setattr("sys.argv", ["sharing", "--repeats", "2", "--out", str(out)])
    sharing.main()
    assert json.loads(out.read_text())["tiny"].keys() == {"shared_pass", "reuse_images", "both"}
