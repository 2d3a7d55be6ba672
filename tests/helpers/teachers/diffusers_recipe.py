"""Train a teacher with diffusers alone: `python tests/helpers/teachers/diffusers_recipe.py OUT`.

The recipe is that of train_unconditional.py in diffusers' examples, on scikit-learn's digits: DDPM with the linear
schedule, eps-prediction, AdamW, cosine decay and EMAModel, saved by DDPMPipeline. The script imports nothing of the
project.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from sklearn.datasets import load_digits


def train(out: Path, steps: int, channels: tuple[int, ...] = (32, 64), batch_size: int = 64, lr: float = 5e-4) -> float:
    """Train a DDPMPipeline, save it in `out`, and return the last loss."""
    torch.manual_seed(0)
    images = torch.from_numpy(load_digits().images).float()[:, None] / 8 - 1  # type: ignore[attr-defined]
    net = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=2, block_out_channels=channels,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    )  # fmt: skip
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear", prediction_type="epsilon")
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    rates = get_scheduler("cosine", optimizer, num_warmup_steps=min(500, steps // 4), num_training_steps=steps)
    ema = EMAModel(net.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    loss = torch.zeros(())
    for _ in range(steps):
        x0 = images[torch.randint(len(images), (batch_size,))]
        eps, t = torch.randn(x0.shape), torch.randint(1000, (batch_size,))
        loss = F.mse_loss(net(scheduler.add_noise(x0, eps, t), t).sample, eps)  # type: ignore[arg-type]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        rates.step()
        optimizer.zero_grad()
        ema.step(net.parameters())
    ema.copy_to(net.parameters())
    DDPMPipeline(unet=net, scheduler=scheduler).save_pretrained(out)
    return loss.item()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=3000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"loss {train(args.out, args.steps):.4f}")
