"""The worker team of large networks: results do not depend on it, however it is come by."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import crossq_cases
import dqn_cases
import pytest
import sac_cases
import td3_cases
import torch
import tqc_cases
from ppo_learners import core_update, learner, permutations, rows_for

from optix_fast import _native
from optix_fast.learners.crossq.native import crossq_update
from optix_fast.learners.dqn.native import dqn_update
from optix_fast.learners.native import threads as native_threads
from optix_fast.learners.native.threads import learner_threads, processors_of_quota
from optix_fast.learners.ppo.config import PPOConfig
from optix_fast.learners.sac.native import sac_update
from optix_fast.learners.td3.native import td3_update
from optix_fast.learners.tqc.native import tqc_update
from optix_fast.networks import mlp

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


def ppo_state(shared: bool) -> list[torch.Tensor]:
    it = learner(hidden=(64, 64, 64), features=17, shared=shared)
    core_update(it, rows_for(it, 200, features=17), permutations(5, 200), PPOConfig(minibatch_size=64))
    return it.state()


def dqn_state(double_q: bool) -> list[torch.Tensor]:
    config = dqn_cases.config_of(batch_size=100, double_q=double_q, tau=0.05)
    model, experience = dqn_cases.model_of(), dqn_cases.experience_of(config)
    dqn_update(model, experience, dqn_cases.draws_of(experience, config, 20), config, 0)
    return dqn_cases.tensors_of(model)


def continuous_networks(outputs: int) -> tuple[torch.nn.Module, list[torch.nn.Module]]:
    generator = torch.Generator().manual_seed(7)
    critics: list[torch.nn.Module] = [mlp([7, 64, 64, 1], "relu", 1.0, generator) for _ in range(2)]
    return mlp([5, 64, 64, outputs], "relu", 0.5, generator), critics


def sac_state() -> list[torch.Tensor]:
    config = sac_cases.config_of(batch_size=100)
    model = sac_cases.make_model(*continuous_networks(4), log_alpha=-1.0)
    experience = sac_cases.random_experience(config)
    sac_update(model, experience, *sac_cases.random_draws(20, config, experience), config, -2.0)
    return [*(p.detach() for net in model.modules().values() for p in net.parameters()), model.log_alpha]


def td3_state() -> list[torch.Tensor]:
    config = td3_cases.config_of(batch_size=100)
    actor, critics = continuous_networks(2)
    model = td3_cases.make_model(actor, critics)
    experience = sac_cases.random_experience(config)
    td3_update(model, experience, *td3_cases.random_draws(20, config, experience), config, 0)
    return [p.detach() for net in model.modules().values() for p in net.parameters()]


def tqc_state() -> list[torch.Tensor]:
    config = tqc_cases.config_of(batch_size=100)
    generator = torch.Generator().manual_seed(7)
    critics = [mlp([7, 64, 64, 25], "relu", 1.0, generator) for _ in range(5)]
    model = tqc_cases.make_model(mlp([5, 64, 64, 4], "relu", 0.5, generator), critics)
    experience = sac_cases.random_experience(config)
    tqc_update(model, experience, *sac_cases.random_draws(20, config, experience), config, -2.0)
    return [p.detach() for net in model.modules().values() for p in net.parameters()]


def crossq_state() -> list[torch.Tensor]:
    config = crossq_cases.config_of(batch_size=100)
    model = crossq_cases.make_model(*continuous_networks(4))
    experience = sac_cases.random_experience(config)
    crossq_update(model, experience, *sac_cases.random_draws(20, config, experience), config, -2.0, 0)
    return [p.detach() for net in model.modules().values() for p in net.parameters()]


PAIRS: dict[str, Callable[[], list[torch.Tensor]]] = {
    "PPO": lambda: ppo_state(shared=False),
    "PPO with a shared trunk": lambda: ppo_state(shared=True),
    "DQN": lambda: dqn_state(double_q=False),
    "double DQN": lambda: dqn_state(double_q=True),
    "SAC": sac_state,
    "TD3": td3_state,
    "TQC": tqc_state,
    "CrossQ": crossq_state,
}


@pytest.mark.native
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("threads", [2, 5])
def test_networks_side_by_side_give_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, name: str, threads: int
) -> None:
    monkeypatch.setenv("OPTIX_FAST_NUM_THREADS", "1")
    alone = PAIRS[name]()
    monkeypatch.setenv("OPTIX_FAST_NUM_THREADS", str(threads))
    for _ in range(5):  # the second thread comes at other times
        assert same(PAIRS[name](), alone)


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


@pytest.mark.native
@pytest.mark.parametrize(
    ("work", "threads", "members"),
    [
        (0, 64, 1),
        (2**20, 64, 1),  # a member needs about a million multiply-adds
        (2**20 + 2**19 - 1, 64, 1),
        (2**20 + 2**19, 64, 2),
        (256 * 256 * 256, 64, 16),
        (256 * 256 * 256, 2, 2),
        (256 * 256 * 256, 1, 1),
        (2**40, 64, 64),
    ],
)
def test_a_product_has_a_member_for_every_million(work: int, threads: int, members: int) -> None:
    assert _native.core.team_members(work, threads) == members


def allow(monkeypatch: pytest.MonkeyPatch, processors: int, quota: int) -> None:
    monkeypatch.delenv("OPTIX_FAST_NUM_THREADS", raising=False)
    monkeypatch.setattr(native_threads, "_allowed_processors", lambda: processors)
    monkeypatch.setattr(native_threads, "processors_of_quota", lambda: quota)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)


@pytest.mark.parametrize(
    ("processors", "quota", "threads"), [(128, 200, 64), (2, 200, 2), (128, 3, 3), (1, 1, 1)]
)
def test_the_number_of_threads_is_torchs_within_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, processors: int, quota: int, threads: int
) -> None:
    allow(monkeypatch, processors, quota)
    assert learner_threads() == threads


def test_the_environment_decides_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    allow(monkeypatch, 2, 2)
    monkeypatch.setenv("OPTIX_FAST_NUM_THREADS", "3")
    assert learner_threads() == 3


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity is Linux's")
def test_the_affinity_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPTIX_FAST_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert learner_threads() == 1
    finally:
        os.sched_setaffinity(0, before)


def quota_of(tmp_path: Path, membership: str, files: dict[str, str]) -> int:
    (tmp_path / "membership").write_text(membership)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    return processors_of_quota(tmp_path, tmp_path / "membership")


NO_QUOTA = 2**20


@pytest.mark.parametrize(
    ("membership", "files", "processors"),
    [
        ("0::/", {"cpu.max": "max 100000"}, NO_QUOTA),
        ("0::/", {}, NO_QUOTA),
        ("0::/", {"cpu.max": "200000 100000"}, 2),
        ("0::/", {"cpu.max": "150000 100000"}, 2),  # one and a half
        ("0::/", {"cpu.max": "10000 100000"}, 1),
        # The tightest on the way to the root counts.
        ("0::/a/b", {"a/b/cpu.max": "400000 100000", "a/cpu.max": "300000 100000"}, 3),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "cpu.max": "100000 50000"}, 2),
        # Version 1.
        ("3:cpu,cpuacct:/x", {"cpu/x/cpu.cfs_quota_us": "300000", "cpu/x/cpu.cfs_period_us": "100000"}, 3),
        ("3:cpu,cpuacct:/x", {"cpu/x/cpu.cfs_quota_us": "-1", "cpu/x/cpu.cfs_period_us": "100000"}, NO_QUOTA),
        ("4:memory:/x", {"cpu/x/cpu.cfs_quota_us": "300000", "cpu/x/cpu.cfs_period_us": "100000"}, NO_QUOTA),
        ("", {"cpu.max": "200000 100000"}, NO_QUOTA),
    ],
)
def test_quotas_of_control_groups(
    tmp_path: Path, membership: str, files: dict[str, str], processors: int
) -> None:
    assert quota_of(tmp_path, membership, files) == processors


@pytest.mark.parametrize("value", ["0", "-1", "two", "", "1.5"])
def test_a_wrong_number_of_threads_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("OPTIX_FAST_NUM_THREADS", value)
    with pytest.raises(ValueError, match="OPTIX_FAST_NUM_THREADS must be an integer of at least 1"):
        learner_threads()
