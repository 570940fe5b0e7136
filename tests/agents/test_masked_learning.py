"""What off-policy agents learn where actions are forbidden: never the value of one that cannot be chosen."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from dqn_cases import config_of, distance, draws_of, leaves_of, model_of, twin
from sac_cases import make_model
from torch import nn

from optix_fast import HyperparamSet, TorchDQNAgent, TorchSACAgent, backend
from optix_fast.buffers import ring
from optix_fast.learners.dqn.native import dqn_update as core_update
from optix_fast.learners.dqn.update import dqn_update
from optix_fast.learners.experience import Experience, Transitions
from optix_fast.learners.sac.config import SACConfig
from optix_fast.learners.sac.update import discrete_sac_step
from optix_fast.random import RandomStream
from optix_fast.reference import replay as reference
from optix_fast.types import EpisodeData

BACKENDS = ["torch", *(["native"] if backend() == "native" else [])]


def constant(*outputs: float) -> nn.Linear:
    """A network with the same outputs for every observation."""
    network = nn.Linear(2, len(outputs))
    with torch.no_grad():
        network.weight.zero_()
        network.bias.copy_(torch.tensor(outputs))
    return network


def window(mask_after: list[bool], n: int = 1, **changes: Any) -> EpisodeData:
    """n rows of one environment that goes on; every action but the first is forbidden after the first row."""
    masks = np.tile(np.array(mask_after), (n, 1))
    masks[0] = True
    fields: dict[str, Any] = {
        "observations": np.zeros((n, 2), np.float32),
        "actions": np.zeros(n, np.int64),
        "rewards": np.zeros(n, np.float32),
        "terminated": np.zeros(n, np.bool_),
        "truncated": np.zeros(n, np.bool_),
        "infos": [{}] * n,
        "episode_id": 0,
        "next_observations": np.ones((1, 2), np.float32),
        "action_masks": masks,
        "next_action_masks": np.array([mask_after]),
    }
    return EpisodeData(**(fields | changes))


def error_of(agent: TorchDQNAgent, data: EpisodeData) -> float:
    """|TD error| of the first update; the first row earns none."""
    assert agent.learn(data)["n_updates"] == 0
    error: float = agent.learn(data)["td_error_mean"]
    return error


def dqn_agent(outputs: tuple[float, ...], wanted: str, **params: Any) -> TorchDQNAgent:
    network = constant(*outputs)
    params = {"batch_size": 1, "learning_starts": 0, "updates_per_step": 1.0, "gamma": 0.5, **params}
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-12)
    return TorchDQNAgent(
        network, len(outputs), optimizer, HyperparamSet(params), "cpu", seed=0, backend=wanted
    )


@pytest.mark.parametrize("wanted", BACKENDS)
@pytest.mark.parametrize("double_q", [True, False])
@pytest.mark.parametrize("params", [{}, {"per_alpha": 0.6}], ids=str)
def test_dqn_does_not_value_a_forbidden_action(params: dict[str, Any], double_q: bool, wanted: str) -> None:
    # Q = [0, 2.5] everywhere and γ = ½: with the forbidden action the target would be 1.25.
    agent = dqn_agent((0.0, 2.5), wanted, double_q=double_q, **params)
    assert error_of(agent, window([True, False])) == pytest.approx(0.0, abs=1e-6)
    agent = dqn_agent((0.0, 2.5), wanted, double_q=double_q, **params)
    assert error_of(agent, window([True, True])) == pytest.approx(1.25, abs=1e-6)


@pytest.mark.parametrize("wanted", BACKENDS)
def test_n_step_targets_read_the_mask_of_the_observation_they_reach(wanted: str) -> None:
    # From the last of three rows on only the last action is allowed, whose value is −3; γ = ½.
    agent = dqn_agent((0.0, 2.5, -3.0), wanted, n_step=3, batch_size=12)
    data = window(
        [False, False, True], 3, action_masks=np.array([[True] * 3, [True] * 3, [False, False, True]])
    )
    for _ in range(4):
        agent.learn(data)
    # Every window begins where the last one did not end, so each has rows with 3, 2 and 1 steps to go.
    batch = agent._experience.buffer.replay.batch(np.arange(3))
    assert batch.next_action_masks is not None
    assert batch.next_action_masks.tolist() == [[False, False, True]] * 3
    assert batch.discounts.tolist() == [0.125, 0.25, 0.5]
    # A mean of 12 errors that are 3/8, 3/4 or 3/2, and no other.
    error = agent.learn(data)["td_error_mean"]
    assert error * 12 / 0.375 == pytest.approx(round(error * 12 / 0.375), abs=1e-3)
    assert 0.375 <= error <= 1.5


@pytest.mark.parametrize("wanted", BACKENDS)
def test_a_row_that_allows_nothing_is_an_error_before_anything_is_stored(wanted: str) -> None:
    agent = dqn_agent((0.0, 2.5), wanted)
    with pytest.raises(ValueError, match="action_masks: the mask after row 0 allows no action"):
        agent.learn(window([False, False]))
    assert len(agent._experience) == 0


@pytest.mark.parametrize("wanted", BACKENDS)
def test_masks_of_another_number_of_actions_are_named(wanted: str) -> None:
    agent = dqn_agent((0.0, 2.5), wanted)
    with pytest.raises(ValueError, match="one entry for each of the network's 2 actions, got 3"):
        error_of(agent, window([True, True, False]))


def masked_experience(config: Any, n: int = 300) -> Experience:
    experience, rng = Experience(config, RandomStream(1)), np.random.default_rng(0)

    def masks() -> Any:
        allowed = rng.random((3, 3)) < 0.5
        allowed[np.arange(3), rng.integers(0, 3, 3)] = True
        return allowed

    observations, own = rng.standard_normal((3, 5)).astype(np.float32), masks()
    for _ in range(n // 3):
        following, after = rng.standard_normal((3, 5)).astype(np.float32), masks()
        ends = rng.random((2, 3)) < 0.1
        rewards = rng.integers(-8, 9, 3).astype(np.float32) / 8
        experience.buffer.push_rows(
            observations, rng.integers(0, 3, 3), rewards, following, ends[0], ends[1] & ~ends[0],
            action_masks=own, next_action_masks=after,
        )  # fmt: skip
        observations, own = following, after
    return experience


@pytest.mark.skipif(backend() != "native", reason="needs the compiled core")
@pytest.mark.parametrize("params", [{}, {"double_q": False}, {"per_alpha": 0.6}, {"n_step": 3}], ids=str)
def test_masked_updates_of_core_and_torch_agree(params: dict[str, Any]) -> None:
    config, model = config_of(**params), model_of()
    other, before = twin(model), twin(model)
    trees = []
    for each, update in ((model, dqn_update), (other, core_update)):
        experience = masked_experience(config)
        update(each, experience, draws_of(experience, config, 10), config, 0)
        trees.append(leaves_of(experience))
    assert distance(model, other) < 1e-5 < distance(model, before)
    torch.testing.assert_close(*trees, rtol=1e-4, atol=1e-5)
    # And the masks do play a part.
    unmasked = twin(before)
    experience = masked_experience(config)
    ring_ = experience.buffer.replay._ring
    assert ring_ is not None
    ring_._rows[-1][:], ring_._extra[-1][:] = True, True
    dqn_update(unmasked, experience, draws_of(experience, config, 10), config, 0)
    assert distance(unmasked, model) > 1e-4


# --- discrete SAC -----------------------------------------------------------------------------------


def sac_step(masks: list[bool] | None, next_masks: list[bool] | None, **params: Any) -> tuple[Any, Any]:
    """One step from Q = [0, 2.5] and logits [0, 0] with α = 1, γ = ½: the model and what the step said."""
    model = make_model(constant(0.0, 0.0), (constant(0.0, 2.5), constant(0.0, 2.5)), discrete=True)
    one = torch.ones(1)
    batch = Transitions(
        torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64), 0 * one, torch.ones(1, 2), 0.5 * one,
        None,
        None if masks is None else torch.tensor([masks]),
        None if next_masks is None else torch.tensor([next_masks]),
    )  # fmt: skip
    return model, discrete_sac_step(model, batch, SACConfig(**params), math.log(2.0))


def test_discrete_sac_does_not_value_a_forbidden_action() -> None:
    # One action is allowed: its value is 0 and its entropy too. With both it would be ½·(1.25 + log 2).
    _, step = sac_step([True, True], [True, False])
    assert step.td_errors.tolist() == [0.0]
    _, step = sac_step([True, True], [True, True])
    assert step.td_errors.item() == pytest.approx(0.5 * (1.25 + math.log(2.0)))


def test_the_actor_learns_within_the_mask() -> None:
    model, step = sac_step([True, False], [True, True])
    loss, entropy = step.statistics["actor_loss"], step.statistics["entropy"]
    assert entropy == 0.0  # one action is left
    assert loss == pytest.approx(-float(model.critics[0].bias[0].detach()), abs=1e-6)
    assert model.actor.bias.grad.tolist() == [0.0, 0.0]
    # The forbidden action's value alone cannot raise the temperature: nothing else could have been done.
    assert model.log_alpha.grad.item() == 0.0


def test_the_target_entropy_is_that_share_of_what_the_mask_allows() -> None:
    model, _ = sac_step([True, True], [True, True])
    # Entropy log 2, target log 2 of K = 2: no pull.
    assert model.log_alpha.grad.item() == pytest.approx(0.0, abs=1e-6)


def test_masked_and_unmasked_steps_agree_where_everything_is_allowed() -> None:
    (one, step), (other, masked) = sac_step(None, None), sac_step([True, True], [True, True])
    assert step.statistics == pytest.approx(masked.statistics)
    for p, q in zip(one.actor.parameters(), other.actor.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_discrete_sac_learns_the_same_from_the_core_s_replay_and_the_reference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def train() -> TorchSACAgent:
        torch.manual_seed(0)
        networks = [nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3)) for _ in range(3)]
        optimizers = [
            torch.optim.Adam(ps, lr=1e-2)
            for ps in (networks[0].parameters(), [*networks[1].parameters(), *networks[2].parameters()])
        ]
        template = torch.optim.Adam([nn.Parameter(torch.zeros(()))], lr=1e-2)
        params = {"batch_size": 8, "learning_starts": 8, "per_alpha": 0.6, "n_step": 2}
        agent = TorchSACAgent(
            *networks, 3, *optimizers, template, HyperparamSet(params), "cpu", discrete=True, seed=0
        )  # type: ignore[misc]
        rng = np.random.default_rng(0)
        for i in range(6):
            masks = rng.random((8, 3)) < 0.5
            masks[:, i % 3] = True
            actions = np.array([rng.choice(np.flatnonzero(m)) for m in masks])
            agent.learn(
                window(
                    [True, False, True], 8, observations=rng.normal(size=(8, 2)).astype(np.float32),
                    rewards=rng.normal(size=8).astype(np.float32), action_masks=masks, actions=actions,
                )
            )  # fmt: skip
        return agent

    ours = train()
    monkeypatch.setattr(ring, "_Replay", reference.Replay)
    theirs = train()
    assert ours.updates == theirs.updates > 0
    assert math.isfinite(ours.alpha)
    for p, q in zip(
        *(a._model.state_dict()["networks"]["actor"].values() for a in (ours, theirs)), strict=True
    ):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("wanted", BACKENDS)
def test_masks_survive_a_resume(wanted: str) -> None:
    agent = dqn_agent((0.0, 2.5), wanted)
    agent.learn(window([True, False], 4))
    other = dqn_agent((0.0, 2.5), wanted)
    other.load_state_dict(copy.deepcopy(agent.state_dict()))
    one, two = (a._experience.buffer.replay.batch(np.arange(4)).next_action_masks for a in (agent, other))
    assert one is not None and two is not None
    np.testing.assert_array_equal(one, two)
