"""The worker team of large networks: results do not depend on it, however it is come by."""

from __future__ import annotations

import multiprocessing
import threading
from typing import Any

import pytest
import torch
from ppo_learners import core_update, learner, permutations, rows_for

from optix_fast.learners.native.networks import learner_threads
from optix_fast.learners.ppo.config import PPOConfig

# 256 units and 200 rows: products that are shared, of row counts that no number of threads divides.
LARGE: dict[str, Any] = {"hidden": (256, 256), "features": 17, "activation": "relu"}
CONFIG = PPOConfig(minibatch_size=200)


def updated(monkeypatch: pytest.MonkeyPatch | None, threads: int | None) -> list[torch.Tensor]:
    it = learner(**LARGE)
    rows = rows_for(it, 500, features=17)
    if monkeypatch is not None and threads is not None:
        monkeypatch.setenv("OPTIX_FAST_NUM_THREADS", str(threads))
    core_update(it, rows, permutations(2, 500), CONFIG)
    return it.state()


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.native
@pytest.mark.parametrize("threads", [2, 3, 7, 200])
def test_every_number_of_threads_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    alone = updated(monkeypatch, 1)
    assert same(updated(monkeypatch, threads), alone)


@pytest.mark.native
def test_two_calls_at_once_do_not_disturb_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = updated(monkeypatch, 1)
    monkeypatch.setenv("OPTIX_FAST_NUM_THREADS", "2")
    results: list[list[torch.Tensor]] = []
    learners = [learner(**LARGE) for _ in range(3)]
    inputs = [(it, rows_for(it, 500, features=17)) for it in learners]

    def work(it: Any, rows: Any) -> None:
        core_update(it, rows, permutations(2, 500), CONFIG)
        results.append(it.state())

    threads = [threading.Thread(target=work, args=pair) for pair in inputs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    assert all(same(result, alone) for result in results)


def _in_child(pipe: Any) -> None:
    pipe.send([tensor.numpy() for tensor in updated(None, None)])


@pytest.mark.native
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_a_team_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    here = updated(monkeypatch, 2)  # the parent's threads exist by now
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_in_child, args=(sender,))
    child.start()
    assert receiver.poll(60), "the child did not finish"
    there = [torch.from_numpy(array) for array in receiver.recv()]
    child.join()
    assert same(there, here)


def test_the_number_of_threads_is_torchs_or_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPTIX_FAST_NUM_THREADS", raising=False)
    assert learner_threads() == torch.get_num_threads()
    monkeypatch.setenv("OPTIX_FAST_NUM_THREADS", "3")
    assert learner_threads() == 3


@pytest.mark.parametrize("value", ["0", "-1", "two", "", "1.5"])
def test_a_wrong_number_of_threads_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("OPTIX_FAST_NUM_THREADS", value)
    with pytest.raises(ValueError, match="OPTIX_FAST_NUM_THREADS must be an integer of at least 1"):
        learner_threads()
