"""PPO agents: acting, what a window holds, learning, extending."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from ppo_cases import (
    OBS,
    cartpole_window,
    discrete_agent,
    flat_parameters,
    gaussian_agent,
    scripted,
)
from torch import nn

from optix_fast import backend as process_backend
from optix_fast import ops, reference
from optix_fast.agents import TorchPPOAgent, make_agent
from optix_fast.envs.normalizers import ObsNormalizer, RewardNormalizer
from optix_fast.learners.ppo.act_queue import ActQueue
from optix_fast.learners.ppo.batch import make_batch
from optix_fast.learners.ppo.config import PPOConfig
from optix_fast.pipelines import BatchPipeline, VectorBatchPipeline
from optix_fast.types import EpisodeData, HyperparamSet, NonFiniteError, no_recording

# --- acting -------------------------------------------------------------------------------------


def test_discrete_act_returns_a_python_int_and_gaussian_act_a_float32_array() -> None:
    assert type(discrete_agent().act(OBS)) is int
    action = gaussian_agent(2).act(np.zeros(3, np.float32))
    assert action.dtype == np.float32 and action.shape == (2,)
    assert (np.abs(action) < 1).all()


def test_deterministic_act_takes_the_largest_logit() -> None:
    agent = discrete_agent()
    logits = agent._actor(torch.from_numpy(OBS)[None])
    assert [agent.act(OBS, deterministic=True) for _ in range(5)] == [int(logits.argmax())] * 5


def test_sampled_actions_follow_the_softmax() -> None:
    agent = discrete_agent()
    p = agent.action_probs(OBS)
    assert p.sum() == pytest.approx(1.0, abs=1e-6)
    with no_recording():
        share = np.mean([agent.act(OBS) for _ in range(4000)])
    # Four standard errors of a proportion over 4000 draws.
    assert abs(share - p[1]) < 4 * np.sqrt(p[1] * (1 - p[1]) / 4000)


def test_a_one_dimensional_observation_of_one_value_keeps_its_axis() -> None:
    actor, critic = nn.Linear(1, 2), nn.Linear(1, 1)
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()])
    agent = TorchPPOAgent(actor, critic, optimizer, HyperparamSet({}), device="cpu")
    assert agent.act(np.array([0.5], np.float32)) in (0, 1)


def test_bound_gaussian_acts_in_the_units_of_the_environment() -> None:
    agent = gaussian_agent(1, action_space=gym.spaces.Box(-2.0, 6.0, (1,)))
    with torch.no_grad():
        agent._actor.weight.zero_()
        agent._actor.bias.copy_(torch.tensor([0.5, -5.0]))
    # tanh(0.5) = 0.46211716 scaled from (−1, 1) to (−2, 6): 2 + 4·0.46211716.
    action = agent.act(np.zeros(3, np.float32), deterministic=True)
    assert action[0] == pytest.approx(3.8484686, abs=1e-5)


def test_binding_a_second_space_is_refused() -> None:
    agent = discrete_agent(action_space=gym.spaces.Discrete(2))
    with pytest.raises(ValueError, match="bound to Discrete"):
        agent.bind_spaces(None, gym.spaces.Discrete(3))
    with pytest.raises(ValueError, match="needs a Discrete action space"):
        discrete_agent().bind_spaces(None, gym.spaces.Box(-1, 1, (2,)))


def test_an_actor_of_the_wrong_width_is_named() -> None:
    agent = discrete_agent(action_space=gym.spaces.Discrete(3))
    with pytest.raises(ValueError, match=r"actor must return logits \[B, 3\], got \[1, 2\]"):
        agent.act(OBS)


def test_nan_observation_is_an_error_not_an_action() -> None:
    with pytest.raises(NonFiniteError, match="policy output"):
        discrete_agent().act(np.full(4, np.nan, np.float32))


def test_acting_outside_the_rollout_leaves_its_random_numbers_alone() -> None:
    plain, disturbed = discrete_agent(), discrete_agent()
    actions = []
    for i in range(50):
        if i % 3 == 0:
            with no_recording():
                disturbed.act(OBS)
        actions.append((plain.act(OBS), disturbed.act(OBS)))
    assert [a for a, _ in actions] == [b for _, b in actions]
    assert {a for a, _ in actions} == {0, 1}


# --- what a window holds after act_rows -----------------------------------------------------------


def test_act_rows_writes_log_probs_and_values_of_the_chosen_actions() -> None:
    agent = discrete_agent()
    window = cartpole_window(agent)
    obs = torch.from_numpy(window.observations)
    with torch.no_grad():
        dist = torch.distributions.Categorical(logits=agent._actor(obs))
        log_probs = dist.log_prob(torch.from_numpy(window.actions))
        values = agent._critic(obs).squeeze(-1)
    torch.testing.assert_close(torch.from_numpy(window.log_probs), log_probs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.from_numpy(window.values), values, rtol=1e-5, atol=1e-6)


def test_gaussian_window_stores_the_sample_before_squashing() -> None:
    agent = make_agent("ppo", gym.make("Pendulum-v1"), seed=3)
    pipeline = BatchPipeline(gym.make("Pendulum-v1"), agent, window_size=20, seed=3)
    window = next(pipeline.episodes())
    assert window.pre_tanh.shape == (20, 1)
    np.testing.assert_allclose(window.actions, 2.0 * np.tanh(window.pre_tanh), rtol=1e-5)


# --- learning -------------------------------------------------------------------------------------


def test_one_update_equals_the_textbook_update() -> None:
    """One epoch, one minibatch, against PPO written out with torch.distributions."""
    agent = discrete_agent(params={"n_epochs": 1, "minibatch_size": 1000, "entropy_coef": 0.02})
    window = cartpole_window(agent)
    twin = discrete_agent(seed=0)
    actor, critic = twin._actor, twin._critic
    obs, act = torch.from_numpy(window.observations), torch.from_numpy(window.actions)
    rewards, values = window.grid("rewards"), window.grid("values")
    ends = window.grid("terminated")
    assert not window.truncated.any()
    with torch.no_grad():
        following = critic(torch.from_numpy(window.next_observations)).squeeze(-1).numpy()
    advantages = np.zeros_like(values)
    carry = np.zeros(2)
    for t in reversed(range(len(values))):
        successor = following if t == len(values) - 1 else values[t + 1]
        delta = rewards[t] + 0.99 * successor * ~ends[t] - values[t]
        carry = delta + 0.99 * 0.95 * ~ends[t] * carry
        advantages[t] = carry
    returns = torch.from_numpy((advantages + values).reshape(-1).astype(np.float32))
    adv = torch.from_numpy(advantages.reshape(-1).astype(np.float32))
    adv = (adv - adv.mean()) / (adv.std() + 1e-8)
    dist = torch.distributions.Categorical(logits=actor(obs))
    ratio = (dist.log_prob(act) - torch.from_numpy(window.log_probs)).exp()
    surrogate = torch.minimum(ratio * adv, ratio.clamp(0.8, 1.2) * adv).mean()
    value_loss = (critic(obs).squeeze(-1) - returns).square().mean()
    loss = -surrogate + 0.5 * value_loss - 0.02 * dist.entropy().mean()
    loss.backward()
    parameters = [*actor.parameters(), *critic.parameters()]
    nn.utils.clip_grad_norm_(parameters, 0.5)
    torch.optim.Adam(parameters, lr=3e-4).step()

    diagnostics = agent.learn(window)

    # Adam's first step is lr·sign-like, so a relative tolerance on the parameters is the honest one.
    torch.testing.assert_close(flat_parameters(agent), flat_parameters(twin), rtol=1e-5, atol=1e-6)
    assert diagnostics["value_loss"] == pytest.approx(value_loss.item(), rel=1e-5)
    assert diagnostics["entropy"] == pytest.approx(dist.entropy().mean().item(), rel=1e-5)
    assert diagnostics["n_updates"] == 1


def value_is(agent: TorchPPOAgent, value: float) -> None:
    with torch.no_grad():
        agent._critic[-1].weight.zero_()
        agent._critic[-1].bias.fill_(value)


def returns_of(agent: TorchPPOAgent, window: EpisodeData) -> list[float]:
    config = PPOConfig(gamma=0.5, gae_lambda=1.0)
    batch = make_batch(agent._policy, window, config, reference, ActQueue(), None)
    return batch.returns.tolist()


def test_truncated_row_bootstraps_its_final_observation_and_terminated_does_not() -> None:
    agent = discrete_agent()
    value_is(agent, 50.0)
    fields = scripted()
    fields["terminated"][0] = True
    fields["truncated"][1] = True
    window = EpisodeData(
        **fields,
        final_rows=np.array([0, 1]),
        final_observations=np.zeros((2, 4), np.float32),
        next_observations=np.zeros((1, 4), np.float32),
    )
    # Row 0 ends: 1. Row 1 is cut: 1 + 0.5·50. Row 2 goes on: 1 + 0.5·50.
    assert returns_of(agent, window) == [1.0, 26.0, 26.0]


def test_window_edge_bootstraps_final_obs_of_a_window_in_the_old_format() -> None:
    agent = discrete_agent()
    value_is(agent, 8.0)
    window = EpisodeData(**scripted(), final_obs=np.zeros(4, np.float32))
    # 1 + 0.5·8 = 5; 1 + 0.5·5 = 3.5; 1 + 0.5·3.5 = 2.75.
    assert returns_of(agent, window) == [2.75, 3.5, 5.0]


def test_truncated_last_row_bootstraps_final_obs_of_a_window_in_the_old_format() -> None:
    agent = discrete_agent()
    value_is(agent, 8.0)
    fields = scripted()
    fields["truncated"][2] = True
    window = EpisodeData(**fields, final_obs=np.zeros(4, np.float32))
    assert returns_of(agent, window) == [2.75, 3.5, 5.0]


@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize("cut", ["by a time limit", "by the end of the window"])
def test_row_whose_successor_is_unknown_teaches_nothing_and_bootstraps_the_rows_before(
    cut: str, n_envs: int
) -> None:
    agent = discrete_agent()
    value_is(agent, 50.0)  # of nothing in the window
    fields = scripted(4)
    fields["values"] = np.array([3.0, 5.0, 7.0, 9.0], np.float32)
    if cut == "by a time limit":
        # Two environments: rows 2 and 3 are the second step of each.
        fields["truncated"][2 if n_envs == 2 else 1] = True
        fields["terminated"][3] = True
    expected = {
        # Row 1's return is its value, 5; row 0: 1 + 0.5·5. Row 3 ends: 1; row 2: 1 + 0.5·1.
        ("by a time limit", 1): [3.5, 5.0, 1.5, 1.0],
        # Row 3's return is its value: 1 + 0.5·9 = 5.5, 1 + 0.5·5.5 = 3.75, 1 + 0.5·3.75 = 2.875.
        ("by the end of the window", 1): [2.875, 3.75, 5.5, 9.0],
        ("by a time limit", 2): [1 + 0.5 * 7.0, 1.5, 7.0, 1.0],
        ("by the end of the window", 2): [1 + 0.5 * 7.0, 1 + 0.5 * 9.0, 7.0, 9.0],
    }
    window = EpisodeData(**fields, n_envs=n_envs)
    assert returns_of(agent, window) == pytest.approx(expected[cut, n_envs], rel=1e-6)
    if n_envs == 2:  # one observation cannot be the last of two environments
        window.final_obs = np.zeros(4, np.float32)
        assert returns_of(agent, window) == pytest.approx(expected[cut, n_envs], rel=1e-6)


def test_unknown_successors_count_for_nothing_without_discount() -> None:
    agent = discrete_agent()
    fields = scripted()
    fields["truncated"][1] = True
    config = PPOConfig(gamma=0.0)
    batch = make_batch(agent._policy, EpisodeData(**fields), config, reference, ActQueue(), None)
    assert batch.returns.tolist() == [1.0, 1.0, 1.0]


def test_rewards_are_scaled_by_statistics_that_know_the_window() -> None:
    agent, normalizer, twin = discrete_agent(), RewardNormalizer(0.5), RewardNormalizer(0.5)
    fields = scripted()
    fields["rewards"] = np.array([4.0, -2.0, 10.0], np.float32)
    fields["terminated"][:] = True
    config = PPOConfig(gamma=0.5, gae_lambda=1.0)
    batch = make_batch(agent._policy, EpisodeData(**fields), config, reference, ActQueue(), normalizer)
    for reward in fields["rewards"]:
        twin.step(reward)
        twin.reset()
    # The rewards are the returns: mean 4, variance 24, save for the weight of the initial guess.
    assert twin.statistics.var == pytest.approx(24.0, rel=1e-3)
    expected = fields["rewards"] / np.sqrt(twin.statistics.var + 1e-8)
    np.testing.assert_allclose(batch.returns, expected, rtol=1e-6)
    np.testing.assert_allclose(batch.returns, fields["rewards"] / np.sqrt(24.0), rtol=1e-3)


def test_window_advantages_have_mean_zero_and_unbiased_deviation_one() -> None:
    agent = discrete_agent()
    fields = scripted()
    fields["rewards"] = np.array([1.0, 2.0, 6.0], np.float32)
    fields["terminated"][:] = True

    def advantages(rows: int) -> list[float]:
        window = EpisodeData(**{name: x[:rows] if name != "episode_id" else x for name, x in fields.items()})
        config = PPOConfig(normalize_advantages="window")
        batch = make_batch(agent._policy, window, config, reference, ActQueue(), None)
        return batch.advantages.tolist()

    # Mean 3; (4 + 1 + 9) / 2 = 7.
    assert advantages(3) == pytest.approx([-2 / 7**0.5, -1 / 7**0.5, 3 / 7**0.5], rel=1e-6)
    assert advantages(1) == [1.0]  # one row is left as it is


def test_invalid_rows_do_not_change_what_is_learned() -> None:
    def learned(garbage: float) -> torch.Tensor:
        agent = discrete_agent(params={"n_epochs": 1, "minibatch_size": 3})
        env = gym.make_vec("CartPole-v1", num_envs=2, vectorization_mode="vector_entry_point")
        pipeline = VectorBatchPipeline(vector_env=env, agent=agent, window_size=64, seed=1)
        window = next(pipeline.episodes())
        assert window.valid is not None and not window.valid.all()
        for name in ("rewards", "values", "log_probs"):
            grid = window.grid(name)
            grid[~window.valid] = garbage
        agent.learn(window)
        return flat_parameters(agent)

    assert torch.equal(learned(0.0), learned(1e6))


def test_native_and_reference_ops_train_alike() -> None:
    def trained(backend: str) -> torch.Tensor:
        agent = discrete_agent(backend=backend)
        agent.learn(cartpole_window(agent, n_envs=4, window_size=64))
        return flat_parameters(agent)

    reference_result, result = trained("torch"), trained("auto")
    # 16 minibatches with smooth activations: the design's 1e-5 after 10.
    assert (result - reference_result).norm() / reference_result.norm() < 2e-5


def test_target_kl_ends_the_updates_of_a_window() -> None:
    agent = discrete_agent(params={"n_epochs": 50, "learning_rate": 0.05, "target_kl": 0.01})
    diagnostics = agent.learn(cartpole_window(agent))
    assert diagnostics["n_updates"] < 100


def test_learning_rate_is_annealed_over_the_given_steps() -> None:
    agent = discrete_agent(params={"learning_rate": 1e-3, "anneal_steps": 128})
    first = agent.learn(cartpole_window(agent))
    second = agent.learn(cartpole_window(agent))
    assert (first["learning_rate"], second["learning_rate"]) == pytest.approx((1e-3, 5e-4))
    assert agent.get_hyperparams().params["learning_rate"] == 1e-3


def test_obs_normalizer_is_updated_after_learning_from_the_window() -> None:
    normalizer = ObsNormalizer((4,))
    agent = discrete_agent(obs_normalizer=normalizer)
    window = cartpole_window(agent)
    assert normalizer.statistics.count == pytest.approx(1e-4)
    agent.learn(window)
    assert normalizer.statistics.count == pytest.approx(64, abs=1e-3)
    np.testing.assert_allclose(normalizer.mean, window.observations.mean(axis=0), atol=1e-5)


def test_masked_actions_are_never_taken_and_learning_with_masks_works() -> None:
    class Masked(gym.Wrapper):  # type: ignore[type-arg]
        def reset(self, **kwargs: Any) -> Any:
            obs, info = self.env.reset(**kwargs)
            return obs, {**info, "action_mask": np.array([1, 0], np.int8)}

        def step(self, action: Any) -> Any:
            obs, reward, terminated, truncated, info = self.env.step(action)
            return obs, reward, terminated, truncated, {**info, "action_mask": np.array([1, 0], np.int8)}

    agent = discrete_agent()
    pipeline = BatchPipeline(Masked(gym.make("CartPole-v1")), agent, window_size=64, seed=0)
    window = next(pipeline.episodes())
    assert (window.actions == 0).all()
    np.testing.assert_allclose(window.log_probs, 0.0, atol=1e-6)
    diagnostics = agent.learn(window)
    assert diagnostics["entropy"] == pytest.approx(0.0, abs=1e-6)


# --- the documented way to extend an agent --------------------------------------------------------


def test_subclass_reads_the_actor_and_flat_observations() -> None:
    class Logging(TorchPPOAgent):
        def learn(self, episode_data: EpisodeData) -> dict[str, Any]:
            diagnostics = super().learn(episode_data)
            with torch.no_grad():
                logits = self._actor(torch.as_tensor(episode_data.observations[:256]))
            diagnostics["p_left"] = float(logits.softmax(-1)[:, 0].mean())
            return diagnostics

    base = discrete_agent()
    agent = Logging(base._actor, base._critic, base._optimizer, HyperparamSet({}), device="cpu")
    assert 0.0 < agent.learn(cartpole_window(agent))["p_left"] < 1.0


def test_agent_says_which_backend_its_updates_use_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []
    for name, module in (("torch", reference), ("native", ops)):
        loss = module.ppo_loss
        spy = lambda *args, name=name, loss=loss, **kwargs: (used.append(name), loss(*args, **kwargs))[1]  # noqa: E731
        monkeypatch.setattr(module, "ppo_loss", spy)
    agent = discrete_agent(backend="torch")
    assert agent.backend == "torch" and "was asked for" in agent.backend.reason
    agent.learn(cartpole_window(agent))
    assert set(used) == {"torch"}
    served = discrete_agent()
    assert served.backend == process_backend()
    assert bool(served.backend.reason) == (process_backend() == "torch")
    used.clear()
    served.learn(cartpole_window(served))
    # The core's update has its loss within; where it does not run, the op beside it is called.
    assert (used == []) == (served.backend == "native")
