"""The state format: exact round trips, damage is found, nothing half-written."""

from __future__ import annotations

import json
import math
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optix_fast.serialization import atomic_write_bytes, atomic_write_json, load_state, save_state


def assert_identical(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_identical(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_identical(x, y)
    elif isinstance(a, torch.Tensor):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert (
            a.contiguous().reshape(-1).view(torch.uint8).tolist() == b.reshape(-1).view(torch.uint8).tolist()
        )
    elif isinstance(a, np.ndarray | np.generic):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.tobytes() == b.tobytes()
    elif isinstance(a, float):
        assert struct.pack("d", a) == struct.pack("d", b)  # NaN and the sign of zero included
    else:
        assert a == b


def round_trip(state: Any, directory: Path) -> Any:
    save_state(directory / "state.safetensors", state)
    return load_state(directory / "state.safetensors")


# --- round trips --------------------------------------------------------------------------------

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(max_size=8),
    st.integers(0, 2**64 - 1).map(np.uint64),
    st.floats(width=32).map(np.float32),
    st.lists(st.floats(width=32), max_size=5).map(lambda v: torch.tensor(v, dtype=torch.float32)),
    st.lists(st.integers(-9, 9), max_size=5).map(lambda v: np.array(v, np.int16)),
)
states = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(st.text(max_size=4), st.integers()), inner, max_size=3),
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(state=states)
def test_any_nested_state_comes_back_identical(tmp_path_factory: Any, state: Any) -> None:
    folder = tmp_path_factory.getbasetemp() / "nested"  # one for all examples
    folder.mkdir(exist_ok=True)
    assert_identical(state, round_trip(state, folder))


NUMPY_VALUES = [
    *(np.arange(6).reshape(2, 3).astype(t) for t in ("?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")),
    *(np.linspace(-1, 1, 4).astype(t) for t in ("f2", "f4", "f8", "g", "c8", "c16", ">f8", ">i2")),
    np.array(["short", "longer", ""]),
    np.array([b"a", b"bc"]),
    np.array(["2020-01-01", "NaT"], "datetime64[D]"),
    np.array([(1, (2.0, 3.0))], dtype=[("a", "<i4"), ("b", "<f8", (2,))]),
    np.array(7),
    np.zeros((0, 3), np.int32),
    np.zeros((3, 0)),
    np.float64(0.1),
    np.bool_(True),
    np.str_("text"),
    np.datetime64("2021-05-06T07:08"),
    np.complex128(1 - 2j),
]


@pytest.mark.parametrize("value", NUMPY_VALUES, ids=lambda v: f"{v.dtype}-{v.shape}")
def test_numpy_value_keeps_type_dtype_and_shape(tmp_path: Path, value: Any) -> None:
    assert_identical({"x": value}, round_trip({"x": value}, tmp_path))


TORCH_DTYPES = ["bool", "uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16"]
TORCH_DTYPES += ["bfloat16", "float32", "float64", "complex64", "complex128", "float8_e4m3fn"]


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3)])
def test_tensor_keeps_dtype_and_shape(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    values = torch.arange(math.prod(shape)).reshape(shape).to(getattr(torch, dtype))
    assert_identical([values], round_trip([values], tmp_path))


def test_loaded_arrays_and_tensors_can_be_written_to(tmp_path: Path) -> None:
    loaded = round_trip({"a": np.zeros(2), "b": np.array(["x"]), "t": torch.zeros(2)}, tmp_path)
    loaded["a"][0], loaded["b"][0] = 1.0, "y"
    loaded["t"].add_(1)
    assert loaded["a"].tolist() == [1.0, 0.0]
    assert loaded["b"].tolist() == ["y"]
    assert loaded["t"].tolist() == [1.0, 1.0]


def test_views_and_parameters_are_saved_by_value(tmp_path: Path) -> None:
    base = torch.arange(6.0).reshape(2, 3)
    state = {"view": base.t(), "conj": torch.tensor([1 + 2j]).conj(), "parameter": torch.nn.Parameter(base)}
    loaded = round_trip(state, tmp_path)
    assert torch.equal(loaded["view"], base.t())
    assert loaded["conj"].tolist() == [1 - 2j]
    assert type(loaded["parameter"]) is torch.Tensor
    assert not loaded["parameter"].requires_grad


def test_optimizer_state_comes_back(tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    assert_identical(state, round_trip(state, tmp_path))


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "where"),
    [
        ({"a": [1, {"b": object()}]}, r"state\['a'\]\[1\]\['b'\]"),
        ({"a": np.array([None])}, r"state\['a'\]"),
        ({"a": (torch.zeros(2).to_sparse(),)}, r"state\['a'\]\[0\]"),
        ({"a": {1.5: 2}}, r"state\['a'\] has the key 1.5"),
        ([lambda: 0], r"state\[0\]"),
    ],
)
def test_unserialisable_value_is_named_and_nothing_is_written(tmp_path: Path, state: Any, where: str) -> None:
    path = tmp_path / "state.safetensors"
    save_state(path, {"old": 1})
    with pytest.raises(TypeError, match=where):
        save_state(path, state)
    assert load_state(path) == {"old": 1}
    assert os.listdir(tmp_path) == [path.name]


def test_state_that_contains_itself_is_a_type_error(tmp_path: Path) -> None:
    state: list[Any] = []
    state.append(state)
    with pytest.raises(TypeError, match="contains itself"):
        save_state(tmp_path / "x", state)


# --- damage -------------------------------------------------------------------------------------


def test_every_truncation_is_found(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    save_state(path, {"x": torch.arange(4.0), "s": "text"})
    data = path.read_bytes()
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=path.name):
            load_state(path)


def test_every_flipped_byte_of_the_payload_is_found(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    save_state(path, {"x": np.arange(4.0)})
    data = path.read_bytes()
    for position in range(len(data) - 32, len(data)):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        with pytest.raises(ValueError, match="checksum"):
            load_state(path)


def test_flipped_bytes_of_the_header_never_load_something_else(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    state = {"x": np.arange(2.0), "n": 12345}
    save_state(path, state)
    data = path.read_bytes()
    for position in range(len(data) - 16):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        try:
            loaded = load_state(path)
        except ValueError:
            continue
        assert_identical(state, loaded)


def test_foreign_files_are_refused_by_name(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(2)}, tmp_path / "weights.safetensors")
    (tmp_path / "text").write_text("hello")
    for name in ("weights.safetensors", "text"):
        with pytest.raises(ValueError, match=name):
            load_state(tmp_path / name)


def test_missing_file_is_file_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_state(tmp_path / "nowhere")


# --- atomicity ----------------------------------------------------------------------------------


def test_failed_write_keeps_the_old_file_and_leaves_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state"
    save_state(path, 1)

    def full_disk(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    for write in (lambda: save_state(path, 2), lambda: atomic_write_bytes(path, b"2")):
        with pytest.raises(OSError, match="No space"):
            write()
    assert load_state(path) == 1
    assert os.listdir(tmp_path) == ["state"]


def test_missing_directory_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        save_state(tmp_path / "nowhere" / "state", 1)


def test_json_is_standard_json_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    atomic_write_json(path, {"a": [1, None]})
    with pytest.raises(ValueError, match="Out of range"):
        atomic_write_json(path, {"a": math.nan})
    assert json.loads(path.read_text()) == {"a": [1, None]}
