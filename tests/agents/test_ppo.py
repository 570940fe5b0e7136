"""PPO agents: acting, learning, recording, failing, saving, resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from optix_fast import ops, reference
from optix_fast.agents import TorchGaussianPPOAgent, TorchPPOAgent, make_agent
from optix_fast.agents.act_queue import ActQueue
from optix_fast.agents.ppo_batch import make_batch
from optix_fast.agents.ppo_config import PPOConfig
from optix_fast.envs.normalizers import ObsNormalizer, RewardNormalizer
from optix_fast.pipelines import BatchPipeline, VectorBatchPipeline
from optix_fast.types import EpisodeData, HyperparamSet, NonFiniteError, no_recording

OBS = np.array([0.1, -0.2, 0.3, 0.05], np.float32)


def discrete_agent(seed: int = 0, params: dict[str, Any] | None = None, **kwargs: Any) -> TorchPPOAgent:
    generator = torch.Generator().manual_seed(seed)
    nets = []
    for outputs in (2, 1):
        net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, outputs))
        for p in net.parameters():
            with torch.no_grad():
                p.copy_(0.5 * torch.randn(p.shape, generator=generator))
        nets.append(net)
    actor, critic = nets
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=3e-4)
    hyperparams = HyperparamSet({"n_epochs": 2, "minibatch_size": 32, **(params or {})}, episode_id=0)
    return TorchPPOAgent(actor, critic, optimizer, hyperparams, device="cpu", seed=seed, **kwargs)


def gaussian_agent(action_dim: int = 1, **kwargs: Any) -> TorchGaussianPPOAgent:
    width = action_dim if kwargs.get("log_std") == "free" else 2 * action_dim
    torch.manual_seed(0)
    actor, critic = nn.Linear(3, width), nn.Linear(3, 1)
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=1e-3)
    return TorchGaussianPPOAgent(
        actor, critic, optimizer, action_dim, HyperparamSet({}, episode_id=0), device="cpu", seed=0, **kwargs
    )


def cartpole_window(agent: Any, n_envs: int = 2, window_size: int = 32) -> EpisodeData:
    pipeline = VectorBatchPipeline(
        [lambda: gym.make("CartPole-v1")] * n_envs, agent, window_size=window_size, seed=5
    )
    return next(pipeline.episodes())


def flat_parameters(agent: Any) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in agent._policy.parameters()])


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


def scripted(n: int = 3) -> dict[str, Any]:
    return {
        "observations": np.zeros((n, 4), np.float32),
        "actions": np.zeros(n, np.int64),
        "rewards": np.ones(n, np.float32),
        "terminated": np.zeros(n, np.bool_),
        "truncated": np.zeros(n, np.bool_),
        "infos": [{}] * n,
        "episode_id": 0,
        "values": np.zeros(n, np.float32),
        "log_probs": np.full(n, -0.7, np.float32),
    }


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


def test_learning_rate_and_clip_are_annealed_over_the_given_steps() -> None:
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


def test_recorded_calls_do_not_touch_windows_that_carry_log_probs() -> None:
    agent, undisturbed = discrete_agent(), discrete_agent()
    for _ in range(30):
        with no_recording():
            undisturbed.act(OBS)
    window = cartpole_window(agent)
    agent._queue.push(OBS, 0.0, 0.0, np.array(1))
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
    assert "clip_ratio" not in agent.get_hyperparams().params
    assert agent.learn(cartpole_window(agent))["n_updates"] == 3 * 1
    agent._optimizer.param_groups[0]["lr"] = 0.5
    assert agent.get_hyperparams().params["learning_rate"] == 0.5


def test_hyperparams_given_and_returned_are_copies() -> None:
    agent = discrete_agent()
    agent.get_hyperparams().params["clip_ratio"] = 99.0
    assert "clip_ratio" not in agent.get_hyperparams().params


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"gamma": 1.5}, "gamma must be between"),
        ({"learning_rate": float("nan")}, "learning_rate must be between"),
        ({"n_epochs": 0}, "n_epochs must be at least 1"),
        ({"minibatch_size": -3}, "minibatch_size must be at least 1"),
        ({"normalize_advantages": "yes"}, "normalize_advantages must be"),
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


def assert_same(a: Any, b: Any, path: str = "") -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    elif isinstance(a, np.ndarray):
        np.testing.assert_array_equal(a, b, err_msg=path)
    else:
        assert a == b, path


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


def test_agent_says_which_backend_its_updates_use() -> None:
    assert discrete_agent(backend="torch").backend == "torch"
    assert discrete_agent().backend in ("native", "torch")
    assert ops is not reference
