"""A rollback restores what the best policy was trained with, not its weights alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from backends import both_backends

from optix_fast import BatchPipeline, make_agent
from optix_fast.loop import BackoffScheduler, CheckpointRegistry, LoopController, TorchEvaluator
from optix_fast.types import EpisodeData, HyperparamSet, LoopCallback


class Scored(BatchPipeline):
    """CartPole whose windows say what a script wants."""

    def __init__(self, scores: list[float], **options: Any) -> None:
        super().__init__(gym.make("CartPole-v1"), **options)
        self.scores = scores

    def episodes(self) -> Iterator[EpisodeData]:
        for score, data in zip(self.scores, super().episodes(), strict=False):
            data.metadata["episode_returns"] = [score]
            yield data


class Watch(LoopCallback):
    """The agent's state after every window."""

    def __init__(self, agent: Any) -> None:
        self.agent = agent
        self.states: list[dict[str, Any]] = []
        self.rolled_back_at: int | None = None

    def on_degradation(self, episode_id: int, eval_metrics: Any) -> None:
        self.rolled_back_at = episode_id

    def on_episode_end(self, episode_id: int, eval_metrics: Any) -> None:
        self.states.append(self.agent.state_dict())


def moments(state: dict[str, Any]) -> list[torch.Tensor]:
    return [entry["exp_avg"] for entry in state["model"]["optimizers"]["optimizer"]["state"].values()]


@both_backends
def test_rollback_restores_optimizer_and_normalizer_with_the_weights(tmp_path: Path, backend: Any) -> None:
    scores = [100.0 + i for i in range(8)] + [5.0, 107.0]
    pipeline = Scored(scores, window_size=64, seed=0)
    agent = make_agent("ppo", pipeline, seed=0, backend=backend, normalize_observations=True)
    watch = Watch(agent)

    class Tune(LoopCallback):
        def on_episode_end(self, episode_id: int, eval_metrics: Any) -> None:
            if episode_id == 7:
                agent.set_hyperparams(
                    HyperparamSet({**agent.get_hyperparams().params, "learning_rate": 1e-5})
                )

    controller = LoopController(
        agent,
        TorchEvaluator(),
        None,
        pipeline,
        CheckpointRegistry(tmp_path),
        BackoffScheduler(),
        rollback_on_degradation=True,
        callbacks=[watch, Tune()],
    )
    controller.run()
    assert watch.rolled_back_at == 8
    # Window 7 scored best with the policy that the learn() of window 6 made.
    best, after, before = watch.states[6], watch.states[8], watch.states[7]
    assert all(torch.equal(a, b) for a, b in zip(moments(best), moments(after), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(moments(best), moments(before), strict=True))
    for key, value in best["model"]["networks"]["actor"].items():
        assert torch.equal(value, after["model"]["networks"]["actor"][key])
    assert after["env_steps"] == 9 * 64
    assert after["streams"]["update"] != best["streams"]["update"]
    assert after["hyperparams"]["learning_rate"] == 1e-5
    assert after["model"]["optimizers"]["optimizer"]["param_groups"][0]["lr"] == 1e-5


@pytest.mark.slow
def test_second_rollback_restores_the_same_state(tmp_path: Path) -> None:
    scores = [100.0 + i for i in range(8)] + [5.0, 107.0, 107.0, 5.0]
    pipeline = Scored(scores, window_size=64, seed=0)
    agent = make_agent("ppo", pipeline, seed=0, backend="torch")
    watch = Watch(agent)
    controller = LoopController(
        agent,
        TorchEvaluator(),
        None,
        pipeline,
        CheckpointRegistry(tmp_path),
        BackoffScheduler(max_interval_episodes=1),
        rollback_on_degradation=True,
        callbacks=[watch],
    )
    controller.run()
    assert watch.rolled_back_at == 11
    assert all(
        torch.equal(a, b) for a, b in zip(moments(watch.states[6]), moments(watch.states[11]), strict=True)
    )
