"""The generic agent: returns with boundaries, both baselines, losses of one's own, acting, learning."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from ppo_cases import assert_same
from torch import Tensor, nn

from optix_fast import RLOptimizer, TorchAgent, evaluate_policy
from optix_fast.learners.policy_gradient import make_targets
from optix_fast.pipelines import BatchPipeline, VectorBatchPipeline
from optix_fast.types import EpisodeData, HyperparamSet, NonFiniteError, no_recording

CPU = torch.device("cpu")
OBS = np.array([0.1, -0.2, 0.3, 0.05], np.float32)


def generic_agent(
    params: dict[str, Any] | None = None, loss: Any = None, kind: Any = TorchAgent, **options: Any
) -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    settings = {"device": "cpu", "seed": 0, **options}
    return kind(model, optimizer, HyperparamSet(params or {}), loss, **settings)


def window(rewards: list[float], **fields: Any) -> EpisodeData:
    n = len(rewards)
    rng = np.random.default_rng(1)
    given = {
        "observations": rng.normal(size=(n, 4)).astype(np.float32),
        "actions": np.arange(n) % 2,
        "rewards": np.array(rewards, np.float32),
        "terminated": np.zeros(n, np.bool_),
        "truncated": np.zeros(n, np.bool_),
        "infos": [{}] * n,
        "episode_id": 0,
    }
    return EpisodeData(**{**given, **fields})  # type: ignore[arg-type]


def flat(agent: Any) -> Tensor:
    return nn.utils.parameters_to_vector(agent.model.parameters()).detach()


def flags(n: int, *at: int) -> Any:
    return np.isin(np.arange(n), at)


def returns_of(data: EpisodeData) -> list[float]:
    return make_targets(data, 0.5, CPU).returns.tolist()


# --- returns and targets ------------------------------------------------------------------------


def test_returns_stop_where_an_episode_ends() -> None:
    # Row 1 ends an episode: 1 + 0.5·2 = 2, 2. Row 3 is cut: 4 + 0.5·8 = 8, 8. Row 4 is the window's last: 16.
    data = window([1, 2, 4, 8, 16], terminated=flags(5, 1), truncated=flags(5, 3))
    assert returns_of(data) == [2.0, 2.0, 8.0, 8.0, 16.0]


def test_what_is_cut_goes_on_with_the_values_that_are_known() -> None:
    data = window(
        [1, 2, 4, 8, 16],
        terminated=flags(5, 1),
        truncated=flags(5, 3),
        values=np.array([10, 20, 30, 40, 50], np.float32),
    )
    # Rows 3 and 4 are worth what their values say: 40 and 50; row 2 builds on that: 4 + 0.5·40.
    assert returns_of(data) == [2.0, 2.0, 24.0, 40.0, 50.0]
    data.final_values = np.array([[7], [7], [7], [6], [7]], np.float32)
    # The true final observation's value is better: row 3 is 8 + 0.5·6 = 11, row 2 4 + 0.5·11.
    assert returns_of(data) == [2.0, 2.0, 9.5, 11.0, 50.0]


def test_a_row_both_terminated_and_truncated_is_an_end() -> None:
    values = np.full(2, 100, np.float32)
    data = window([1, 2], terminated=flags(2, 0, 1), truncated=flags(2, 0, 1), values=values)
    data.final_values = values[:, None]
    assert returns_of(data) == [1.0, 2.0]


def test_environments_of_a_window_do_not_mix_and_invalid_rows_are_left_out() -> None:
    # Two environments, three steps: the first ends at step 0 and resets in step 1 (invalid).
    valid = np.array([[1, 1], [0, 1], [1, 1]], np.bool_)
    data = window([1, 2, 4, 8, 16], terminated=flags(5, 0), n_envs=2, valid=valid)
    # Environment 0: rows 1 | 8. Environment 1: 2, 4, 16: 16, 4 + 8, 2 + 6.
    assert returns_of(data) == [1.0, 8.0, 12.0, 8.0, 16.0]


def test_targets_are_normalised_returns_without_values_and_advantages_with_them() -> None:
    data = window([0, 4, 8], terminated=flags(3, 0, 1, 2))
    assert make_targets(data, 0.5, CPU).targets.tolist() == pytest.approx([-1.0, 0.0, 1.0])
    # G − V = −1, 3, 7 − 4, whose mean is 5/3 and whose deviation is sqrt((64 + 16 + 16)/9/2) = 4/sqrt(3).
    data.values = np.array([1, 1, 5], np.float32)
    made = make_targets(data, 0.5, CPU)
    assert made.targets.tolist() == pytest.approx([-2 / math.sqrt(3), 1 / math.sqrt(3), 1 / math.sqrt(3)])
    assert made.values is not None and made.values.tolist() == [1.0, 1.0, 5.0]


def test_a_single_row_is_not_normalised() -> None:
    assert make_targets(window([3], terminated=flags(1, 0)), 0.5, CPU).targets.tolist() == [3.0]


# --- learning -----------------------------------------------------------------------------------


def test_one_update_equals_the_policy_gradient_written_out() -> None:
    agent, twin = generic_agent({"gamma": 0.5}), generic_agent()
    data = window([0, 4, 8], terminated=flags(3, 0, 1, 2))
    log_probs = torch.log_softmax(twin.model(torch.from_numpy(data.observations)), -1)
    # Actions 0, 1, 0 with targets −1, 0, 1.
    loss = -(log_probs[2, 0] - log_probs[0, 0]) / 3
    loss.backward()
    norm = torch.cat([p.grad.flatten() for p in twin.model.parameters()]).norm()
    twin.optimizer.step()
    diagnostics = agent.learn(data)
    assert sorted(diagnostics) == ["baseline_type", "explained_variance", "grad_norm", "loss"]
    assert diagnostics["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert diagnostics["grad_norm"] == pytest.approx(norm.item(), rel=1e-5)
    assert diagnostics["baseline_type"] == "reinforce" and math.isnan(diagnostics["explained_variance"])
    for ours, theirs in zip(agent.model.parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_values_make_it_a2c_and_say_how_good_they_are() -> None:
    data = window([0, 4, 8], terminated=flags(3, 0, 1, 2), values=np.array([0, 2, 4], np.float32))
    diagnostics = generic_agent().learn(data)
    assert diagnostics["baseline_type"] == "a2c"
    # Var(0, 2, 4) is a quarter of Var(0, 4, 8).
    assert diagnostics["explained_variance"] == pytest.approx(0.75)


def test_loss_function_gets_model_window_and_targets() -> None:
    seen: list[Any] = []

    def loss(model: nn.Module, episode_data: EpisodeData, targets: Tensor) -> Tensor:
        seen.extend((model, episode_data, targets))
        return sum((p.square().sum() for p in model.parameters()), torch.zeros(()))

    agent = generic_agent(loss=loss)
    data = window([0, 4, 8], terminated=flags(3, 0, 1, 2))
    size = float(flat(agent).square().sum())
    assert agent.learn(data)["loss"] == pytest.approx(size)
    assert seen[0] is agent.model and seen[1] is data
    assert seen[2].dtype == torch.float32 and seen[2].tolist() == pytest.approx([-1.0, 0.0, 1.0])
    assert flat(agent).square().sum() < size


def test_gradient_is_clipped_at_the_norm_that_was_asked_for() -> None:
    def moved(**params: float) -> tuple[float, float]:
        agent = generic_agent(params)
        agent.optimizer = torch.optim.SGD(agent.model.parameters(), lr=1.0)
        before = flat(agent)
        norm = agent.learn(window([0, 4, 8], terminated=flags(3, 0, 1, 2)))["grad_norm"]
        return norm, float((flat(agent) - before).norm())

    norm, distance = moved()
    assert distance == pytest.approx(norm, rel=1e-4)
    clipped_norm, clipped_distance = moved(max_grad_norm=0.01)
    assert clipped_norm == pytest.approx(norm) and clipped_distance == pytest.approx(0.01, rel=1e-3)


def test_masked_actions_are_neither_taken_nor_counted() -> None:
    masks = np.array([[True, False]] * 3)
    agent = generic_agent()
    assert (agent.act_batch(np.tile(OBS, (3, 1)), action_masks=masks) == 0).all()
    data = window([0, 4, 8], actions=np.zeros(3, np.int64), action_masks=masks)
    # The only action allowed has probability 1, and nothing to learn.
    assert agent.learn(data)["loss"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.slow
def test_it_learns_to_balance_the_pole() -> None:
    agent = generic_agent()
    pipeline = VectorBatchPipeline([lambda: gym.make("CartPole-v1")] * 8, agent, window_size=128, seed=0)
    windows = pipeline.episodes()
    first = np.mean(next(windows).metadata["episode_returns"])
    for _ in range(40):
        agent.learn(next(windows))
    result = evaluate_policy(agent, lambda: gym.make("CartPole-v1"), episodes=20, max_episode_steps=200)
    # A random policy holds it for 22 steps, this one for 122 to 200 over six seeds.
    assert first < 40 and result.return_mean > 100


def test_the_loop_runs_it(tmp_path: Path) -> None:
    agent = generic_agent()
    pipeline = BatchPipeline(gym.make("CartPole-v1"), agent, window_size=64, seed=0)
    loop = RLOptimizer(agent=agent, pipeline=pipeline, checkpoint_dir=str(tmp_path), max_episodes=6)
    loop.run()
    assert list(tmp_path.rglob("model.safetensors"))


# --- acting -------------------------------------------------------------------------------------


def test_it_explores_while_recording_and_not_in_evaluation() -> None:
    agent = generic_agent()
    p = agent.action_probs(OBS)
    best = int(p.argmax())
    share = np.mean([agent.act(OBS) for _ in range(4000)])
    # Four standard errors of a proportion over 4000 draws.
    assert abs(share - p[1]) < 4 * np.sqrt(p[0] * p[1] / 4000)
    assert [agent.act(OBS, deterministic=True) for _ in range(20)] == [best] * 20
    with no_recording():
        assert [agent.act(OBS) for _ in range(20)] == [best] * 20
        assert {agent.act(OBS, deterministic=False) for _ in range(100)} == {0, 1}
    assert type(agent.act(OBS)) is int


def test_evaluating_does_not_change_the_rollout() -> None:
    plain, disturbed = generic_agent(), generic_agent()
    for _ in range(30):
        with no_recording():
            disturbed.act(OBS, deterministic=False)
        assert plain.act(OBS) == disturbed.act(OBS)


def test_a_window_says_how_probable_its_actions_were() -> None:
    agent = generic_agent()
    data = next(BatchPipeline(gym.make("CartPole-v1"), agent, window_size=32, seed=0).episodes())
    probs = np.stack([agent.action_probs(row) for row in data.observations])
    chosen = probs[np.arange(32), data.actions]
    np.testing.assert_allclose(data.log_probs, np.log(chosen), rtol=1e-4, atol=1e-5)


def test_an_act_of_ones_own_counts_everywhere() -> None:
    class AlwaysRight(TorchAgent):
        def act(self, observation: Any, deterministic: bool | None = None) -> int:
            return 1

    agent = generic_agent(kind=AlwaysRight)
    envs = [lambda: gym.make("CartPole-v1")] * 2
    data = next(VectorBatchPipeline(envs, agent, window_size=16, seed=0).episodes())
    assert (data.actions == 1).all()
    agent.learn(data)
    # Pushed one way only, the pole falls within eleven steps.
    assert evaluate_policy(agent, envs[0], episodes=4).return_mean < 11


def test_actions_of_any_kind_with_an_act_and_a_loss_of_ones_own() -> None:
    class Steady(TorchAgent):
        def act(self, observation: Any, deterministic: bool | None = None) -> Any:
            with torch.no_grad():
                return self.model(torch.from_numpy(observation)).clamp(-2, 2).numpy()

    def loss(model: nn.Module, episode_data: EpisodeData, targets: Tensor) -> Tensor:
        observations = torch.from_numpy(episode_data.observations).to(targets.device)
        actions = torch.from_numpy(episode_data.actions).to(targets.device)
        return ((model(observations) - actions).square().sum(-1) * targets).mean()

    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    agent = Steady(model, optimizer, HyperparamSet({}), loss, device="cpu")
    data = next(BatchPipeline(gym.make("Pendulum-v1"), agent, window_size=16, seed=0).episodes())
    assert math.isfinite(agent.learn(data)["loss"])


# --- errors -------------------------------------------------------------------------------------


def test_constructor_names_the_argument_of_the_wrong_kind() -> None:
    model = nn.Linear(4, 2)
    good = {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "hyperparams": HyperparamSet({}),
        "device": "cpu",
    }
    for name, wrong in (("model", 3), ("optimizer", "adam"), ("hyperparams", {}), ("compute_loss_fn", 1)):
        with pytest.raises(TypeError, match=f"^{name} must be"):
            TorchAgent(**{**good, name: wrong})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="^device"):
        TorchAgent(**{**good, "device": "gpu"})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Discrete action space"):
        TorchAgent(**good).bind_spaces(None, gym.spaces.Box(-1, 1, (2,)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"rewards": np.array([1, np.nan, 1])}, NonFiniteError, "reward"),
        ({"values": np.array([1, np.inf, 1])}, NonFiniteError, "value"),
        ({"observations": np.full((3, 4), np.nan, np.float32)}, NonFiniteError, "loss"),
        ({"values": np.zeros((3, 2))}, ValueError, r"values must be one number for each of the 3 rows"),
        ({"values": np.zeros(2)}, ValueError, "values must have"),
        ({"actions": np.zeros((3, 1), np.int64)}, ValueError, r"actions must be integers \[3\], got int64"),
        ({"actions": np.zeros(3)}, ValueError, r"actions must be integers \[3\], got float64"),
        ({"actions": np.array([0, 2, 1])}, ValueError, "actions must be among the model's 2, got 0 to 2"),
    ],
)
def test_a_bad_window_is_named_and_changes_nothing(fields: Any, error: Any, message: str) -> None:
    agent = generic_agent()
    agent.learn(window([1, 2, 3]))
    before = agent.state_dict()
    with pytest.raises(error, match=message):
        agent.learn(window(**{"rewards": [1, 2, 3], **fields}))
    assert_same(agent.state_dict(), before)


def test_empty_window_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        generic_agent().learn(window([]))


def test_a_loss_function_that_fails_changes_nothing() -> None:
    def spoil(model: nn.Module, episode_data: EpisodeData, targets: Tensor) -> Tensor:
        with torch.no_grad():
            model[0].weight.zero_()  # type: ignore[index, operator, union-attr]
        raise KeyError("mine")

    agent = generic_agent(loss=spoil)
    before = agent.state_dict()
    with pytest.raises(KeyError, match="mine"):
        agent.learn(window([1, 2]))
    assert_same(agent.state_dict(), before)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (1.0, "got float"),
        (torch.ones(3, requires_grad=True), r"got \[3\] tensor"),
        (torch.ones(()), r"got \[\] tensor without a gradient"),
    ],
)
def test_a_loss_that_is_none_is_refused(returned: Any, message: str) -> None:
    agent = generic_agent(loss=lambda model, episode_data, targets: returned)
    with pytest.raises(TypeError, match=f"compute_loss_fn must return .*{message}"):
        agent.learn(window([1, 2]))


def test_infinite_gradient_stops_before_the_step() -> None:
    def loss(model: nn.Module, episode_data: EpisodeData, targets: Tensor) -> Tensor:
        first = next(iter(model.parameters())).sum()
        return (first - first.detach()).sqrt()

    agent = generic_agent(loss=loss)
    before = agent.state_dict()
    with pytest.raises(NonFiniteError, match="gradient"):
        agent.learn(window([1, 2]))
    assert_same(agent.state_dict(), before)


def test_nan_observation_is_an_error_not_an_action() -> None:
    with pytest.raises(NonFiniteError, match="policy output"):
        generic_agent().act(np.full(4, np.nan, np.float32))


# --- hyperparameters, weights, state --------------------------------------------------------------


def test_hyperparameters_are_replaced_whole_and_the_rate_is_the_optimizers() -> None:
    agent = generic_agent({"gamma": 0.5})
    assert agent.get_hyperparams().params == {"gamma": 0.5, "learning_rate": 0.01, "max_grad_norm": None}
    agent.set_hyperparams(HyperparamSet({"learning_rate": 0.02}))
    assert agent.optimizer.param_groups[0]["lr"] == 0.02
    assert agent.get_hyperparams().params == {"gamma": 0.99, "learning_rate": 0.02, "max_grad_norm": None}
    for bad in ({"gamma": 1.5}, {"learning_rate": math.nan}, {"max_grad_norm": -1.0}):
        with pytest.raises(ValueError, match=f"{next(iter(bad))} must be between"):
            agent.set_hyperparams(HyperparamSet(bad))
    assert agent.get_hyperparams().params == {"gamma": 0.99, "learning_rate": 0.02, "max_grad_norm": None}
    with pytest.warns(UserWarning, match="unknown hyperparameter 'gama'; the nearest known one is 'gamma'"):
        generic_agent({"gama": 0.9})


def test_weights_travel_by_safetensors_and_older_files(tmp_path: Path) -> None:
    agent, other = generic_agent(), generic_agent()
    agent.perturb_weights(0.5)
    p = agent.action_probs(OBS)
    assert not np.allclose(other.action_probs(OBS), p)
    agent.save_weights(str(tmp_path / "new"))
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["model.safetensors"]
    other.load_weights(str(tmp_path / "new"))
    np.testing.assert_array_equal(other.action_probs(OBS), p)

    (tmp_path / "old").mkdir()
    torch.save(generic_agent().model.state_dict(), tmp_path / "old" / "model.pt")
    other.load_weights(str(tmp_path / "old"))
    np.testing.assert_array_equal(other.action_probs(OBS), generic_agent().action_probs(OBS))

    other.average_weights([str(tmp_path / "new"), str(tmp_path / "old")])
    mean = (agent.model[0].weight + generic_agent().model[0].weight) / 2
    torch.testing.assert_close(other.model[0].weight, mean)
    with pytest.raises(FileNotFoundError, match=r"neither model.safetensors nor model.pt"):
        other.load_weights(str(tmp_path))
    with pytest.raises(ValueError, match="paths must name at least one directory"):
        other.average_weights([])


def test_another_architecture_and_a_pickled_object_are_refused(tmp_path: Path) -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    TorchAgent(model, optimizer, HyperparamSet({}), device="cpu").save_weights(str(tmp_path / "other"))
    agent = generic_agent()
    before = agent.state_dict()
    with pytest.raises(RuntimeError, match="another architecture"):
        agent.load_weights(str(tmp_path / "other"))
    (tmp_path / "whole").mkdir()
    torch.save(model, tmp_path / "whole" / "model.pt")
    with pytest.raises(ValueError, match="cannot be read"):
        agent.load_weights(str(tmp_path / "whole"))
    assert_same(agent.state_dict(), before)


def test_a_resumed_agent_goes_on_as_the_one_that_was_not_stopped() -> None:
    agent, other = generic_agent(), generic_agent(seed=9)
    agent.act(OBS)
    agent.learn(window([1, 2, 3]))
    other.load_state_dict(agent.state_dict())
    for it in (agent, other):
        it.learn(window([3, 1, 2]))
    assert_same(agent.state_dict(), other.state_dict())
    assert [agent.act(OBS) for _ in range(30)] == [other.act(OBS) for _ in range(30)]


@pytest.mark.gpu
def test_everything_is_on_the_device() -> None:
    def loss(model: nn.Module, episode_data: EpisodeData, targets: Tensor) -> Tensor:
        observations = torch.as_tensor(episode_data.observations, device=targets.device)
        return -(torch.log_softmax(model(observations), -1)[:, 0] * targets).mean()

    data = window([0, 4, 8], terminated=flags(3, 0), values=np.ones(3, np.float32))
    for own in (None, loss):
        agent, on_cpu = generic_agent(loss=own, device="cuda"), generic_agent(loss=own)
        assert agent.act(OBS) in (0, 1)
        assert agent.learn(data)["loss"] == pytest.approx(on_cpu.learn(data)["loss"], rel=1e-4)
        assert all(p.device.type == "cuda" for p in agent.model.parameters())
        np.testing.assert_allclose(agent.action_probs(OBS), on_cpu.action_probs(OBS), rtol=1e-4)
    agent.teardown()
    assert agent.device == CPU and agent.act(OBS) in (0, 1)
