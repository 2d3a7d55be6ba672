"""Networks that train with a teacher: the VAE, the text encoder and the label embedding of a transformer."""

import torch

from dmd.config import Params
from dmd.diffusion.denoiser import as_denoiser
from dmd.storage.checkpoint import Scratch
from dmd.teacher_training.architectures import new_network, new_scheduler
from dmd.teacher_training.vae import train_vae
from tests.helpers.teachers.latent_teachers import digits, tiny_params


def test_diffusers_own_label_dropout_is_off(params: Params) -> None:
    """diffusers would draw from the global random generator; the trainer drops labels itself."""
    torch.manual_seed(0)
    net, _ = new_network(tiny_params(params, "dit").teacher, digits())
    denoiser = as_denoiser(net, new_scheduler(params.teacher))
    z, t, y = torch.randn(40, 4, 4, 4), torch.full((40,), 300), torch.arange(40) % 10
    assert all(torch.equal(denoiser(z, t, y), denoiser(z, t, y)) for _ in range(3))


def test_a_vae_learns_to_reconstruct(params: Params, scratch: Scratch) -> None:
    cfg = tiny_params(params, "dit").teacher
    cfg = cfg.model_copy(update={"vae": cfg.vae.model_copy(update={"steps": 60}), "batch_size": 20, "warmup_steps": 5})
    torch.manual_seed(0)
    _, parts = new_network(cfg, digits())
    x = torch.linspace(-1, 1, 8).expand(20, 1, 8, 8).clone()  # the same ramp in every image
    before = (parts.vae.decode(parts.vae.encode(x).latent_dist.mode()).sample - x).square().mean()
    train_vae(parts.vae, cfg, x, scratch)
    after = (parts.vae.decode(parts.vae.encode(x).latent_dist.mode()).sample - x).square().mean()
    assert after < 0.2 * before


def test_the_text_encoder_trains_with_the_network(params: Params) -> None:
    torch.manual_seed(0)
    net, _ = new_network(tiny_params(params, "text_unet").teacher, digits())
    denoiser = as_denoiser(net, new_scheduler(params.teacher))
    denoiser.predict(torch.randn(2, 4, 4, 4), torch.tensor([10, 700]), torch.tensor([1, 10])).sum().backward()
    assert all(p.grad is not None for p in net.text_encoder.parameters())
