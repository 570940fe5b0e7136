"""The documented code blocks, unchanged, after install().

seed_blocks/ holds them as their users copy them; what a block takes for granted (an agent, a feed) is made
here, and so is the budget: a block's `run()` ends after two windows.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

import optix_fast
from optix_fast import RLOptimizer

BLOCKS = Path(__file__).parent / "seed_blocks"
WINDOW = 256


@pytest.fixture
def run_block(
    installed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Any]]:
    """Runs a block with the names it takes for granted; gives back its names."""
    monkeypatch.chdir(tmp_path)  # checkpoints go to ./checkpoints
    complete = RLOptimizer.run

    def two_windows(self: RLOptimizer) -> Any:
        self.controller.max_episodes = 2
        return complete(self)

    monkeypatch.setattr(RLOptimizer, "run", two_windows)
    torch.manual_seed(0)

    def run(name: str, **given: Any) -> dict[str, Any]:
        names = {"__name__": name, **given}
        exec(compile((BLOCKS / f"{name}.py").read_text(), name, "exec"), names)
        return names

    return run


def networks(obs_dim: int = 4, outputs: int = 2) -> dict[str, Any]:
    actor = nn.Sequential(nn.Linear(obs_dim, 16), nn.Tanh(), nn.Linear(16, outputs))
    critic = nn.Sequential(nn.Linear(obs_dim, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=1e-3)
    return {"actor": actor, "critic": critic, "opt": optimizer}


def ppo() -> Any:
    from tensor_optix import HyperparamSet, TorchPPOAgent

    parts = networks()
    parts["optimizer"] = parts.pop("opt")
    return TorchPPOAgent(**parts, hyperparams=HyperparamSet(params={"learning_rate": 1e-3}, episode_id=0))


def cartpole(agent: Any = None, seed: int = 0) -> Any:
    from tensor_optix import BatchPipeline

    return BatchPipeline(gym.make("CartPole-v1"), agent, WINDOW, seed=seed)


def given() -> dict[str, Any]:
    agent = ppo()
    return {"RLOptimizer": RLOptimizer, "agent": agent, "pipeline": cartpole(agent)}


def trained(names: dict[str, Any]) -> RLOptimizer:
    optimizer: RLOptimizer = names["opt"]
    optimizer.run()
    assert optimizer.windows == 2
    assert optimizer.best_snapshot is not None
    assert Path("checkpoints/manifest.json").is_file()
    return optimizer


# -------------------------------------------------------------------------------------------------


def test_torch_ppo_trains_to_its_end(run_block):
    names = run_block("torch_ppo")
    assert type(names["agent"]) is optix_fast.TorchPPOAgent
    assert names["opt"].env_steps == 2 * 2048
    assert names["opt"].best_snapshot.eval_metrics.primary_score > 8


def test_torch_gaussian_ppo_trains(run_block):
    from tensor_optix import BatchPipeline, HyperparamSet

    class Lander(gym.Env):
        """Eight numbers in, two out; the nearer the actions are to the observation, the better."""

        observation_space = gym.spaces.Box(-1, 1, (8,), np.float32)
        action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.left, self.x = 20, self.np_random.uniform(-1, 1, 8).astype(np.float32)
            return self.x, {}

        def step(self, action):
            self.left -= 1
            return self.x, -float(np.square(action - self.x[:2]).sum()), False, self.left == 0, {}

    agent = run_block("torch_gaussian_ppo", torch=torch, HyperparamSet=HyperparamSet)["agent"]
    pipeline = BatchPipeline(env=Lander(), agent=agent, window_size=WINDOW)
    trained({"opt": RLOptimizer(agent=agent, pipeline=pipeline)})


def test_vector_pipeline_steps_its_environments(run_block):
    names = run_block("vector_pipeline")
    pipeline = names["pipeline"]  # the asynchronous one
    pipeline.set_agent(ppo())
    data = next(pipeline.episodes())
    pipeline.teardown()
    assert (data.length, data.n_envs) == (256 * 8, 8)


def test_normalizers_normalize(run_block):
    rng = np.random.default_rng(0)
    batch = rng.normal(3.0, 2.0, (500, 3))
    names = run_block("normalizers", obs_dim=3, obs_batch=batch, raw_obs=batch[0])
    assert names["normed_obs"] == pytest.approx((batch[0] - 3.0) / 2.0, abs=0.3)


def test_verbose_prints_the_documented_line(run_block, capsys):
    trained(run_block("verbose", **given()))
    assert "  [loop] ep=   0  raw=" in capsys.readouterr().out


def test_backoff_optimizer_is_taken(run_block):
    optimizer = trained(run_block("backoff_optimizer", **given()))
    assert type(optimizer.controller.tuner) is optix_fast.BackoffOptimizer


def test_validation_score_drives_the_checkpoints(run_block):
    names = {**given(), "train_pipeline": cartpole(), "val_pipeline": cartpole(seed=9)}
    names["val_pipeline"].set_agent(names["agent"])
    optimizer = trained(run_block("validation", **names))
    metrics = optimizer.best_snapshot.eval_metrics
    assert metrics.primary_score == metrics.metrics["val_score"]
    assert metrics.generalization_gap is not None


def test_checkpoint_score_chooses_the_checkpoint(run_block):
    scores = iter([5.0, 7.0])

    def eval_policy(agent: Any, env_id: str, seed: int, n_episodes: int) -> float:
        assert (env_id, seed, n_episodes) == ("LunarLander-v3", 42, 5)
        return next(scores)

    optimizer = trained(run_block("checkpoint_score", **given(), eval_policy=eval_policy))
    assert optimizer.best_snapshot.eval_metrics.metrics["checkpoint_score"] == 7.0


def test_rollback_option_is_known(run_block):
    assert trained(run_block("rollback", **given())).controller.rollback_on_degradation


def test_sharpe_evaluator_scores(run_block):
    optimizer = trained(run_block("evaluator", **given()))
    best = optimizer.best_snapshot.eval_metrics
    assert best.primary_score == best.metrics["sharpe"]


def test_live_pipeline_yields_windows_of_a_feed(run_block):
    class MarketFeed:
        def stream(self) -> Any:
            for tick in range(50):
                yield np.full(4, tick, np.float32), 0.5, tick == 49, False, {}

    names = run_block("live_pipeline", **given(), MarketFeed=MarketFeed)
    data = next(names["pipeline"].episodes())
    names["pipeline"].teardown()
    assert data.rewards.tolist() == [0.5] * 49
    assert names["agent"].learn(data)["n_updates"] > 0


def test_callbacks_are_called(run_block, capsys):
    names = run_block("callbacks", **given())
    hooks = names["MyLogger"]()
    optimizer = trained(names)
    hooks.on_improvement(optimizer.best_snapshot)
    hooks.on_dormant(7)
    out = capsys.readouterr().out
    assert out.endswith(
        f"New best: {optimizer.best_snapshot.eval_metrics.primary_score:.4f}\nConverged at window 7\n"
    )


def test_full_configuration_is_accepted_whole(run_block):
    names = {**given(), "val_pipeline": cartpole(seed=9)}
    names["val_pipeline"].set_agent(names["agent"])
    optimizer = trained(run_block("full_configuration", **names))
    assert optimizer.scheduler.current_interval >= 1


@pytest.mark.gpu
def test_device_moves_the_networks(run_block):
    from tensor_optix import HyperparamSet, TorchPPOAgent

    names = {**networks(), "hp": HyperparamSet(params={}, episode_id=0), "TorchPPOAgent": TorchPPOAgent}
    assert run_block("device", **names)["agent"].device.type == "cuda"


def test_no_block_is_left_out():
    source = Path(__file__).read_text()
    assert [p.stem for p in BLOCKS.glob("*.py") if f'run_block("{p.stem}"' not in source] == []
