"""ppo_loss: what it refuses, and in which words."""

from __future__ import annotations

import math
import re

import pytest
import torch
from ppo_loss_cases import NAMES, PLAIN, batch_of

from optix_fast import ops
from optix_fast.ops import Categorical, Hybrid, MultiDiscrete, Normal


def call_with(dist=None, **changes):
    arguments, _ = batch_of(dist if hasattr(dist, "components") else Categorical(), 64, 3)
    return ops.ppo_loss(
        Categorical() if dist is None else dist,
        **(dict(zip(NAMES, arguments, strict=True)) | PLAIN | changes),
    )


def test_message_names_the_argument_what_was_expected_and_what_came():
    message = "ppo_loss: actions must be int64 [B] = [64] on cpu, got float32 [64, 1]"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call_with(actions=torch.zeros(64, 1))


@pytest.mark.parametrize("name", [*NAMES, "action_mask"])
def test_wrong_shape(name):
    dtype = {"actions": torch.int64, "action_mask": torch.bool}.get(name, torch.float32)
    with pytest.raises(ValueError, match=f"ppo_loss: {name} must be .*, got .* \\[3, 4, 2\\]"):
        call_with(**{name: torch.zeros(3, 4, 2, dtype=dtype)})


@pytest.mark.parametrize("name", [*NAMES, "action_mask"])
def test_wrong_type(name):
    shape = (64, 3) if name in ("params", "action_mask") else (64,)
    with pytest.raises(ValueError, match=f"ppo_loss: {name} must be .*, got int32"):
        call_with(**{name: torch.zeros(shape, dtype=torch.int32)})


@pytest.mark.parametrize("name", [*NAMES, "action_mask"])
def test_not_a_tensor(name):
    with pytest.raises(TypeError, match=f"ppo_loss: {name} must be a torch.Tensor, got list"):
        call_with(**{name: [1.0]})


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("params", "actions")])
def test_not_contiguous(name):
    with pytest.raises(ValueError, match=f"ppo_loss: {name} must be contiguous"):
        call_with(**{name: torch.zeros(64, 2)[:, 0]})


def test_empty_batch():
    arguments, _ = batch_of(Categorical(), 4, 3)
    with pytest.raises(ValueError, match="ppo_loss: params must not be empty"):
        ops.ppo_loss(Categorical(), *(a[:0] for a in arguments), **PLAIN)


def test_normal_needs_an_even_number_of_columns():
    with pytest.raises(ValueError, match=r"ppo_loss: params of a Normal must be \[B, 2A\]"):
        call_with(Normal(), params=torch.zeros(64, 5))


@pytest.mark.parametrize("action", [-1, 3, 2**40])
def test_action_out_of_range(action):
    actions = torch.zeros(64, dtype=torch.int64)
    actions[37] = action
    with pytest.raises(ValueError, match=rf"actions must be in \[0, K\) = \[0, 3\), got {action} at row 37"):
        call_with(actions=actions)


def test_mask_that_forbids_the_action_taken():
    mask = torch.ones(64, 3, dtype=torch.bool)
    mask[21, 2] = False
    with pytest.raises(ValueError, match="action_mask forbids the action taken, 2 at row 21"):
        call_with(actions=torch.full((64,), 2), action_mask=mask)


def test_mask_that_forbids_every_action():
    mask = torch.ones(64, 3, dtype=torch.bool)
    mask[50] = False
    with pytest.raises(ValueError, match="action_mask forbids every action at row 50"):
        call_with(action_mask=mask)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clip_ratio": 0.0}, "clip_ratio must be above 0, got 0.0"),
        ({"clip_ratio": math.nan}, "clip_ratio must be above 0, got nan"),
        ({"value_clip": -1.0}, "value_clip must be above 0 or None, got -1.0"),
        ({"value_clip": 0.2, "old_values": None}, "value_clip needs old_values, got None"),
        ({"value_clip_mode": "both"}, "value_clip_mode must be 'max' or 'clipped', got 'both'"),
        ({"vf_coef": -0.5}, "vf_coef must be 0 or more and finite, got -0.5"),
        ({"entropy_coef": [0.1, 0.2]}, "entropy_coef must be a number or one per component, 1 here, got 2"),
        ({"entropy_floor": math.inf}, "entropy_floor must be finite"),
        (
            {"dist": Normal(), "action_mask": torch.ones(64, 3, dtype=torch.bool)},
            r"action_mask needs discrete actions, got Normal\(\)",
        ),
    ],
)
def test_options_without_meaning(changes, message):
    with pytest.raises(ValueError, match=f"ppo_loss: {message}"):
        call_with(**changes)


def test_unknown_distribution():
    with pytest.raises(TypeError, match="ppo_loss: dist must be Categorical.*, got 'normal'"):
        call_with(dist="normal")


MULTI, HYBRID = MultiDiscrete((3, 4)), Hybrid((3,))


@pytest.mark.parametrize(
    ("dist", "changes", "message"),
    [
        (MULTI, {"params": torch.zeros(64, 6)}, r"params of a MultiDiscrete .* = \[B, 7\], got \[64, 6\]"),
        (MULTI, {"actions": torch.zeros(64, 3).long()}, r"actions must be int64 \[B, C\] = \[64, 2\] on cpu"),
        (MULTI, {"entropy_coef": [0.1] * 3}, "entropy_coef must be .* one per component, 2 here, got 3"),
        (MULTI, {"action_mask": torch.ones(64, 3).bool()}, r"action_mask must be .* = \[64, 7\]"),
        (MULTI, {"actions": torch.full((64, 2), 3)}, r".* = \[0, 3\), got 3 at row 0, component 0"),
        (HYBRID, {"params": torch.zeros(64, 3)}, r"params of a Hybrid must be .* = \[B, 3 \+ 2A\]"),
        (HYBRID, {"params": torch.zeros(64, 6)}, "params of a Hybrid must be"),
        (
            HYBRID,
            {"actions": torch.zeros(64, 4).long()},
            r"actions must be float32 \[B, C \+ A\] = \[64, 4\]",
        ),
        (
            HYBRID,
            {"actions": torch.full((64, 4), 0.5)},
            "actions must be whole numbers .*, got 0.500000 at row 0",
        ),
        (HYBRID, {"actions": torch.full((64, 4), torch.nan)}, "actions must be whole numbers"),
    ],
)
def test_several_components(dist, changes, message):
    with pytest.raises(ValueError, match=f"ppo_loss: {message}"):
        call_with(dist, **changes)


@pytest.mark.parametrize("nvec", [(), (3, 0), (-1,)])
@pytest.mark.parametrize("kind", [MultiDiscrete, Hybrid])
def test_sizes_of_components(kind, nvec):
    with pytest.raises(ValueError, match="nvec must hold one number of actions, 1 or more, per component"):
        kind(nvec)
