"""tanh_normal at its borders: registration, torch.compile, and every argument that is refused."""

from __future__ import annotations

import itertools

import pytest
import torch

from optix_fast import ops
from optix_fast.random import RandomStream


def inputs(shared=False):
    """mean, log_std and actions of five samples in three dimensions."""
    g = torch.Generator().manual_seed(0)
    mean, log_std = torch.randn(5, 3, generator=g), torch.randn((3,) if shared else (5, 3), generator=g)
    return mean, log_std, torch.rand(5, 3, generator=g) * 1.8 - 0.9


# ---- torch's own checks of a registered op ---------------------------------------------------------------


@pytest.mark.native
@pytest.mark.parametrize(
    ("wanted", "squashed", "shared"), list(itertools.product([0, 2, 3], [True, False], [True, False]))
)
def test_opcheck(wanted, squashed, shared):
    mean, log_std, action = inputs(shared)
    op = torch.ops.optix_fast.tanh_normal_log_prob.default
    torch.library.opcheck(op, (mean, log_std, action, squashed, wanted))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", ["action", "pre_tanh"])
def test_log_prob_compiles_as_one_graph(name, shared):
    leaves = [t.requires_grad_() for t in inputs(shared)]

    def log_prob(mean, log_std, value):
        return ops.tanh_normal_log_prob(mean, log_std, **{name: value})

    compiled = torch.compile(log_prob, fullgraph=True, backend="aot_eager")
    weights = torch.arange(5.0)
    got, expected = (
        (f(*leaves), torch.autograd.grad(f(*leaves), leaves, weights)) for f in (compiled, log_prob)
    )
    torch.testing.assert_close(got, expected)


def test_sample_runs_outside_of_a_compiled_graph():
    mean, log_std, _ = inputs()
    stream = RandomStream(1)
    compiled = torch.compile(
        lambda m: ops.tanh_normal_sample(2.0 * m, log_std, stream)[0] + 1.0, backend="eager"
    )
    for expected in (RandomStream(1), stream.spawn("x")):
        stream.load_state_dict(expected.state_dict())
        torch.testing.assert_close(
            compiled(mean), ops.tanh_normal_sample(2.0 * mean, log_std, expected)[0] + 1.0
        )


# ---- errors ----------------------------------------------------------------------------------------------

NAMES = ("mean", "log_std", "action", "pre_tanh")


def call_with(name, value):
    """Both functions where both take the argument."""
    tensors = {"mean": torch.zeros(64, 3), "log_std": torch.zeros(64, 3)}
    other = {} if name in ("action", "pre_tanh") else {"pre_tanh": torch.zeros(64, 3)}
    yield "tanh_normal_log_prob", lambda: ops.tanh_normal_log_prob(**(tensors | other | {name: value}))
    if other:
        yield "tanh_normal_sample", lambda: ops.tanh_normal_sample(**(tensors | {name: value}))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (torch.zeros(3, 4, 2), ValueError, r"must be .*, got float32 \[3, 4, 2\]"),
        (torch.tensor(0.0), ValueError, r"must be .*, got float32 \[\]"),
        (torch.zeros(64, 3, dtype=torch.int32), ValueError, r"must be .*, got int32 \[64, 3\]"),
        (torch.zeros(64, 3, dtype=torch.float16), ValueError, r"must be .*, got float16 \[64, 3\]"),
        (torch.zeros(3, 64).T, ValueError, r"must be contiguous, got one with strides \[1, 64\]"),
        ([[0.0] * 3] * 64, TypeError, "must be a torch.Tensor, got list"),
    ],
    ids=["shape", "scalar", "int32", "float16", "strides", "list"],
)
def test_wrong_argument_is_named(name, value, error, message):
    for op, call in call_with(name, value):
        with pytest.raises(error, match=f"{op}: {name} {message}"):
            call()


@pytest.mark.parametrize("name", NAMES)
def test_other_device(name):
    for op, call in call_with(name, torch.zeros(64, 3, device="meta")):
        # A first argument elsewhere makes the second one the odd one out.
        with pytest.raises(ValueError, match=f"{op}: {'log_std' if name == 'mean' else name} must be "):
            call()


def test_message_names_what_was_expected_and_what_came():
    with pytest.raises(ValueError, match="log_std") as error:
        ops.tanh_normal_log_prob(torch.zeros(64, 3), torch.zeros(4), pre_tanh=torch.zeros(64, 3))
    assert str(error.value) == (
        "tanh_normal_log_prob: log_std must be float32 [A] = [3] on cpu, got float32 [4]"
    )


@pytest.mark.parametrize(("given", "word"), [((), "neither"), (("action", "pre_tanh"), "both")])
def test_exactly_one_of_action_and_pre_tanh(given, word):
    zeros = torch.zeros(4, 3)
    with pytest.raises(ValueError, match=f"exactly one of action and pre_tanh must be given, got {word}"):
        ops.tanh_normal_log_prob(zeros, zeros, **dict.fromkeys(given, zeros))


def test_stream_of_another_kind():
    with pytest.raises(
        TypeError, match="tanh_normal_sample: stream must be a RandomStream or None, got Generator"
    ):
        ops.tanh_normal_sample(torch.zeros(4, 3), torch.zeros(3), torch.Generator())


def test_refused_call_leaves_the_stream_alone():
    stream = RandomStream(1)
    with pytest.raises(ValueError, match="log_std must be"):
        ops.tanh_normal_sample(torch.zeros(4, 3), torch.zeros(4), stream)
    assert stream.state_dict() == RandomStream(1).state_dict()
