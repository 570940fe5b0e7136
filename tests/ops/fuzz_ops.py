"""Calls ops with each argument replaced by things it must refuse; test_fuzz.py runs it in its own process.

    python tests/ops/fuzz_ops.py gae sum_tree

Prints every case before it is tried, so that the last line names the one that crashed, and after each op
which wrong arguments went through.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from optix_fast import _native, backend, ops
from optix_fast.random import RandomStream

torch.set_num_threads(1)
Case = tuple[Callable[..., Any], dict[str, Any]]


def without_memory(like: torch.Tensor) -> torch.Tensor:
    hollow = like.clone()
    hollow.untyped_storage().resize_(0)
    return hollow


def fake(like: torch.Tensor) -> torch.Tensor:
    with FakeTensorMode():
        return torch.zeros(like.shape, dtype=like.dtype)


def every_second(like: torch.Tensor) -> torch.Tensor:
    return torch.stack([like, like], dim=-1)[..., 0]


# Each makes of a right tensor one that no op may take in its place.
WRONG_TENSORS: dict[str, Callable[[torch.Tensor], Any]] = {
    "text": lambda t: "text",
    "list": lambda t: t.tolist() if t.ndim else [t.item()],
    "object": lambda t: object(),
    "type": lambda t: torch.Tensor,
    "one dimension more": lambda t: t.unsqueeze(0).clone(),
    "three dimensions more": lambda t: t.reshape(1, 1, 1, *t.shape),
    "one row more": lambda t: torch.cat([t, t[:1]]),
    "no rows": lambda t: t[:0],
    "huge, of one element": lambda t: torch.zeros((), dtype=t.dtype).expand(2**40, *t.shape[1:]),
    "overflowing size": lambda t: torch.zeros((), dtype=t.dtype).expand(2**62),
    "int8": lambda t: t.to(torch.int8),
    "float16": lambda t: t.to(torch.float16),
    "bfloat16": lambda t: t.to(torch.bfloat16),
    "complex": lambda t: t.to(torch.complex64),
    "conjugate": lambda t: t.to(torch.complex64).conj(),
    "meta": lambda t: t.to("meta"),
    "fake": fake,
    "sparse": lambda t: t.to_sparse(),
    "every second element": every_second,
    "without memory": without_memory,
    "quantized": lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8),
}
# Data and numbers that may be taken; they must not crash.
ODD_TENSORS: dict[str, Callable[[torch.Tensor], Any]] = {
    "none": lambda t: None,
    "a number": lambda t: 0.5,
    "a huge integer": lambda t: 10**400,
    "nan": lambda t: torch.full_like(t, torch.nan) if t.is_floating_point() else t,
    "infinite": lambda t: torch.full_like(t, torch.inf) if t.is_floating_point() else t,
    "largest": lambda t: torch.full_like(t, torch.finfo(t.dtype).max) if t.is_floating_point() else t,
    "extreme integers": lambda t: t if t.dtype != torch.int64 else torch.full_like(t, -(2**63)),
    "huge integers": lambda t: t if t.dtype != torch.int64 else torch.full_like(t, 2**63 - 1),
    "bool bytes beyond one": lambda t: torch.full(t.shape, 255, dtype=torch.uint8).view(torch.bool),
    "lazily negated": lambda t: torch._neg_view(t) if t.is_floating_point() else t,
    "asking for a gradient": lambda t: t.clone().requires_grad_() if t.is_floating_point() else t,
    "numpy": lambda t: t.numpy(),
    "numpy, backwards": lambda t: t.numpy()[::-1],
    "zero strides": lambda t: t[:1].expand(t.shape) if t.ndim else t,
}
ODD_NUMBERS = [
    None, "text", float("nan"), float("inf"), -float("inf"), -1.0, 1e308, -0.0, 10**400, -(2**63), True, 1j,
    [], [0.1], [0.1] * 7, ["text"], (None,), {}, object(), torch.tensor(0.5), np.float64(0.5), np.zeros(3),
]  # fmt: skip


def gae_cases() -> list[Case]:
    rewards, values, final_values = (torch.randn(6, 5) for _ in range(3))
    terminated, truncated = torch.rand(6, 5) < 0.3, torch.rand(6, 5) < 0.3
    arguments = {
        "rewards": rewards, "values": values, "last_value": torch.randn(5), "terminated": terminated,
        "truncated": truncated, "final_values": final_values, "gamma": 0.9, "gae_lambda": 0.9,
    }  # fmt: skip
    return [(ops.gae, arguments), (ops.gae, arguments | {"out": (torch.empty(6, 5), torch.empty(6, 5))})]


def ppo_loss_cases() -> list[Case]:
    def case(dist: Any, params: int, actions: torch.Tensor, mask: int | None) -> Case:
        arguments = {
            "dist": dist, "params": torch.randn(9, params, requires_grad=True), "actions": actions,
            **{name: torch.randn(9) for name in
               ("old_log_probs", "advantages", "values", "returns", "old_values")},
            "clip_ratio": 0.2, "value_clip": 0.2, "value_clip_mode": "max", "vf_coef": 0.5,
            "entropy_coef": 0.1, "entropy_floor": 0.1, "entropy_floor_coef": 1.0,
            "action_mask": None if mask is None else torch.ones(9, mask, dtype=torch.bool),
        }  # fmt: skip
        return lambda **given: ops.ppo_loss(**given).stats.tolist(), arguments

    return [
        case(ops.Categorical(), 4, torch.randint(4, (9,)), 4),
        case(ops.Normal(), 6, torch.randn(9, 3), None),
        case(ops.MultiDiscrete((3, 2)), 5, torch.randint(2, (9, 2)), 5),
        case(ops.Hybrid((3,)), 7, torch.cat([torch.ones(9, 1), torch.randn(9, 2)], dim=1), 3),
    ]


def sum_tree_cases() -> list[Case]:
    def on_a_tree(method: str) -> Callable[..., Any]:
        def call(**given: Any) -> Any:
            tree = ops.SumTree(20, seed=0)
            tree.update(torch.arange(20), torch.rand(20) + 0.1)
            return getattr(tree, method)(**given)

        return call

    return [
        (lambda capacity, seed: ops.SumTree(capacity, seed=seed), {"capacity": 5, "seed": 0}),
        (on_a_tree("update"), {"indices": torch.arange(7), "priorities": torch.rand(7)}),
        (on_a_tree("priorities"), {"indices": torch.arange(7)}),
        (on_a_tree("find"), {"mass": torch.rand(7, dtype=torch.float64)}),
        (on_a_tree("sample"), {"n": 5}),
        (on_a_tree("sample_weighted"), {"n": 5, "beta": 0.4}),
        (on_a_tree("load_state_dict"), {"state": ops.SumTree(20, seed=0).state_dict()}),
    ]


def tanh_normal_cases() -> list[Case]:
    mean, log_std = torch.randn(4, 3), torch.randn(4, 3)
    return [
        (ops.tanh_normal_log_prob, {"mean": mean, "log_std": log_std, "action": torch.rand(4, 3)}),
        (ops.tanh_normal_log_prob, {"mean": mean, "log_std": log_std, "pre_tanh": torch.randn(4, 3)}),
        (ops.tanh_normal_sample, {"mean": mean, "log_std": log_std, "stream": RandomStream(0)}),
    ]


def random_cases() -> list[Case]:
    stream = RandomStream(0)
    return [
        (stream.uniform, {"shape": 5}),
        (stream.normal, {"shape": (2, 3)}),
        (stream.integers, {"low": 0, "high": 5, "shape": 4}),
        (stream.permutation, {"n": 5}),
    ]


CASES: dict[str, Callable[[], list[Case]]] = {
    "gae": gae_cases,
    "ppo_loss": ppo_loss_cases,
    "sum_tree": sum_tree_cases,
    "tanh_normal": tanh_normal_cases,
    "random": random_cases,
}
# Right after all: these arguments have several forms.
ALSO_RIGHT = {
    ("mean", "one dimension more"), ("log_std", "one dimension more"),
    ("indices", "one row more"), ("indices", "no rows"), ("mass", "one row more"), ("mass", "no rows"),
}  # fmt: skip


def refused(call: Callable[..., Any], arguments: dict[str, Any], what: str) -> bool:
    print(what, flush=True)
    try:
        call(**arguments)
    except SystemError:
        raise
    except Exception:
        return True
    return False


def fuzz_arguments(op: str) -> list[str]:
    passed = []
    for number, (call, arguments) in enumerate(CASES[op]()):
        call(**arguments)
        for name, value in arguments.items():
            what = f"{op} case {number}: {name} = "
            if not isinstance(value, torch.Tensor):
                for odd in ODD_NUMBERS:
                    # One that asks for too much memory proves nothing but patience.
                    refused(call, arguments | {name: odd}, what + repr(odd))
                continue
            for kind, make in WRONG_TENSORS.items():
                if kind == "without memory" and backend() == "torch":
                    continue  # torch's own operations crash on it
                wrong = make(value.detach())
                if (
                    not refused(call, arguments | {name: wrong}, what + kind)
                    and (name, kind) not in ALSO_RIGHT
                ):
                    passed.append(what + kind)
            for kind, make in ODD_TENSORS.items():
                refused(call, arguments | {name: make(value.detach())}, what + kind)
    return passed


def fuzz_core(op: str, rounds: int = 3000) -> None:
    """The core's own function with arguments drawn from a bag: what reaches it without the Python checks."""
    function = getattr(_native.core, op, None)
    if function is None:
        return
    choose = random.Random(0)
    floats, flags = torch.rand(4, 3), torch.ones(4, 3, dtype=torch.bool)
    bag = [
        None, 0, 1, 2, 3, -1, 2**62, 0.5, float("nan"), "text", (), (3,), (2, 2), (-1,), [0.1], [0.1, 0.2],
        True, False, floats, floats[0], torch.rand(4), torch.rand(()), torch.rand(6), flags,
        torch.zeros(4).long(),
        torch.zeros(4, 2).long(), torch.rand(4, 6), floats.double(), floats.T, floats.to("meta"),
        without_memory(floats), (floats, floats.clone()), np.zeros(3, np.float32), {}, object(),
    ]  # fmt: skip
    arity = {"gae": 9, "ppo_loss": 21}.get(op, 7)
    for i in range(rounds):
        n = choose.choice([arity] * 8 + [0, 1, arity - 1, arity + 1])
        arguments = [choose.choice(bag) for _ in range(n)]
        print(f"core {op} round {i}", flush=True)
        try:
            function(*arguments)
        except SystemError:
            raise
        except Exception:
            continue


if __name__ == "__main__":
    for name in sys.argv[1:]:
        went_through = fuzz_arguments(name)
        fuzz_core(name)
        print(f"{name}: " + ("; ".join(went_through) if went_through else "all refused"))
