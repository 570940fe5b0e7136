"""The replayed update against torch's own loop. Without a GPU the recording is the work itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium as gym
import pytest
import torch
from ppo_learners import Learner, distance, learner, permutations, rows_for, torch_update
from torch import nn

from optix_fast.agents import make_agent
from optix_fast.learners.native.networks import UnsupportedError
from optix_fast.learners.ppo.batch import Batch
from optix_fast.learners.ppo.config import PPOConfig
from optix_fast.learners.ppo.graph import GraphPPO, record_on_cuda
from optix_fast.learners.ppo.update import Permutations, Updated
from optix_fast.pipelines import VectorBatchPipeline
from optix_fast.random import RandomStream
from optix_fast.types import NonFiniteError

CONFIG = PPOConfig(minibatch_size=64, n_epochs=2)


class Recorder:
    """Counts recordings; runs the work once, as the real one does."""

    def __init__(self) -> None:
        self.recordings = 0

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        self.recordings += 1
        work()
        return work


class Graph:
    """The graph of a learner; its work is run as it is where nothing else records it."""

    def __init__(self, it: Learner, record: Any = None, device: str = "cpu") -> None:
        self.model = replace(it.model, is_loss_fused=device != "cpu")
        self.replays = GraphPPO(record or (lambda work: work))

    def update(self, batch: Batch, config: PPOConfig) -> Updated:
        return self.replays.update(
            self.model, batch, permutations(config.n_epochs, len(batch.returns)), config
        )


def batch_for(it: Learner, device: str = "cpu", **options: Any) -> tuple[Batch, Any]:
    rows = rows_for(it, **options)
    order = ("observations", "actions", "log_probs", "values", "advantages", "returns", "action_masks")
    parts = {name: getattr(rows, name) for name in order}
    moved = {name: None if part is None else part.to(device) for name, part in parts.items()}
    return Batch(**moved), rows


@pytest.mark.parametrize(
    ("dist", "changes"),
    [
        ("categorical", {}),
        ("multi_discrete", {"max_grad_norm": None}),
        ("state", {"value_clip": 0.2}),
        ("free", {"normalize_advantages": "none"}),
        ("categorical", {"target_kl": 2e-4}),
        ("state", {"target_kl": 2e-4}),
    ],
    ids=str,
)
def test_windows_are_learned_as_torch_does(dist: str, changes: dict[str, Any]) -> None:
    config = PPOConfig(**{"minibatch_size": 64, "n_epochs": 3, **changes})
    it = learner(dist=dist, dtype=torch.float64 if dist == "state" else torch.float32)
    theirs, record = it.twin(), Recorder()
    graph = Graph(it, record)
    for window in range(3):
        batch, rows = batch_for(it, seed=window)
        updated = graph.update(batch, config)
        means, n = torch_update(theirs, rows, permutations(3, 320), config)
        assert updated.n_updates == n
        if "target_kl" in changes:
            assert n < 15
        for name, mean in updated.means.items():
            assert mean == pytest.approx(means[name], rel=1e-3, abs=1e-5), name
    assert distance(it, theirs) < 1e-4
    assert record.recordings == 1


def test_the_last_minibatch_may_be_smaller() -> None:
    it = learner()
    theirs, (batch, rows) = it.twin(), batch_for(it, n=300)
    updated = Graph(it).update(batch, CONFIG)
    assert updated.n_updates == 10
    torch_update(theirs, rows, permutations(2, 300), CONFIG)
    assert distance(it, theirs) < 1e-5


def test_recording_changes_nothing() -> None:
    it = learner()
    before = [p.detach().clone() for p in it.parameters]
    seen: list[bool] = []

    def record(work: Callable[[], None]) -> Callable[[], None]:
        work()
        seen.append(all(torch.equal(p, b) for p, b in zip(it.parameters, before, strict=True)))
        return work

    Graph(it, record).update(batch_for(it)[0], CONFIG)
    assert seen == [True]
    assert not torch.equal(it.parameters[0], before[0])


def test_a_new_learning_rate_needs_no_new_recording_and_other_changes_do() -> None:
    it = learner()
    theirs, record = it.twin(), Recorder()
    graph, (batch, rows) = Graph(it, record), batch_for(it)
    for rate in (3e-4, 1e-3):
        for one in (it, theirs):
            one.optimizer.param_groups[0]["lr"] = rate
        graph.update(batch, CONFIG)
        torch_update(theirs, rows, permutations(2, 320), CONFIG)
    assert distance(it, theirs) < 1e-5
    assert record.recordings == 1
    graph.update(batch, PPOConfig(minibatch_size=64, n_epochs=2, clip_ratio=0.1))
    assert record.recordings == 2
    it.optimizer.param_groups[0]["weight_decay"] = 0.1
    graph.update(batch, PPOConfig(minibatch_size=64, n_epochs=2, clip_ratio=0.1))
    assert record.recordings == 3
    it.actor[0].weight = torch.nn.Parameter(it.actor[0].weight.detach().clone())
    with pytest.raises(UnsupportedError, match="the optimizer does not hold every parameter"):
        graph.update(batch, CONFIG)


CHANGES: dict[str, Callable[[Learner], Any]] = {
    "another activation": lambda it: it.actor.__setitem__(1, nn.ReLU()),
    "another slope": lambda it: setattr(it.critic[1], "alpha", 0.3),
    "a hook": lambda it: it.actor.register_forward_hook(lambda m, i, o: 0.5 * o),
    "a pre-hook": lambda it: it.critic.register_forward_pre_hook(lambda m, i: (2.0 * i[0],)),
    "a forward of its own": lambda it: setattr(it.actor[1], "forward", torch.sin),
    "evaluation mode": lambda it: it.actor.eval(),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_network_is_recorded_anew(what: str) -> None:
    it = learner(activation="elu")
    record = Recorder()
    graph, (batch, rows) = Graph(it, record), batch_for(it)
    graph.update(batch, CONFIG)
    graph.update(batch, CONFIG)
    assert record.recordings == 1
    CHANGES[what](it)
    theirs = it.twin()
    graph.update(batch, CONFIG)
    assert record.recordings == 2
    torch_update(theirs, rows, permutations(2, 320), CONFIG)
    assert distance(it, theirs) < 1e-5


def test_a_hook_that_another_replaces_is_recorded_anew() -> None:
    it, record = learner(), Recorder()
    graph, (batch, _) = Graph(it, record), batch_for(it)
    for recordings in (1, 2, 3):
        handle = it.actor.register_forward_hook(lambda m, i, o: None)
        graph.update(batch, CONFIG)
        handle.remove()
        assert record.recordings == recordings


def test_a_failed_capture_is_logged_once_and_named_by_the_agent(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(work: Any) -> Any:
        attempts.append(work)
        raise RuntimeError("operation not permitted when stream is capturing")

    attempts: list[Any] = []
    agent = make_agent("ppo", gym.make("CartPole-v1"), (8,), {"n_epochs": 1}, seed=0, device="cpu")
    handle = agent.actor.register_forward_hook(lambda *_: None)  # not the core's
    agent._graph = GraphPPO(record=refuse)
    agent._learner._between = agent._graph.update
    pipeline = VectorBatchPipeline([lambda: gym.make("CartPole-v1")] * 2, agent, window_size=16, seed=0)
    windows = [data for data, _ in zip(pipeline.episodes(), range(4), strict=False)]
    for data in windows[:3]:
        agent.learn(data)
        assert agent.backend == "torch"
        assert agent.backend.reason == (
            f"{agent._learner.backend().reason}; the update cannot be captured in a CUDA graph: "
            "operation not permitted when stream is capturing"
        )
    assert [record.getMessage() for record in caplog.records if "CUDA graph" in record.getMessage()] == [
        "PPO updates run in torch: the update cannot be captured in a CUDA graph: "
        "operation not permitted when stream is capturing"
    ]
    assert len(attempts) == 1
    # Another network may be capturable.
    handle.remove()
    agent.actor.register_forward_hook(lambda m, i, o: o)
    agent._graph._record = lambda work: work
    agent.learn(windows[3])
    assert agent.backend.reason == agent._learner.backend().reason


def test_restored_optimizer_state_is_used() -> None:
    it = learner()
    graph, (batch, _) = Graph(it), batch_for(it)
    graph.update(batch, CONFIG)
    saved, weights = it.optimizer.state_dict(), [p.detach().clone() for p in it.parameters]
    saved = torch.utils._pytree.tree_map_only(torch.Tensor, torch.clone, saved)
    graph.update(batch, CONFIG)
    once = [p.detach().clone() for p in it.parameters]
    it.optimizer.load_state_dict(saved)
    with torch.no_grad():
        for p, w in zip(it.parameters, weights, strict=True):
            p.copy_(w)
    graph.update(batch, CONFIG)
    assert all(torch.equal(p, o) for p, o in zip(it.parameters, once, strict=True))


def test_a_learning_rate_set_after_a_state_was_loaded_counts() -> None:
    it = learner()
    graph, (batch, _) = Graph(it), batch_for(it)
    graph.update(batch, CONFIG)
    it.optimizer.load_state_dict(it.optimizer.state_dict())  # which puts new groups there
    it.optimizer.param_groups[0]["lr"] = 0.0
    before = [p.detach().clone() for p in it.parameters]
    graph.update(batch, CONFIG)
    assert all(torch.equal(p, b) for p, b in zip(it.parameters, before, strict=True))


def test_an_optimizer_whose_state_was_taken_back_goes_on() -> None:
    it, other = learner(), learner()
    graph, (batch, _) = Graph(it), batch_for(it)
    empty = torch.utils._pytree.tree_map_only(torch.Tensor, torch.clone, it.optimizer.state_dict())
    weights = [p.detach().clone() for p in it.parameters]
    graph.update(batch, CONFIG)
    it.optimizer.load_state_dict(empty)  # as after a first update that failed
    with torch.no_grad():
        for p, w in zip(it.parameters, weights, strict=True):
            p.copy_(w)
    graph.update(batch, CONFIG)
    Graph(other).update(batch, CONFIG)
    assert all(torch.equal(p, q) for p, q in zip(it.parameters, other.parameters, strict=True))


@pytest.mark.parametrize("what", ["advantages", "observations"])
def test_what_is_not_finite_stops_the_update(what: str) -> None:
    it = learner()
    batch, _ = batch_for(it)
    getattr(batch, what)[5] = math.nan
    config = PPOConfig(minibatch_size=320, n_epochs=3, normalize_advantages="none")
    before = [p.detach().clone() for p in it.parameters]
    with pytest.raises(NonFiniteError):
        Graph(it).update(batch, config)
    assert all(torch.equal(p, b) for p, b in zip(it.parameters, before, strict=True))


def test_the_stream_moves_by_the_epochs_that_were_begun() -> None:
    ours, theirs = RandomStream(5), RandomStream(5)
    for n_updates, epochs in ((1, 1), (5, 1), (6, 2), (20, 4), (0, 1)):  # of 5 minibatches each
        drawn = Permutations(ours, 4, 320)
        drawn.begun(n_updates, 5)
        for epoch in range(epochs):
            assert drawn.order[epoch].tolist() == theirs.permutation(320).tolist()
        assert ours.state_dict() == theirs.state_dict()


def test_what_cannot_be_replayed_is_left_to_torch() -> None:
    def refuse(work: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    it = learner()
    sgd = learner(make_optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    batch, _ = batch_for(it)
    tree = batch._replace(observations={"a": batch.observations})
    refusing = Graph(it, refuse)
    for graph, given, config, reason in (
        (Graph(it), batch, PPOConfig(anneal_steps=1000), "the clip ratio is annealed"),
        (Graph(it), tree, CONFIG, "the observations are not one array"),
        (Graph(sgd), batch, CONFIG, "the optimizer is SGD"),
        (Graph(learner(norm="batch")), batch, CONFIG, "a batch norm or Dropout is in training mode"),
        (Graph(learner(dropout=0.1)), batch, CONFIG, "a batch norm or Dropout is in training mode"),
        (refusing, batch, CONFIG, "the update cannot be captured"),
        (refusing, batch, CONFIG, "the update cannot be captured"),
    ):
        with pytest.raises(UnsupportedError, match=reason):
            graph.update(given, config)
        assert reason in graph.replays.reason


@pytest.mark.gpu
@pytest.mark.parametrize("dist", ["categorical", "multi_discrete", "state", "free"])
@pytest.mark.parametrize("target_kl", [None, 2e-4])
def test_a_cuda_graph_learns_as_torch_does(dist: str, target_kl: float | None) -> None:
    config = PPOConfig(minibatch_size=64, n_epochs=3, target_kl=target_kl)
    it = learner(dist=dist)
    theirs = it.twin()
    on_device = it.twin()
    for module in (on_device.actor, on_device.critic):
        module.cuda()
    if on_device.log_std is not None:
        on_device.log_std.data = on_device.log_std.data.cuda()
    graph = Graph(on_device, record_on_cuda, "cuda")
    for window in range(3):
        batch, rows = batch_for(it, seed=window)
        moved = Batch(*(None if t is None else t.cuda() for t in batch))  # type: ignore[union-attr,arg-type]
        updated = graph.update(moved, config)
        _, n = torch_update(theirs, rows, permutations(3, 320), config)
        assert updated.n_updates == n
    for ours, other in zip(on_device.parameters, theirs.parameters, strict=True):
        assert float((ours.detach().cpu() - other.detach()).norm() / other.detach().norm()) < 1e-3
