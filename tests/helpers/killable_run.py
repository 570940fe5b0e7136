"""An off-policy run that is killed at random moments and resumed, and the same run left alone.

Used as a script: python killable_run.py DIRECTORY. Importing takes longer than a run, so runs are forked from
the process that has imported everything.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from functools import partial
from pathlib import Path

import gymnasium as gym
import torch._dynamo  # which the first optimizer imports otherwise, in each of the processes

from optix_fast import BatchPipeline, RLOptimizer, make_agent
from optix_fast.buffers import ReplaySegments
from optix_fast.loop import resume
from optix_fast.serialization import save_state

FINAL = "final.safetensors"
KILLS = 3


def train(directory: Path) -> None:
    """Train in the directory, from the state there if there is one; the agent's last state goes to FINAL. The
    replay is small, wraps round, and lies in some segments."""
    resume.ReplaySegments = partial(ReplaySegments, segment_bytes=4000)  # type: ignore[assignment, misc]
    pipeline = BatchPipeline(gym.make("CartPole-v1"), window_size=32, seed=3)
    hyperparams = {
        "replay_capacity": 300, "learning_starts": 64, "batch_size": 16, "n_step": 3, "per_alpha": 0.6,
    }  # fmt: skip
    agent = make_agent("dqn", pipeline, (16,), hyperparams, seed=3)
    optimizer = RLOptimizer(agent, pipeline, checkpoint_dir=directory, max_episodes=30, state_interval=0)
    if states(directory):
        optimizer.resume()
    optimizer.run()
    save_state(directory / FINAL, agent.state_dict())


def states(directory: Path) -> dict[str, int]:
    """The state files in a directory, and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in directory.glob("run_state-*.safetensors")}


def forked(directory: Path) -> int:
    """`train` in a process of its own, whose number is returned."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            train(directory)
            status = 0
        finally:
            os._exit(status)
    return pid


def main() -> None:
    """Train in whole/ without, in killed/ with interruptions, each of which comes after some progress."""
    whole, killed = Path(sys.argv[1], "whole"), Path(sys.argv[1], "killed")
    assert os.waitpid(forked(whole), 0)[1] == 0
    for _ in range(KILLS):
        before, pid = states(killed), forked(killed)
        while states(killed) == before and os.waitpid(pid, os.WNOHANG) == (0, 0):
            time.sleep(0.001)
        time.sleep(random.uniform(0.0, 0.1))
        os.kill(pid, signal.SIGKILL)
        print("killed after", os.waitpid(pid, 0)[1])
    assert os.waitpid(forked(killed), 0)[1] == 0


if __name__ == "__main__":
    assert torch._dynamo
    main()
