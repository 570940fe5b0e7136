"""RNDPipeline: what the bonus is of, that it fades, and that it is never scored."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from optix_fast import (
    BaseAgent,
    BasePipeline,
    BatchPipeline,
    EpisodeData,
    HyperparamSet,
    RLOptimizer,
    RNDPipeline,
    VectorBatchPipeline,
    make_agent,
    no_recording,
)


class Given(BasePipeline):
    """Yields the windows it was given, over and over."""

    def __init__(self, *windows: EpisodeData) -> None:
        self.windows = windows
        self.note = "mine"

    def setup(self) -> None: ...

    def teardown(self) -> None: ...

    @property
    def is_live(self) -> bool:
        return False

    def episodes(self) -> Any:
        return itertools.cycle(copy.deepcopy(self.windows))


def window(observations: Any, rewards: Any = None, done: Any = (), **fields: Any) -> EpisodeData:
    rows = len(observations["x"] if isinstance(observations, dict) else observations)
    terminated = np.zeros(rows, np.bool_)
    terminated[list(done)] = True
    return EpisodeData(
        observations=observations,
        actions=np.zeros(rows, np.int64),
        rewards=np.zeros(rows, np.float32) if rewards is None else np.asarray(rewards, np.float32),
        terminated=terminated,
        truncated=np.zeros(rows, np.bool_),
        infos=[{}] * rows,
        episode_id=0,
        **fields,
    )


def column(values: Any) -> Any:
    return np.asarray(values, np.float32)[:, None]


def bonus_of(pipeline: RNDPipeline) -> Any:
    data = next(pipeline.episodes())
    return (np.asarray(data.rewards) - np.asarray(data.extrinsic_rewards)) / pipeline.eta


class CartWindows:
    """CartPole with a random policy."""

    def act(self, observation: Any) -> int:
        return int(observation[2] > 0)


def cartpole(seed: int = 0, window_size: int = 64) -> BatchPipeline:
    return BatchPipeline(gym.make("CartPole-v1"), CartWindows(), window_size, seed=seed)


# --- what the bonus is of ------------------------------------------------------------------------


def test_every_row_has_the_bonus_of_what_its_action_led_to():
    # Rows 0 … 4 lead to 1, 2 (row 1 ends an episode in 9), 3, 4, and the last row to 5.
    data = window(
        column([0, 1, 2, 3, 4]),
        done=[1],
        next_observations=column([5]),
        final_rows=np.array([1]),
        final_observations=column([9]),
    )
    own = RNDPipeline(Given(data), 1, n_updates=1)
    led_to = RNDPipeline(Given(window(column([0, 1, 9, 3, 4]), next_observations=column([5]))), 1)
    bonus = bonus_of(own)
    assert bonus.shape == (5,)
    assert (bonus > 0).all()
    np.testing.assert_allclose(bonus, bonus_of(led_to), rtol=1e-6)


def test_literal_bonus_of_networks_set_by_hand():
    data = window(column([0, 1]), rewards=[1.0, 2.0], next_observations=column([3]))
    pipeline = RNDPipeline(Given(data), 1, embedding_dim=1, eta=0.5, norm_eps=0.0)
    with torch.no_grad():
        for network, weight in ((pipeline._target, 2.0), (pipeline._predictor, 1.0)):
            for parameter in network.parameters():
                parameter.zero_()
            network[0].weight.fill_(1.0)
            network[2].weight.fill_(weight)
    out = next(pipeline.episodes())
    # It led to 1 and 3: normalised by mean 2 and deviation 1, -1 and 1 (to 1e-4); after the ReLU 0 and 1.
    # Squared distances 0 and (2 - 1)² = 1, whose deviation is 0.5: bonuses 0 and 2.
    assert out.rewards == pytest.approx([1.0, 2.0 + 0.5 * 2.0], rel=1e-3)
    assert out.extrinsic_rewards.tolist() == [1.0, 2.0]
    assert out.metadata["intrinsic_mean"] == pytest.approx(1.0, rel=1e-3)


def test_rows_that_are_no_steps_have_no_part_in_it():
    def env() -> gym.Env:
        return gym.make("CartPole-v1", max_episode_steps=5)

    vector = SyncVectorEnv([env] * 3, autoreset_mode=AutoresetMode.NEXT_STEP)
    pipeline = RNDPipeline(VectorBatchPipeline(vector_env=vector, agent=CartWindows(), window_size=20), 4)
    data = next(pipeline.episodes())
    assert not data.valid.all()
    assert data.rewards.shape == data.extrinsic_rewards.shape == (data.valid.sum(),)
    assert (data.rewards > data.extrinsic_rewards).all()
    assert data.grid("rewards")[~data.valid].tolist() == [0.0] * int((~data.valid).sum())


def led_to(*values: float) -> Any:
    """The bonus of a window whose rows led to these numbers."""
    data = window(column([0, *values[:-1]]), next_observations=column(values[-1:]))
    return bonus_of(RNDPipeline(Given(data), 1))


def test_rows_of_the_grid_that_are_no_steps_are_neither_learned_nor_counted():
    # Environment 0 shows 0, 1, 2 and then 3. Environment 1 shows 10, ends in 15, is reset, shows 12, then 13.
    data = window(
        column([0, 10, 1, 2, 12]),
        done=[1],
        n_envs=2,
        valid=np.array([[True, True], [True, False], [True, True]]),
        final_rows=np.array([1]),
        final_observations=column([15]),
        next_observations=column([3, 13]),
    )
    pipeline = RNDPipeline(Given(data), 1)
    np.testing.assert_allclose(bonus_of(pipeline), led_to(1, 15, 2, 3, 13), rtol=1e-6)
    assert pipeline._observations.mean == pytest.approx([(1 + 15 + 2 + 3 + 13) / 5], rel=1e-3)


def test_last_row_that_ends_an_episode_did_not_lead_to_the_next_one():
    data = window(column([0, 1, 2]), done=[2], next_observations=column([9]))
    np.testing.assert_allclose(bonus_of(RNDPipeline(Given(data), 1)), led_to(1, 2, 2))


def test_truncated_row_did_not_lead_to_the_next_one():
    data = window(column([0, 1, 2]), next_observations=column([3]))
    data.truncated[1] = True
    np.testing.assert_allclose(bonus_of(RNDPipeline(Given(data), 1)), led_to(1, 1, 3))


def test_end_that_is_not_finite_counts_as_the_observation_before_it():
    data = window(
        np.array([[0, 0], [1, 5], [2, 0]], np.float32),
        done=[1],
        next_observations=np.array([[3, 0]], np.float32),
        final_rows=np.array([1]),
        final_observations=np.array([[7, np.nan]], np.float32),
    )
    known = window(np.array([[0, 0], [1, 5], [1, 5]]), next_observations=np.array([[3, 0]]))
    np.testing.assert_allclose(
        bonus_of(RNDPipeline(Given(data), 2)), bonus_of(RNDPipeline(Given(known), 2)), rtol=1e-6
    )


def test_dict_observations_are_flattened():
    a, b = np.arange(8, dtype=np.float32).reshape(4, 2), np.arange(4)
    data = window({"x": a, "y": b}, next_observations={"x": a[:1], "y": b[:1]})
    flat = window(np.column_stack([a, b]), next_observations=np.array([[0.0, 1.0, 0.0]]))
    np.testing.assert_allclose(
        bonus_of(RNDPipeline(Given(data), 3)), bonus_of(RNDPipeline(Given(flat), 3)), rtol=1e-6
    )


def test_wrong_size_is_an_error_that_names_the_right_one():
    data = window({"x": np.zeros((4, 2)), "y": np.zeros(4)})
    with pytest.raises(ValueError, match="obs_dim must be 3, the size of one flattened observation, got 4"):
        next(RNDPipeline(Given(data), 4).episodes())


def test_window_that_does_not_tell_what_followed_uses_what_it_has():
    # Row 1 ends an episode and row 2 the window: both lead to what they show themselves, as far as is known.
    untold = window(column([0, 1, 2]), done=[1])
    same = window(column([0, 1, 1]), next_observations=column([2]))
    np.testing.assert_allclose(bonus_of(RNDPipeline(Given(untold), 1)), bonus_of(RNDPipeline(Given(same), 1)))
    ends = window(column([0, 1, 2]), final_obs=np.array([3.0]))
    told = window(column([0, 1, 2]), next_observations=column([3]))
    np.testing.assert_allclose(bonus_of(RNDPipeline(Given(ends), 1)), bonus_of(RNDPipeline(Given(told), 1)))


# --- that it fades -------------------------------------------------------------------------------


def test_predictor_learns_and_what_is_new_earns_more():
    rng = np.random.default_rng(0)
    known = rng.normal(0, 1, (256, 4)).astype(np.float32)
    odd = known.copy()
    odd[200:] += 6.0
    pipeline = RNDPipeline(Given(*[window(known)] * 40, window(odd)), 4, predictor_lr=3e-3)
    iterator = pipeline.episodes()
    losses = [next(iterator).metadata["rnd_loss"] for _ in range(40)]
    assert losses[-1] < losses[0] / 10
    data = next(iterator)
    bonus = data.rewards - data.extrinsic_rewards
    assert bonus[200:255].mean() > 5 * bonus[:199].mean()


def test_several_steps_per_window_learn_more_than_one():
    def last_loss(n_updates: int) -> float:
        data = window(np.random.default_rng(0).normal(size=(512, 4)))
        iterator = RNDPipeline(Given(data), 4, n_updates=n_updates, minibatch_size=128).episodes()
        return [next(iterator).metadata["rnd_loss"] for _ in range(10)][-1]

    assert last_loss(8) < 0.7 * last_loss(1)


def test_eta_weighs_the_bonus_and_is_never_negative():
    data = window(column([0, 1, 2]))
    a, b = RNDPipeline(Given(data), 1, eta=1.0), RNDPipeline(Given(data), 1, eta=1.0)
    b.set_eta(0.25)
    np.testing.assert_allclose(0.25 * next(a.episodes()).rewards, next(b.episodes()).rewards, rtol=1e-6)
    b.set_eta(-1)
    assert b.eta == 0.0
    assert next(b.episodes()).rewards.tolist() == [0.0, 0.0, 0.0]


# --- that it is never scored ---------------------------------------------------------------------


def test_extrinsic_rewards_are_what_the_loop_scores(tmp_path):
    class Watcher(BaseAgent):
        learned: list[float] = []  # noqa: RUF012

        def act(self, observation: Any) -> int:
            return int(observation[2] > 0)

        def learn(self, episode_data: EpisodeData) -> dict[str, Any]:
            self.learned.append(float(np.sum(episode_data.rewards)))
            return {}

        def get_hyperparams(self) -> HyperparamSet:
            return HyperparamSet({})

        def set_hyperparams(self, hyperparams: HyperparamSet) -> None: ...

        def save_weights(self, path: str) -> None: ...

        def load_weights(self, path: str) -> None: ...

    def run(pipeline: Any, name: str) -> list[dict[str, float]]:
        agent = Watcher()
        optimizer = RLOptimizer(
            agent=agent, pipeline=pipeline, checkpoint_dir=tmp_path / name, max_episodes=5
        )
        optimizer.run()
        keys = ("primary_score", "total_reward", "mean_reward", "reward_std")
        return [{key: entry.metrics[key] for key in keys} for entry in optimizer.controller.history]

    plain = run(cartpole(), "plain")
    pipeline = RNDPipeline(cartpole(), 4, eta=10.0)
    wrapped = run(pipeline, "wrapped")
    assert plain == wrapped
    scores = [entry["primary_score"] for entry in plain]
    new_bests = sum(score > max(scores[:i]) for i, score in enumerate(scores) if i > 0)
    assert pipeline.eta == pytest.approx(10.0 * 0.9**new_bests)  # the loop's schedule
    assert sum(Watcher.learned[5:]) > sum(Watcher.learned[:5])


def test_agent_learns_from_it_and_validation_passes_through():
    pipeline = RNDPipeline(cartpole(window_size=128), 4)
    agent = make_agent("ppo", pipeline, seed=0)
    pipeline.set_agent(agent)
    assert pipeline.agent is agent
    data = next(pipeline.episodes())
    assert agent.learn(data)["n_updates"] > 0
    before = pipeline.state_dict()
    with no_recording():
        untouched = next(pipeline.episodes())
    assert untouched.extrinsic_rewards is None
    assert pipeline.state_dict()["distances"] == before["distances"]


def test_window_of_the_wrapped_pipeline_is_not_written_to():
    given = Given(window(column([0, 1, 2]), rewards=[1, 1, 1]))
    inner = next(given.episodes())
    given.episodes = lambda: iter([inner])  # type: ignore[method-assign]
    out = next(RNDPipeline(given, 1).episodes())
    assert inner.rewards.tolist() == [1, 1, 1]
    assert out.without_bonus().rewards.tolist() == [1, 1, 1]
    assert inner.without_bonus() is inner


# --- state ---------------------------------------------------------------------------------------


def test_state_goes_on_bit_for_bit():
    whole, half = (RNDPipeline(cartpole(), 4, seed=1) for _ in range(2))
    for pipeline in (whole, half):
        iterator = pipeline.episodes()
        for _ in range(3):
            next(iterator)
    resumed = RNDPipeline(cartpole(), 4, seed=2, eta=3.0)
    resumed.load_state_dict(half.state_dict())
    first, second = whole.episodes(), resumed.episodes()
    for _ in range(3):
        a, b = next(first), next(second)
        np.testing.assert_array_equal(a.observations, b.observations)
        np.testing.assert_array_equal(a.rewards, b.rewards)


def test_seed_decides_and_no_global_random_numbers_are_used():
    before = torch.get_rng_state()
    data = window(np.random.default_rng(0).normal(size=(8, 2)))
    one, same, other = (bonus_of(RNDPipeline(Given(data), 2, seed=seed)) for seed in (1, 1, 2))
    assert one.tolist() == same.tolist() != other.tolist()
    assert torch.equal(before, torch.get_rng_state())


def test_other_attributes_are_the_wrapped_pipelines():
    pipeline = RNDPipeline(Given(window(column([0.0]))), 1)
    assert pipeline.note == "mine"
    assert not pipeline.is_live
    assert not hasattr(pipeline, "set_agent")
    with pytest.raises(AttributeError, match="_nothing"):
        pipeline._nothing  # noqa: B018
    assert copy.copy(pipeline).note == "mine"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"pipeline": 5}, TypeError, "pipeline must be an object with setup"),
        ({"pipeline": Given}, TypeError, "pipeline must be an object"),
        ({"obs_dim": 0}, ValueError, "obs_dim must be an integer of at least 1, got 0"),
        ({"obs_dim": (4,)}, ValueError, "obs_dim must be an integer"),
        ({"eta": -0.1}, ValueError, "eta must be a finite number of at least 0"),
        ({"eta": "0.1"}, TypeError, "eta must be a number, got '0.1'"),
        ({"predictor_lr": float("nan")}, ValueError, "predictor_lr must be"),
        ({"n_updates": 0}, ValueError, "n_updates must be an integer of at least 1"),
    ],
)
def test_wrong_arguments_are_named(options, error, message):
    with pytest.raises(error, match=message):
        RNDPipeline(**{"pipeline": Given(), "obs_dim": 1, **options})
