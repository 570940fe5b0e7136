"""PPO agents: recorded calls, failed updates, hyperparameters, saving and resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from backends import both_backends
from ppo_cases import (
    OBS,
    assert_same,
    cartpole_window,
    discrete_agent,
    flat_parameters,
    gaussian_agent,
    scripted,
)
from torch import nn

from optix_fast import reference
from optix_fast.agents import TorchGaussianPPOAgent, TorchPPOAgent, make_agent
from optix_fast.envs.normalizers import ObsNormalizer, RewardNormalizer
from optix_fast.learners.ppo.batch import make_batch
from optix_fast.learners.ppo.config import PPOConfig
from optix_fast.pipelines import BatchPipeline
from optix_fast.types import EpisodeData, HyperparamSet, NonFiniteError, no_recording

# --- single act() calls -------------------------------------------------------------------------


def hand_made_window(agent: TorchPPOAgent, n: int, evaluate: bool = False) -> EpisodeData:
    rng = np.random.default_rng(0)
    fields = scripted(n)
    fields["observations"] = rng.normal(size=(n, 4)).astype(np.float32)
    for t in range(n):
        fields["actions"][t] = agent.act(fields["observations"][t])
        if evaluate:
            with no_recording():
                agent.act(rng.normal(size=4).astype(np.float32))
    fields["values"] = fields["log_probs"] = None
    return EpisodeData(**fields)


def test_hand_written_loop_learns_from_recorded_calls() -> None:
    agent = discrete_agent()
    window = hand_made_window(agent, 40, evaluate=True)
    assert agent.learn(window)["n_updates"] == 4
    with pytest.raises(RuntimeError, match="^Cache underflow: row 0 of 40"):
        agent.learn(window)


def test_calls_that_belong_to_no_row_are_skipped() -> None:
    agent = discrete_agent()
    agent.act(np.ones(4, np.float32))
    assert agent.learn(hand_made_window(agent, 10))["n_updates"] == 2


@both_backends
@pytest.mark.parametrize("make", [discrete_agent, gaussian_agent])
def test_a_row_learns_the_call_whose_action_it_holds(make: Any, backend: str) -> None:
    """Each observation is asked about twice, and the second answer is carried out."""
    agent = make(backend=backend)
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(64, 4 if make is discrete_agent else 3)).astype(np.float32)
    answers = [(agent.act(seen), agent.act(seen)) for seen in observations]
    assert sum(not np.array_equal(*pair) for pair in answers) > 15
    actions = np.array([second for _, second in answers])
    fields = scripted(64) | {"observations": observations, "actions": actions}
    window = EpisodeData(**fields | {"values": None, "log_probs": None})

    batch = make_batch(agent._policy, window, PPOConfig(), reference, agent._queue, None)

    params = agent._model.evaluate(torch.from_numpy(observations))[0].detach()
    if make is discrete_agent:
        assert batch.actions.tolist() == actions.tolist()
        expected = torch.distributions.Categorical(logits=params).log_prob(torch.from_numpy(actions))
    else:
        np.testing.assert_allclose(batch.actions.tanh().numpy(), actions, rtol=1e-5)
        mean, log_std = params.chunk(2, dim=-1)
        expected = torch.distributions.Normal(mean, log_std.exp()).log_prob(batch.actions).sum(-1)
    torch.testing.assert_close(batch.log_probs, expected, rtol=1e-4, atol=1e-5)


def test_action_that_act_did_not_return_is_an_error() -> None:
    agent = discrete_agent()
    window = hand_made_window(agent, 10)
    window.actions[4] = 1 - window.actions[4]
    message = rf"^Cache underflow: row 4 of 10 holds action {window.actions[4]}, which act\(\) did not return"
    with pytest.raises(RuntimeError, match=message):
        agent.learn(window)
    window.actions[4] = 1 - window.actions[4]
    assert agent.learn(window)["n_updates"] == 2


def test_recorded_calls_do_not_touch_windows_that_carry_log_probs() -> None:
    agent, undisturbed = discrete_agent(), discrete_agent()
    for _ in range(30):
        with no_recording():
            undisturbed.act(OBS)
    window = cartpole_window(agent)
    agent._queue.push(OBS, 1, 0.0, 0.0, np.array(1))
    agent.learn(window)
    undisturbed.learn(cartpole_window(undisturbed))
    assert torch.equal(flat_parameters(agent), flat_parameters(undisturbed))
    assert len(agent._queue) == 1
    agent.reset_cache()
    assert len(agent._queue) == 0


# --- failing --------------------------------------------------------------------------------------


def test_nan_reward_is_named_and_leaves_the_agent_as_it_was() -> None:
    agent = discrete_agent(reward_normalizer=RewardNormalizer())
    window = cartpole_window(agent)
    window.rewards = window.rewards.copy()
    window.rewards[3] = np.nan
    before = flat_parameters(agent)
    with pytest.raises(NonFiniteError, match="reward"):
        agent.learn(window)
    assert torch.equal(flat_parameters(agent), before)


def test_failed_update_restores_parameters_optimizer_normalizers_and_streams() -> None:
    agent = discrete_agent(obs_normalizer=ObsNormalizer((4,)), reward_normalizer=RewardNormalizer())
    agent.learn(cartpole_window(agent))
    window = cartpole_window(agent)
    window.values = window.values.copy()
    window.values[-1] = np.inf
    before = agent.state_dict()
    with pytest.raises(NonFiniteError, match="loss"):
        agent.learn(window)
    assert_same(agent.state_dict(), before)


def test_nan_parameter_stops_at_acting() -> None:
    agent = discrete_agent()
    with torch.no_grad():
        agent._actor[0].weight.fill_(torch.nan)
    with pytest.raises(NonFiniteError):
        cartpole_window(agent)


def test_empty_window_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        discrete_agent().learn(EpisodeData(**scripted(0)))


# --- hyperparameters ------------------------------------------------------------------------------


def test_unknown_key_is_warned_about_once_naming_the_nearest() -> None:
    with pytest.warns(UserWarning, match="'clip_ration'; the nearest known one is 'clip_ratio'"):
        agent = discrete_agent(params={"clip_ration": 0.1})
    # Warnings are errors in these tests: learning must not repeat it.
    agent.learn(cartpole_window(agent))


def test_set_hyperparams_replaces_the_set_and_writes_the_learning_rate() -> None:
    agent = discrete_agent(params={"clip_ratio": 0.1})
    agent.set_hyperparams(HyperparamSet({"learning_rate": 0.01, "n_epochs": 3.4}, episode_id=1))
    assert agent._optimizer.param_groups[0]["lr"] == 0.01
    assert agent.get_hyperparams().params["clip_ratio"] == PPOConfig().clip_ratio
    assert agent.learn(cartpole_window(agent))["n_updates"] == 3 * 1
    agent._optimizer.param_groups[0]["lr"] = 0.5
    assert agent.get_hyperparams().params["learning_rate"] == 0.5


def test_hyperparams_given_and_returned_are_copies() -> None:
    agent = discrete_agent()
    agent.get_hyperparams().params["clip_ratio"] = 99.0
    assert agent.get_hyperparams().params["clip_ratio"] == PPOConfig().clip_ratio


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"gamma": 1.5}, "gamma must be between"),
        ({"learning_rate": float("nan")}, "learning_rate must be between"),
        ({"n_epochs": 0}, "n_epochs must be at least 1"),
        ({"minibatch_size": -3}, "minibatch_size must be at least 1"),
        ({"normalize_advantages": "yes"}, "normalize_advantages must be"),
        ({"max_grad_norm": -0.5}, "max_grad_norm must be between"),
        ({"max_grad_norm": float("nan")}, "max_grad_norm must be between"),
        ({"entropy_coef": float("nan")}, "entropy_coef must be finite"),
        ({"target_kl": -0.1}, "target_kl must be between"),
        ({"value_clip": float("nan")}, "value_clip must be between"),
        ({"value_clip_mode": "min"}, "value_clip_mode must be 'max' or 'clipped'"),
        ({"anneal_steps": 0}, "anneal_steps must be at least 1"),
    ],
)
def test_values_out_of_range_are_refused_and_change_nothing(params: dict[str, Any], message: str) -> None:
    agent = discrete_agent()
    before = agent.get_hyperparams().params
    with pytest.raises(ValueError, match=message):
        agent.set_hyperparams(HyperparamSet(params))
    assert agent.get_hyperparams().params == before
    with pytest.raises(ValueError, match=message):
        discrete_agent(params=params)


@pytest.mark.parametrize("name", ["learning_rate", "clip_ratio", "n_epochs", "max_grad_norm"])
def test_what_is_not_a_number_is_named(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} must be a number, got 'much'"):
        discrete_agent(params={name: "much"})


def test_constructor_names_the_argument_of_the_wrong_type() -> None:
    actor, critic = nn.Linear(4, 2), nn.Linear(4, 1)
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()])
    good: dict[str, Any] = {
        "actor": actor, "critic": critic, "optimizer": optimizer, "hyperparams": HyperparamSet({}),
        "device": "cpu",
    }  # fmt: skip
    for name, wrong in (("actor", 3), ("critic", None), ("optimizer", "adam"), ("hyperparams", {})):
        with pytest.raises(TypeError, match=f"^{name} must be"):
            TorchPPOAgent(**{**good, name: wrong})
    with pytest.raises(ValueError, match="^device"):
        TorchPPOAgent(**{**good, "device": "gpu"})
    with pytest.raises(ValueError, match="^backend"):
        TorchPPOAgent(**good, backend="cuda")
    with pytest.raises(ValueError, match="^action_dim"):
        TorchGaussianPPOAgent(**good, action_dim=0)
    with pytest.raises(ValueError, match="^log_std"):
        TorchGaussianPPOAgent(**good, action_dim=1, log_std="none")


# --- saving and resuming --------------------------------------------------------------------------


def test_weights_round_trip_with_normalizer(tmp_path: Path) -> None:
    agent = discrete_agent(seed=1, obs_normalizer=ObsNormalizer((4,)))
    agent.learn(cartpole_window(agent))
    agent.save_weights(str(tmp_path / "w"))
    other = discrete_agent(seed=2, obs_normalizer=ObsNormalizer((4,)))
    other.load_weights(str(tmp_path / "w"))
    np.testing.assert_array_equal(agent.action_probs(OBS), other.action_probs(OBS))
    assert sorted(p.name for p in (tmp_path / "w").iterdir()) == [
        "actor.safetensors", "critic.safetensors", "policy.safetensors",
    ]  # fmt: skip


def test_free_log_std_is_trained_and_saved(tmp_path: Path) -> None:
    agent = make_agent("ppo", gym.make("Pendulum-v1"), seed=0, squash=False, log_std="free")
    pipeline = BatchPipeline(gym.make("Pendulum-v1"), agent, window_size=64, seed=0)
    agent.learn(next(pipeline.episodes()))
    trained = agent._policy.log_std
    assert trained is not None and (trained != 0).all()
    agent.save_weights(str(tmp_path))
    other = make_agent("ppo", gym.make("Pendulum-v1"), seed=9, squash=False, log_std="free")
    other.load_weights(str(tmp_path))
    assert other._policy.log_std is not None and torch.equal(other._policy.log_std, trained)


def test_weights_of_an_older_run_load(tmp_path: Path) -> None:
    agent, other = discrete_agent(seed=1), discrete_agent(seed=2)
    torch.save(agent._actor.state_dict(), tmp_path / "actor.pt")
    torch.save(agent._critic.state_dict(), tmp_path / "critic.pt")
    other.load_weights(str(tmp_path))
    assert torch.equal(flat_parameters(agent), flat_parameters(other))


def test_pickled_objects_in_a_weight_file_are_not_executed(tmp_path: Path) -> None:
    torch.save({"x": Path("/")}, tmp_path / "actor.pt")
    with pytest.raises(ValueError, match="weights of 'actor'"):
        discrete_agent().load_weights(str(tmp_path))


def test_weights_of_another_architecture_are_named_and_nothing_is_loaded(tmp_path: Path) -> None:
    agent = discrete_agent()
    wide = make_agent("ppo", gym.make("CartPole-v1"), hidden_sizes=(32,), seed=0)
    wide.save_weights(str(tmp_path))
    before = flat_parameters(agent)
    with pytest.raises(RuntimeError, match=r"0\.weight has shape \[32, 4\], not \[16, 4\]"):
        agent.load_weights(str(tmp_path))
    assert torch.equal(flat_parameters(agent), before)


def test_damaged_and_missing_weight_files_are_named(tmp_path: Path) -> None:
    agent = discrete_agent()
    with pytest.raises(FileNotFoundError, match=r"actor\.safetensors"):
        agent.load_weights(str(tmp_path))
    agent.save_weights(str(tmp_path))
    path = tmp_path / "critic.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="weights of 'critic'"):
        agent.load_weights(str(tmp_path))


def test_resumed_training_gives_the_same_bits() -> None:
    def fresh() -> TorchPPOAgent:
        return discrete_agent(obs_normalizer=ObsNormalizer((4,)), reward_normalizer=RewardNormalizer())

    straight = fresh()
    for _ in range(2):
        straight.learn(cartpole_window(straight))
    state = straight.state_dict()
    resumed = fresh()
    resumed.load_state_dict(state)
    for agent in (straight, resumed):
        for _ in range(2):
            agent.learn(cartpole_window(agent))
    assert_same(resumed.state_dict(), straight.state_dict())


def test_average_is_the_mean_and_perturbation_scales_parameters(tmp_path: Path) -> None:
    one, two, agent = discrete_agent(seed=1), discrete_agent(seed=2), discrete_agent(seed=3)
    one.save_weights(str(tmp_path / "1"))
    two.save_weights(str(tmp_path / "2"))
    agent.average_weights([str(tmp_path / "1"), str(tmp_path / "2")])
    mean = (flat_parameters(one) + flat_parameters(two)) / 2
    torch.testing.assert_close(flat_parameters(agent), mean)
    agent.perturb_weights(0.1)
    factor = flat_parameters(agent) / mean - 1
    assert 0.05 < factor.std() < 0.2
    with pytest.raises(ValueError, match="paths"):
        agent.average_weights([])
