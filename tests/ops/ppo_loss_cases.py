"""What the tests of ppo_loss share: distributions, options, batches, and the outcome of one call."""

from __future__ import annotations

import torch

from optix_fast.ops import Categorical, Hybrid, MultiDiscrete, Normal

PLAIN = {"clip_ratio": 0.2, "vf_coef": 0.5, "entropy_coef": 0.01}
ONLY_POLICY = {"clip_ratio": 0.2, "vf_coef": 0.0, "entropy_coef": 0.0}
NAMES = ("params", "actions", "old_log_probs", "advantages", "values", "returns", "old_values")
DISTS = {
    "categorical": Categorical(),
    "normal": Normal(),
    "multi_discrete": MultiDiscrete((3, 1, 4)),
    "hybrid": Hybrid((2, 5)),
}
OPTIONS = {
    "plain": {},
    "max": {"value_clip": 0.2},
    "clipped": {"value_clip": 0.2, "value_clip_mode": "clipped", "normalize_advantages": True},
    "floor": {"entropy_floor": 100.0, "entropy_floor_coef": 0.5},
}


def per_component(dist, **options):
    """The options with another coefficient, floor and floor weight for each component."""
    k = range(dist.components)
    return options | {
        "entropy_coef": [0.01 * (i + 1) for i in k],
        # Every other component is below its floor.
        "entropy_floor": [100.0 if i % 2 else -100.0 for i in k],
        "entropy_floor_coef": [0.5 + i for i in k],
    }


def _categorical(logits, actions, allowed):
    if allowed is not None:
        logits = logits.masked_fill(~allowed, -torch.inf)
    return torch.distributions.Categorical(logits=logits).log_prob(actions)


def _normal(params, actions):
    mean, log_std = params.chunk(2, dim=1)
    return torch.distributions.Normal(mean, log_std.exp()).log_prob(actions).sum(1)


def batch_of(dist, batch, width, dtype=torch.float32, seed=0, mask=False):
    """Arguments whose ratios scatter around 1, and a mask or None.

    width: logits of a Categorical, dimensions of a Normal or of a Hybrid's Gaussian.
    """
    g = torch.Generator().manual_seed(seed)

    def normal(*shape, scale=1.0):
        return torch.randn(*shape, generator=g, dtype=dtype) * scale

    nvec = (width,) if isinstance(dist, Categorical) else dist.nvec
    gaussian = width if isinstance(dist, (Normal, Hybrid)) else 0
    params = torch.cat([normal(batch, sum(nvec), scale=2.0), normal(batch, 2 * gaussian, scale=0.5)], dim=1)
    indices = [torch.randint(n, (batch,), generator=g) for n in nvec]
    samples = normal(batch, gaussian)
    action_mask = None
    if mask and nvec:
        parts = [torch.rand(batch, n, generator=g) < 0.6 for n in nvec]
        for part, index in zip(parts, indices, strict=True):
            part[torch.arange(batch), index] = True
        action_mask = torch.cat(parts, dim=1)
    log_probs = torch.zeros(batch, dtype=torch.float64)
    offset = 0
    for n, index in zip(nvec, indices, strict=True):
        allowed = None if action_mask is None else action_mask[:, offset : offset + n]
        log_probs = log_probs + _categorical(params[:, offset : offset + n].double(), index, allowed)
        offset += n
    if gaussian:
        log_probs = log_probs + _normal(params[:, offset:].double(), samples.double())
    if isinstance(dist, Categorical):
        actions = indices[0]
    elif isinstance(dist, MultiDiscrete):
        actions = torch.stack(indices, dim=1)
    else:
        actions = torch.cat([*(i.to(dtype).unsqueeze(1) for i in indices), samples], dim=1)
    old_log_probs = log_probs.to(dtype) + normal(batch, scale=0.2)
    values, returns = normal(batch), normal(batch)
    old_values = values + normal(batch, scale=0.3)
    arguments = (params, actions, old_log_probs, normal(batch) * 2 + 1, values, returns, old_values)
    return arguments, action_mask


def outcome(function, dist, arguments, action_mask, **options):
    params, actions, old_log_probs, advantages, values, returns, old_values = arguments
    params, values = params.clone().requires_grad_(), values.clone().requires_grad_()
    result = function(
        dist, params, actions, old_log_probs, advantages, values, returns, old_values,
        **(PLAIN | options), action_mask=action_mask,
    )  # fmt: skip
    by_params, by_values = torch.autograd.grad(result.loss, (params, values))
    return {"loss": result.loss.detach(), "stats": result.stats, "params": by_params, "values": by_values}


def assert_same_outcome(got, expected, dist, dtype):
    # A ratio is exp of a difference of log-probabilities, so its rounding error grows with their size (about
    # one per component or dimension). Everything else rounds once or twice per sample.
    width = 0 if isinstance(dist, Categorical) else expected["params"].shape[1]
    tolerance = torch.finfo(dtype).eps * (64 + 16 * width)
    largest = max(expected["stats"].abs().max().item(), expected["loss"].abs().item())
    for name, want in expected.items():
        scale = largest if name in ("loss", "stats") else want.abs().max().item()
        atol = (max(tolerance, 2e-7) if name == "stats" else tolerance) * max(scale, 1e-2)
        torch.testing.assert_close(
            got[name].cpu(), want, rtol=0.0, atol=atol, msg=lambda m, n=name: f"{n}: {m}"
        )


def leaves(dist=None):
    """A small batch whose params and values ask for a gradient."""
    arguments, _ = batch_of(dist or Categorical(), 8, 3)
    arguments[0].requires_grad_()
    arguments[4].requires_grad_()
    return arguments
