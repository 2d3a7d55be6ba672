"""Bugs of the algorithm, and the tests that must find them.

Each bug could come from a careless edit: the code still runs and still generates images.
"""

from tests.planted.bug import Bug

FOLDERS = ("distillation", "diffusion", "families", "samplers", "training", "teacher_training")  # of tests/dmd
SUITE = tuple(f"tests/dmd/{name}" for name in FOLDERS)

BUGS = (
    Bug(
        "losses: the gradient of KL with its sign turned",
        "dmd/distillation/losses.py", "return (fake - real) / append_dims", "return (real - fake) / append_dims",
    ),
    Bug(
        "losses: one normaliser for the whole batch",
        "dmd/distillation/losses.py", "(x - real).abs().flatten(1).mean(dim=1)",
        "(x - real).abs().mean().expand(len(x))",
    ),
    Bug(
        "losses: distribution matching summed, not averaged",
        "dmd/distillation/losses.py", "0.5 * F.mse_loss(x, (x - grad).detach())",
        '0.5 * F.mse_loss(x, (x - grad).detach(), reduction="sum")',
    ),
    Bug(
        "losses: the critic's error unweighted",
        "dmd/distillation/losses.py", "append_dims(weight, x0.ndim).to(error.dtype) * error", "error",
    ),
    Bug(
        "losses: the critic's loss reaches the generator",
        "dmd/distillation/losses.py", "(prediction - x0.detach()) ** 2", "(prediction - x0) ** 2",
    ),
    Bug(
        "losses: the generator's GAN loss with its sign turned",
        "dmd/distillation/losses.py", "return F.softplus(-fake_logits).mean()", "return F.softplus(fake_logits).mean()",
    ),
    Bug(
        "losses: R1 not divided by the nudge",
        "dmd/distillation/losses.py", "(nudged_logits - logits) / nudge", "(nudged_logits - logits)",
    ),
    Bug(
        "adapters: x0 of a v-prediction with the other sign",
        "dmd/diffusion/denoiser.py", "c_skip = alpha\n    c_out = -sigma\n",
        "c_skip = alpha\n    c_out = sigma\n",
    ),
    Bug(
        "adapters: EDM's input not scaled",
        "dmd/diffusion/denoiser.py", "c_in = 1 / total.sqrt()", "c_in = torch.ones_like(sigma)",
    ),
    Bug(
        "adapters: the conversion to x0 in half precision",
        "dmd/diffusion/denoiser.py", "v if v.dtype == torch.float64 else v.float() for v in", "v for v in",
    ),
    Bug(
        "adapters: flow matching's time shift upside down",
        "dmd/diffusion/process.py", "return shift * sigma / (1 + (shift - 1) * sigma)",
        "return sigma / (shift + (1 - shift) * sigma)",
    ),
    Bug(
        "adapters: flow matching's grid an index too low",
        "dmd/diffusion/process.py", "torch.arange(1, timesteps + 1, dtype=torch.float64)",
        "torch.arange(timesteps, dtype=torch.float64)",
    ),
    Bug(
        "adapters: guidance scale counted from the condition",
        "dmd/diffusion/denoiser.py", "u + self.scale * (c - u)", "c + self.scale * (c - u)",
    ),
    Bug(
        "adapters: a generator of eps begins at T-1",
        "dmd/diffusion/denoiser.py", "return int((c_out <= MAX_AMPLIFICATION).nonzero().max())",
        "return len(c_out) - 1",
    ),
    Bug(
        "sampling: trailing spacing shifted by one",
        "dmd/samplers/ddim.py", "round(timesteps - k * timesteps / steps) - 1",
        "round(timesteps - (k + 1) * timesteps / steps)",
    ),
    Bug(
        "sampling: the same noise at every step",
        "dmd/samplers/few_step.py", "process.add_noise(x, noises[k], t)", "process.add_noise(x, noises[0], t)",
    ),
    Bug(
        "levels: the noise of an ODE step is that of the wrong level",
        "dmd/samplers/few_step.py", "process.noise_in(x_t, x, steps[k - 1])", "process.noise_in(x_t, x, t)",
    ),
    Bug(
        "text transformers: one token of padding is not masked",
        "dmd/families/tables.py", "device=index.device) < self.lengths", "device=index.device) <= self.lengths",
    ),
    Bug(
        "text transformers: packed latents are transposed",
        "dmd/families/transformers/base.py", "blocks.permute(0, 2, 4, 1, 3, 5).flatten(3)",
        "blocks.permute(0, 4, 2, 1, 3, 5).flatten(3)",
    ),
    Bug(
        "text transformers: the guidance scale does not reach the network",
        "dmd/diffusion/denoiser.py", '"guidance": self.scale}', '"guidance": 1.0}',
    ),
    Bug(
        "text transformers: velocity from image to noise",
        "dmd/families/transformers/z_image.py", "return -torch.stack(velocities)", "return torch.stack(velocities)",
    ),
    Bug(
        "sampling: gradient through all steps of the simulation",
        "dmd/samplers/few_step.py", "torch.is_grad_enabled() and k == len(times) - 1", "torch.is_grad_enabled()",
    ),
    Bug(
        "turns: the generator learns in the critic's turn",
        "dmd/distillation/methods/dmd.py", 'torch.set_grad_enabled(network == "generator")', "torch.enable_grad()",
    ),
    Bug(
        "turns: gradients kept in networks that are passed through",
        "dmd/distillation/networks.py", "            p.requires_grad_(False)", "            p.requires_grad_(True)",
    ),
    Bug(
        "turns: the generator learns first of k turns, not last",
        "dmd/distillation/phases.py", "(step + 1) % turn.every == 0", "step % turn.every == 0",
    ),
    Bug(
        "turns: the score difference at all t",
        "dmd/distillation/methods/dmd.py", "rng.integers(low, high + 1)", "rng.integers(0, self.timesteps)",
    ),
    Bug(
        "turns: the critic guided like the teacher",
        "dmd/distillation/methods/dmd.py", "fake = nets.scorer(x_t, t, cond)", "fake = teacher(x_t, t, cond)",
    ),
    Bug(
        "turns: real images with the generated ones' labels",
        "dmd/distillation/methods/dmd2.py", "self.logits(nets, data_t, t, labels)\n",
        "self.logits(nets, data_t, t, cond)\n",
    ),
    Bug(
        "turns: R1's second image at a time of its own",
        "dmd/distillation/methods/dmd2.py", "rng.noise_like(data_t), t, labels)",
        "rng.noise_like(data_t), t.flip(0), labels)",
    ),
    Bug(
        "training: parts of a batch added, not averaged",
        "dmd/distillation/parallel/whole_batch.py", 'losses["total"] / len(parts)', 'losses["total"]',
    ),
    Bug(
        "training: an average's half-life in turns",
        "dmd/training/ema.py", "0.5 ** (images / half_life)", "0.5 ** (1 / half_life)",
    ),
    Bug(
        "training: the last generator kept, not the best",
        "dmd/distillation/state.py", "if not best.scores or is_as_good(scores, best.scores, tolerance):", "if True:",
    ),
    Bug(
        "training: candidates compared with the last kept one, so that small losses add up",
        "dmd/distillation/state.py", "lowest = min(best.scores or scores, scores, key=fmean)", "lowest = scores",
    ),
    Bug(
        "training: the tolerance from the noise of the scores, not of their paired difference",
        "dmd/distillation/selection.py", "standard_error(differences)", "standard_error(scores)",
    ),
    Bug(
        "training: the last critic kept in a phase from the best generator",
        "dmd/distillation/state.py", "self._load_networks(self.best.networks)",
        'self._load_networks(self.best.networks | {"critic": self.networks_state()["critic"]})',
    ),
    Bug(
        "training: the schedule in steps, not in turns",
        "dmd/distillation/trainer.py", "turn.lr, done // turn.every,", "turn.lr, done,",
    ),
    Bug(
        "losses: the component along the critic's error doubled, not taken out",
        "dmd/distillation/losses.py", "return grad - append_dims(inner /", "return grad + append_dims(inner /",
    ),
    Bug(
        "losses: decoupled guidance with the whole scale",
        "dmd/distillation/losses.py", "append_dims(scale - 1, grad.ndim)", "append_dims(scale, grad.ndim)",
    ),
    Bug(
        "losses: the Frechet distance with second moments for covariances",
        "dmd/distillation/moments/frechet.py", "covariance = second - torch.outer(mean, mean)", "covariance = second",
    ),
    Bug(
        "losses: the Frechet loss's divisor passes a gradient",
        "dmd/distillation/moments/frechet.py", "distance.detach() + DAMPING", "distance + DAMPING",
    ),
    Bug(
        "losses: the batch counts whole beside the running moments",
        "dmd/distillation/moments/frechet.py", "(1 - decay) * first", "first",
    ),
    Bug(
        "losses: half of the cross term of MMD",
        "dmd/distillation/moments/discrepancy.py", "- 2 * inner + norm", "- inner + norm",
    ),
    Bug(
        "adapters: no condition outside of the interval of guidance",
        "dmd/diffusion/denoiser.py", "append_dims(self.is_guided(t), c.ndim), guided, c)",
        "append_dims(self.is_guided(t), c.ndim), guided, u)",
    ),
    Bug(
        "turns: the score difference projected on the teacher's prediction",
        "dmd/distillation/methods/dmd.py", "project_out(grad, score.fake - score.x)",
        "project_out(grad, score.real - score.x)",
    ),
    Bug(
        "turns: the critic moves towards the generator after its own turns",
        "dmd/distillation/methods/dmd.py", 'if turn == "generator" and self.cfg.critic_interpolation < 1:',
        'if turn == "critic" and self.cfg.critic_interpolation < 1:',
    ),
    Bug(
        "turns: the critic predicts in place of its average",
        "dmd/distillation/networks.py", "return self.critic if self.critic_average is None else self.critic_average",
        "return self.critic",
    ),
    Bug(
        "turns: decoupled guidance above the level of the generator's step",
        "dmd/distillation/methods/decoupled.py", "high = min(high, self.generator_times[step] - 1)", "high = high - 1",
    ),
    Bug(
        "turns: running moments that never move",
        "dmd/distillation/moments/frechet.py", "torch.where(is_finite, value, running)", "running",
    ),
    Bug(
        "training: the gradient of a part's features averaged, not added",
        "dmd/distillation/parallel/whole_batch.py", "workers.shares * torch.stack(inner).sum()",
        "torch.stack(inner).sum()",
    ),
    Bug(
        "training: the statistics of a method not restored",
        "dmd/distillation/state.py", 'self.nets.estimators.load_state_dict(state["estimators"])', "pass",
    ),
    Bug(
        "training: the critic's average not restored",
        "dmd/distillation/state.py", 'load_trainable_state(self.nets.critic_average, state["critic_average"])', "pass",
    ),
    Bug(
        "training: interpolation with its weights exchanged",
        "dmd/training/ema.py", "[other for _, other in pairs], 1 - weight)", "[other for _, other in pairs], weight)",
    ),
    Bug(
        "trunks: the generator's relativistic loss is the discriminator's",
        "dmd/distillation/gan/losses.py", "return F.softplus(data - fake).mean()",
        "return F.softplus(fake - data).mean()",
    ),
    Bug(
        "trunks: a penalty on the norm of the gradient, not on its square",
        "dmd/distillation/gan/losses.py", "grad.square().flatten(1).sum(dim=1).mean()",
        "grad.flatten(1).norm(dim=1).mean()",
    ),
    Bug(
        "trunks: a penalty by finite differences not divided by the nudge",
        "dmd/distillation/gan/losses.py", "((nudged - scores) / nudge)", "(nudged - scores)",
    ),
    Bug(
        "trunks: an image and its neighbour with noise of their own in a penalty",
        "dmd/distillation/gan/adversary.py", 'rng.fork("noise of trunks")', "rng",
    ),
    Bug(
        "trunks: a lazy penalty with the weight of a penalty in every step",
        "dmd/distillation/gan/adversary.py", "cfg.penalty_every * penalty", "penalty",
    ),
    Bug(
        "trunks: R2 on data",
        "dmd/distillation/gan/adversary.py", '("r2", cfg.trunk_r2_weight, fake)', '("r2", cfg.trunk_r2_weight, data)',
    ),
    Bug(
        "trunks: levels added, not averaged",
        "dmd/distillation/gan/adversary.py", "strict=True)]).mean() for name in data]",
        "strict=True)]).sum() for name in data]",
    ),
    Bug(
        "trunks: data in the discriminator's turn with labels of other images",
        "dmd/distillation/methods/adversarial.py", "return data, None if cond is None else labels", "return data, cond",
    ),
    Bug(
        "trunks: images beyond the range of data",
        "dmd/distillation/gan/trunk_discriminator.py", "x = clip(x) if self.on_pixels else x", "x = x",
    ),
    Bug(
        "trunks: all images of a batch moved alike",
        "dmd/distillation/gan/augment.py", "translate(x, *(rng.uniform().to(x) for _ in range(2)))",
        "translate(x, *(rng.uniform()[:1].expand(len(x)).to(x) for _ in range(2)))",
    ),
    Bug(
        "trunks: a random mixing that no checkpoint holds",
        "dmd/distillation/gan/mixing.py", "_random_matrix(self.shapes[i][0], c))",
        "_random_matrix(self.shapes[i][0], c), persistent=False)",
    ),
    Bug(
        "trunks: the anchor without its weight",
        "dmd/distillation/methods/gdd.py", "self.cfg.regression_weight * anchor", "anchor",
    ),
    Bug(
        "trunks: noise levels of the whole schedule",
        "dmd/distillation/gan/trunks.py", "rng.integers(self.low, self.high)",
        "rng.integers(0, self.denoiser.process.timesteps)",
    ),
    Bug(
        "turns: every turn moves the critic's average",
        "dmd/distillation/methods/dmd.py", 'if turn == "critic" and nets.critic_average is not None:',
        "if nets.critic_average is not None:",
    ),
    Bug(
        "training: frozen parts of the generator learn",
        "dmd/distillation/networks.py", "    for p in frozen:\n        p.requires_grad_(False)\n", "",
    ),
    Bug(
        "training: a second method goes on from the last generator",
        "dmd/distillation/methods/sequence.py", "replace(start, starts_from_best=True)", "start",
    ),
)  # fmt: skip
