"""The structs that the core takes and returns: named arguments, and errors that name what is wrong."""

from __future__ import annotations

import ast
import pathlib
from typing import Any

import numpy as np
import pytest
import torch

from optix_fast import _native
from optix_fast.buffers import ReplayBuffer

pytestmark = pytest.mark.native
core: Any = _native.core

DQN = {"n_step": 1, "gamma": 0.99, "double_q": True, "loss": "huber", "target_update_freq": 100}
SAC = {"n_step": 1, "gamma": 0.99, "tau": 0.005, "target_entropy": -1.0}
PPO = {
    "kind": "categorical", "minibatch_size": 64, "clip_ratio": 0.2, "vf_coef": 0.5, "entropy_coef": 0.0,
    "normalize_advantages": True,
}  # fmt: skip
TD3 = {
    "n_step": 1, "gamma": 0.99, "tau": 0.005, "policy_delay": 2, "target_noise": 0.2,
    "target_noise_clip": 0.5,
}  # fmt: skip
SOFT = {"n_step": 1, "gamma": 0.99, "target_entropy": -1.0}
TQC = {**SOFT, "tau": 0.005, "n_quantiles": 25, "top_quantiles_to_drop_per_net": 2}
CROSSQ = {**SOFT, "policy_delay": 3}
OPTIONS = [("DQNOptions", DQN), ("SACOptions", SAC), ("TD3Options", TD3), ("PPOOptions", PPO)]
OPTIONS += [("TQCOptions", TQC), ("CrossQOptions", CROSSQ)]
EVERY = pytest.mark.parametrize(("name", "given"), OPTIONS, ids=lambda part: str(part)[:10])


STUB = {
    node.name: node
    for node in ast.parse(pathlib.Path(_native.__file__).with_name("_C.pyi").read_text()).body
    if isinstance(node, ast.ClassDef)
}


@EVERY
def test_the_stub_has_the_same_options(name: str, given: dict[str, Any]) -> None:
    constructor = next(node for node in STUB[name].body if isinstance(node, ast.FunctionDef))
    declared = [argument.arg for argument in constructor.args.kwonlyargs]
    with pytest.raises(TypeError) as caught:
        getattr(core, name)(no_such=0)
    assert str(caught.value).split("there are ")[1].split(", ") == declared
    defaults = dict(zip(declared, constructor.args.kw_defaults, strict=True))
    assert {option for option, default in defaults.items() if default is None} == set(given)


@pytest.mark.parametrize("name", ["DQNResult", "SoftResult", "TD3Result", "PPOResult"])
def test_the_stub_has_the_same_results(name: str) -> None:
    declared = [ast.unparse(node.target) for node in STUB[name].body if isinstance(node, ast.AnnAssign)]
    assert list(getattr(core, name).__match_args__) == declared


@EVERY
def test_a_misspelt_option_is_named(name: str, given: dict[str, Any]) -> None:
    getattr(core, name)(**given)
    with pytest.raises(
        TypeError, match=f"{name}: there is no argument max_gard_norm; there are .*max_grad_norm"
    ):
        getattr(core, name)(**given, max_gard_norm=0.5)


@EVERY
def test_a_missing_option_is_named(name: str, given: dict[str, Any]) -> None:
    for option in given:
        rest = {key: value for key, value in given.items() if key != option}
        with pytest.raises(TypeError, match=f"{name}: {option} is missing"):
            getattr(core, name)(**rest)
    # A misspelt one is missing, too; its own name helps more.
    first = next(iter(given))
    rest = {key + "_" if key == first else key: value for key, value in given.items()}
    with pytest.raises(TypeError, match=f"{name}: there is no argument {first}_"):
        getattr(core, name)(**rest)


@EVERY
def test_an_option_of_another_type_is_named(name: str, given: dict[str, Any]) -> None:
    for option, value in given.items():
        if isinstance(value, str):
            with pytest.raises(
                ValueError, match=f"{name}: {option} must be one of .*{value}.*, got 'no such'"
            ):
                getattr(core, name)(**{**given, option: "no such"})
        else:
            wanted = {bool: "a bool", int: "an integer", float: "a number"}[type(value)]
            with pytest.raises(TypeError, match=f"{name}: {option} must be {wanted}, got str"):
                getattr(core, name)(**{**given, option: "text"})


@EVERY
def test_options_have_no_positions(name: str, given: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=f"{name}: no positional arguments, got 1"):
        getattr(core, name)(1, **given)


def test_rows_have_positions_and_names() -> None:
    column = torch.zeros(3)
    core.PPORows(*[column] * 6)
    core.PPORows(column, column, column, column, column, returns=column, action_masks=None)
    with pytest.raises(TypeError, match="PPORows: returns is missing"):
        core.PPORows(*[column] * 5)
    with pytest.raises(TypeError, match="PPORows: actions is given twice"):
        core.PPORows(*[column] * 6, actions=column)
    with pytest.raises(TypeError, match="PPORows: at most 7 positional arguments, got 8"):
        core.PPORows(*[column] * 8)


def test_draws_of_another_type_are_named() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2, 3))
    with pytest.raises(
        TypeError, match="dqn_update: draws must be UniformDraws or PrioritizedDraws, got dict"
    ):
        _dqn_update(parameter, {"indices": torch.zeros(1, 1, dtype=torch.int64)})
    with pytest.raises(TypeError, match="PrioritizedDraws: tree must be a SumTree on the cpu, got NoneType"):
        _dqn_update(parameter, core.PrioritizedDraws(None, *_numbers(1, 1), *_numbers(1), 0.6, 1e-6, 1.0))


def dense(weight: torch.Tensor, activation: str = "identity") -> tuple[Any, ...]:
    """A layer without bias that reads the input; see Layer.described."""
    return ("dense", -1, -1, len(weight), activation, (0.0, 0.0), 0.0, 0, weight, None)


def _numbers(*shape: int) -> list[torch.Tensor]:
    return [torch.zeros(shape, dtype=torch.float64)]


def _dqn_update(weight: torch.nn.Parameter, draws: Any) -> Any:
    buffer = ReplayBuffer(4)
    buffer.push(np.zeros(3, np.float32), 0, 0.0, np.zeros(3, np.float32), False)
    layers = [dense(weight)]
    view = buffer.view()
    moments = torch.zeros(2, 3), torch.zeros(2, 3)
    numbers = (1e-3, 0.0, 1e-8, 0.0, 0.0, 0.0, 0.9, 0.999, False, False)
    state = ("adam", torch.tensor(0.0), moments, False, numbers)
    return core.dqn_update(
        (layers, layers), [(weight, *state)], [weight], view, draws, core.DQNOptions(**DQN)
    )


def test_a_result_has_names() -> None:
    indices = torch.zeros(2, 1, dtype=torch.int64)
    result = _dqn_update(torch.nn.Parameter(torch.zeros(2, 3)), core.UniformDraws(indices))
    assert (result.failed, result.updates, result.max_priority) == (None, 2, None)
    assert tuple(result) == (None, 2, 0, result.loss, result.td_error, result.q_value, None)


def test_an_unknown_activation_is_named() -> None:
    x = torch.zeros(1, 3)
    with pytest.raises(ValueError, match="activation must be one of identity, tanh, .*, got 'tahn'"):
        core.mlp([dense(torch.zeros(2, 3), "tahn")], True, False, x, torch.zeros(1, 2), None, [], None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({1: 0}, "a layer must read the input or an earlier layer"),
        ({0: "sum"}, "sum of 2 columns does not fit what it reads"),
        ({0: "layer_norm"}, "layer_norm of 2 columns does not fit what it reads"),
        ({0: "columns", 7: 2}, "columns of 2 columns does not fit what it reads"),
        ({0: "embedding", 7: 3}, "embedding of 2 columns does not fit what it reads"),
        ({0: "dance"}, "kind must be one of dense, layer_norm"),
    ],
    ids=str,
)
def test_layers_that_do_not_fit_are_named(change: dict[int, Any], message: str) -> None:
    layer = tuple(change.get(i, part) for i, part in enumerate(dense(torch.zeros(2, 3))))
    with pytest.raises(ValueError, match=message):
        core.mlp([layer], True, False, torch.zeros(1, 3), torch.zeros(1, 2), None, [], None)
