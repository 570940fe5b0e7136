"""What other layers and other observations cost: PPO's windows of 128 × 8 steps of CartPole.

    pytest benchmarks/bench_networks.py --benchmark-only
    python benchmarks/bench_networks.py       steps per second of processor time, alternating, and ratios

Every row is the same PPO (stepping, acting, 10 epochs of minibatches of 256); `plain` is one Box and two
hidden layers of 64 with tanh, `wide` two of 256. `dict` shows the same four numbers as three Boxes, with a
Discrete beside them; `box of six` is one Box with as many columns as the Dict has behind its encoder.
Gymnasium takes longer to step environments with Dict observations; "without stepping" leaves out what it
needs alone.
"""

from __future__ import annotations

import statistics
import time

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from optix_fast import VectorBatchPipeline, make_agent

T, N = 128, 8
PARAMS = {"minibatch_size": 256, "n_epochs": 10}
WIDE = (256, 256)


class Told(gym.ObservationWrapper):
    """CartPole's numbers, and whether the pole leans to the right: as one Box, or in parts."""

    def __init__(self, in_parts):
        super().__init__(gym.make("CartPole-v1"))
        self._in_parts = in_parts
        free = {n: spaces.Box(-np.inf, np.inf, (n,), np.float32) for n in (1, 2, 6)}
        self.observation_space = free[6]
        if in_parts:
            parts = {"cart": free[2], "angle": free[1], "spin": free[1], "leans": spaces.Discrete(2)}
            self.observation_space = spaces.Dict(parts)

    def observation(self, seen):
        leans = int(seen[2] > 0)
        if self._in_parts:
            return {"cart": seen[:2], "angle": seen[2:3], "spin": seen[3:], "leans": leans}
        return np.array([*seen, leans, 1 - leans], np.float32)


def cart_pole():
    return gym.make("CartPole-v1")


def box_of_six():
    return Told(False)


def in_parts():
    return Told(True)


# environment, options of make_agent
ROWS = {
    "plain": (cart_pole, {}),
    "layer norm": (cart_pole, {"norm": "layer"}),
    "rms norm": (cart_pole, {"norm": "rms"}),
    "residual": (cart_pole, {"residual": True}),
    "layer norm, residual": (cart_pole, {"norm": "layer", "residual": True}),
    "batch norm": (cart_pole, {"norm": "batch"}),
    "batch renorm": (cart_pole, {"norm": "batch_renorm"}),
    "dropout": (cart_pole, {"dropout": 0.1}),
    "wide": (cart_pole, {"hidden_sizes": WIDE}),
    "wide, batch norm": (cart_pole, {"hidden_sizes": WIDE, "norm": "batch"}),
    "wide, batch renorm": (cart_pole, {"hidden_sizes": WIDE, "norm": "batch_renorm"}),
    "wide, dropout": (cart_pole, {"hidden_sizes": WIDE, "dropout": 0.1}),
    "box of six": (box_of_six, {}),
    "dict": (in_parts, {}),
}


TORCH = ("plain", "layer norm", "batch norm", "batch renorm", "dropout", "dict")


def windows(make, options, backend):
    options = {"hidden_sizes": (64, 64), **options}
    agent = make_agent("ppo", make(), hyperparams=PARAMS, seed=0, backend=backend, **options)
    pipeline = VectorBatchPipeline([make] * N, agent, window_size=T, seed=0)
    episodes = iter(pipeline.episodes())

    def window():
        agent.learn(next(episodes))

    window()
    return window


def stepping(make):
    """As many steps as a window has, without an agent."""
    env = gym.vector.SyncVectorEnv([make] * N, autoreset_mode=gym.vector.AutoresetMode.SAME_STEP)
    env.reset(seed=0)
    actions = np.random.default_rng(0).integers(0, 2, (T, N))

    def window():
        for row in actions:
            env.step(row)

    return window


@pytest.mark.parametrize("backend", ["native", "torch"])
@pytest.mark.parametrize("row", ROWS)
def test_networks(benchmark, row, backend):
    benchmark.group = f"ppo-window-128x8-{row.replace(', ', '+').replace(' ', '_')}-cpu"
    benchmark.pedantic(windows(*ROWS[row], backend), rounds=3, iterations=1)


def main(rounds=12):
    calls = {name: windows(*row, "native") for name, row in ROWS.items()}
    calls |= {f"{name}, torch": windows(*ROWS[name], "torch") for name in TORCH}
    calls |= {make: stepping(make) for make in (cart_pole, box_of_six, in_parts)}
    seconds = {name: [] for name in calls}
    for round_ in range(rounds):
        for name, call in calls.items():
            if round_ < 3 or not str(name).endswith("torch"):
                seconds[name].append(processor_time(call))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    own = {
        name: medians[name] - medians[ROWS[name.removesuffix(", torch")][0]]
        for name in medians
        if type(name) is str
    }
    for name in own:
        base = "box of six" if name.startswith("dict") else "wide" if name.startswith("wide") else "plain"
        print(
            f"{name:22} {T * N / medians[name]:8.0f} steps/s, {medians[base] / medians[name]:.2f} of {base}; "
            f"without stepping {T * N / own[name]:8.0f}, {own[base] / own[name]:.2f}"
        )


def processor_time(call):
    start = time.process_time()
    call()
    return time.process_time() - start


if __name__ == "__main__":
    main()
