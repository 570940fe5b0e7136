"""PPO learns from a source in real time, over a local socket that hangs up now and then (20 seconds).

The server plays CartPole: it sends an observation as a line of JSON, waits for the action, sends what
follows, and hangs up after every 2000 steps, in the middle of an episode. `CartPoleFeed` is the data source
that a LivePipeline needs: `stream()` connects and yields, `send_action()` answers.
"""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import torch

from optix_fast import LivePipeline, RLOptimizer, make_agent

torch.set_num_threads(1)  # networks this small are slower when torch shares their products out

STEPS_PER_CONNECTION = 2000


def serve(listener: socket.socket) -> None:
    env = gym.make("CartPole-v1")
    env.reset(seed=0)
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return  # the listener was closed
        with connection, connection.makefile("rw") as lines:
            observation, reward, terminated, truncated = env.reset()[0], 0.0, False, False
            for _ in range(STEPS_PER_CONNECTION):
                lines.write(json.dumps([observation.tolist(), reward, terminated, truncated]) + "\n")
                lines.flush()
                if terminated or truncated:
                    observation, reward, terminated, truncated = env.reset()[0], 0.0, False, False
                    continue
                answer = lines.readline()
                if not answer:
                    break
                observation, reward, terminated, truncated, _ = env.step(json.loads(answer))


class CartPoleFeed:
    """What a LivePipeline reads from. The spaces let agents of this package act in one call."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address, self.connections = address, 0
        env = gym.make("CartPole-v1")
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.socket: socket.socket | None = None

    def stream(self) -> Iterator[tuple[Any, float, bool, bool, dict[str, Any]]]:
        with socket.create_connection(self.address) as self.socket, self.socket.makefile("r") as lines:
            self.connections += 1
            for line in lines:  # ends when the server hangs up
                observation, reward, terminated, truncated = json.loads(line)
                yield observation, reward, terminated, truncated, {}

    def send_action(self, action: int) -> None:
        self.socket.sendall(f"{action}\n".encode())

    def close(self) -> None:
        with contextlib.suppress(AttributeError, OSError):  # not connected
            self.socket.shutdown(socket.SHUT_RDWR)  # wakes a stream() that is waiting for a line


listener = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=serve, args=(listener,), daemon=True).start()

feed = CartPoleFeed(listener.getsockname())
pipeline = LivePipeline(
    feed, episode_boundary_fn=LivePipeline.every_n_steps(1024), span_episodes=True, reconnect_delay=0.1
)
agent = make_agent("ppo", pipeline, hyperparams={"learning_rate": 1e-3, "n_epochs": 10}, seed=0)
optimizer = RLOptimizer(
    agent=agent,
    pipeline=pipeline,
    checkpoint_dir="checkpoints/live_socket",
    target_score=400,
    max_episodes=100,
)
optimizer.run()
listener.close()
print(
    f"{optimizer.stop_reason}: best score {optimizer.best_snapshot.eval_metrics.primary_score:.1f} "
    f"after {optimizer.env_steps} steps over {feed.connections} connections"
)
