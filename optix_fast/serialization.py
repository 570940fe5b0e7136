"""State on disk without pickle: one safetensors file per nested state, written atomically.

The tensors of a state lie in the file as they are; everything else (structure, numbers, strings)
is a JSON skeleton in the file's metadata that refers to the tensors by name. A digest over both
makes a truncated or altered file an error instead of a wrong resume.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, TensorSpec, safe_open, serialize_file

from optix_fast.leftovers import owner_mark

# Writes a file's content to the path that it is given.
Write = Callable[[Path], object]

_FORMAT = "optix_fast.state/1"
_SAFE_INTEGER = 2**53  # larger ones go as hexadecimal text, whatever reads the JSON
_PLAIN = (bool, type(None))
# safetensors has no name for the other numpy and torch types; their bytes go as uint8.
_INTEGERS = ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
_NATIVE = frozenset((*_INTEGERS, "float16", "float32", "float64"))
_TORCH_DTYPES = {str(d).removeprefix("torch."): d for d in vars(torch).values() if isinstance(d, torch.dtype)}


# --- atomic files -------------------------------------------------------------------------------


def fsync_directory(path: str | os.PathLike[str]) -> None:
    """Make the names in a directory durable. Does nothing where directories cannot be opened."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_together(files: Sequence[tuple[str | os.PathLike[str], Write]]) -> None:
    """Replace several files as one set: all are written under temporary names and synced before the first of
    them gets its own name.

    A write that fails leaves every file as it was. A rename that fails, or a process that is killed between
    two of them, leaves some new and some old ones: a reader who must know puts one mark into all of them.

    Args:
        files: path of each file, and what writes its content to the path that it is given.

    Raises:
        What a `write` raises; nothing is left behind. OSError: a file cannot be written.
    """
    mark = f"{owner_mark()}-{secrets.token_hex(4)}"
    targets = [Path(path) for path, _ in files]
    temporaries = [target.with_name(f".{target.name}.{mark}.tmp") for target in targets]
    try:
        for target, temporary, (_, write) in zip(targets, temporaries, files, strict=True):
            temporary.touch()
            mode = temporary.stat().st_mode  # as the umask wants it; safetensors makes private files
            try:
                write(temporary)
            except SafetensorError as error:
                raise OSError(f"{target} could not be written: {error}") from error
            temporary.chmod(mode)
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        for target, temporary in zip(targets, temporaries, strict=True):
            os.replace(temporary, target)
    except BaseException:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)
        raise
    for directory in dict.fromkeys(target.parent for target in targets):
        fsync_directory(directory)


def write_atomically(path: str | os.PathLike[str], write: Write) -> None:
    """Replace a file by what `write` writes to another path, or leave it as it was: `write_together` of one.

    Raises:
        What `write` raises; nothing is left behind. OSError: the file cannot be written.
    """
    write_together([(path, write)])


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Replace a file's content, or leave it as it was: temporary name, fsync, rename, fsync.

    Raises:
        OSError: the file cannot be written (full disk, missing directory); nothing is left behind.
    """
    write_atomically(path, lambda temporary: temporary.write_bytes(data))


def atomic_write_json(path: str | os.PathLike[str], value: Any) -> None:
    """`atomic_write_bytes` of a value as standard JSON (indent 2).

    Raises:
        ValueError: a NaN or infinity, which JSON does not have.
        TypeError: something JSON cannot express.
        OSError: the file cannot be written.
    """
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    atomic_write_bytes(path, text.encode("utf-8"))


# --- state --------------------------------------------------------------------------------------


def save_state(path: str | os.PathLike[str], state: Any) -> None:
    """Write a nested state to one safetensors file, atomically.

    A state is any nesting of dicts (string or integer keys), lists and tuples of torch tensors,
    numpy arrays and numpy scalars of any type but object, ints of any size, floats (NaN and
    infinities included), bools, None, strings and bytes. `load_state` gives all of it back exactly:
    values, types, dtypes, shapes. Subclasses of dict come back as dict, tensors on the CPU and
    without gradient.

    Raises:
        TypeError: something else is in the state; the message names where. Nothing is written.
        OSError: the file cannot be written; an older file of that name stays as it was.
    """
    write_atomically(path, state_writer(state))


def state_writer(state: Any, marks: Mapping[str, str] | None = None) -> Write:
    """What writes a state's file, for `write_together`; the state is read now.

    Args:
        state: see `save_state`.
        marks: text under other names in the file's metadata.

    Raises:
        TypeError: see `save_state`.
    """
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    try:
        skeleton = json.dumps(_encode(state, "state", arrays), allow_nan=False, separators=(",", ":"))
    except RecursionError:
        raise TypeError("save_state: the state is nested too deeply or contains itself") from None
    metadata = {
        **(marks or {}), "format": _FORMAT, "skeleton": skeleton, "sha256": _digest(skeleton, arrays)
    }  # fmt: skip

    def write(temporary: Path) -> None:
        specs = {}
        for name, array in arrays.items():
            specs[name] = TensorSpec(
                dtype=array.dtype.name,
                shape=list(array.shape),
                data_ptr=array.ctypes.data,
                data_len=array.nbytes,
            )
        serialize_file(specs, str(temporary), metadata)

    return write


def can_save(value: Any) -> bool:
    """Whether `save_state` takes `value` as a part of a state."""
    try:
        _encode(value, "state", {})
    except (TypeError, RecursionError):
        return False
    return True


def load_state(path: str | os.PathLike[str]) -> Any:
    """The state that `save_state` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, altered, or was not written by `save_state`; the message
            names it.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no state file at {path}")
    try:
        with safe_open(str(path), framework="np") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise ValueError(f"its format is {metadata.get('format')!r}, not {_FORMAT!r}")
            arrays = {name: np.array(file.get_tensor(name), order="C") for name in file.keys()}  # noqa: SIM118
        if _digest(metadata["skeleton"], arrays) != metadata["sha256"]:
            raise ValueError("its checksum does not match its content")
        return _decode(json.loads(metadata["skeleton"]), arrays)
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"{path} is not an intact state file: {error}") from error


def _digest(skeleton: str, arrays: Mapping[str, np.ndarray[Any, Any]]) -> str:
    digest = hashlib.sha256(skeleton.encode())
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(arrays[name].reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


# Nodes of the skeleton: null, true, false, strings, finite floats, integers below 2^53 and lists
# stand for themselves; everything else is an object with one key that says what it is.


def _encode(value: Any, where: str, arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
    kind = type(value)
    if kind in _PLAIN or kind is str:
        return value
    if kind is int:
        return value if abs(value) < _SAFE_INTEGER else {"int": hex(value)}
    if kind is float:
        return value if math.isfinite(value) else {"float": struct.pack(">d", value).hex()}
    if kind is bytes:
        return {"bytes": _store(np.frombuffer(value, np.uint8), arrays)}
    if kind is list:
        return [_encode(item, f"{where}[{i}]", arrays) for i, item in enumerate(value)]
    if kind is tuple:
        return {"tuple": [_encode(item, f"{where}[{i}]", arrays) for i, item in enumerate(value)]}
    if isinstance(value, dict):
        for key in value:
            if type(key) not in (str, int):
                raise TypeError(f"save_state: {where} has the key {key!r}; keys must be str or int")
        return {
            "dict": [
                [_encode(k, where, arrays), _encode(v, f"{where}[{k!r}]", arrays)] for k, v in value.items()
            ]
        }
    if isinstance(value, torch.Tensor):
        return _encode_tensor(value, where, arrays)
    if kind is np.ndarray or isinstance(value, np.generic):
        return _encode_array(value, where, arrays)
    raise TypeError(f"save_state: {where} is a {kind.__module__}.{kind.__qualname__}, which cannot be saved")


def _encode_tensor(tensor: torch.Tensor, where: str, arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise TypeError(f"save_state: {where} is a {tensor.layout} tensor; only dense ones can be saved")
    dense = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    dtype = str(dense.dtype).removeprefix("torch.")
    shape = list(dense.shape)
    if dtype in _NATIVE:
        array = dense.numpy()
    else:
        array = dense.reshape(-1).view(torch.uint8).numpy() if dense.numel() else np.empty(0, np.uint8)
    return {"tensor": [_store(array, arrays), dtype, shape]}


def _encode_array(value: Any, where: str, arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
    array = np.asarray(value, order="C")
    if array.dtype.hasobject:
        raise TypeError(f"save_state: {where} is an array of Python objects, which cannot be saved")
    descr = np.lib.format.dtype_to_descr(array.dtype)
    raw = array
    if array.dtype.name not in _NATIVE or not array.dtype.isnative:
        raw = np.frombuffer(array.tobytes(), np.uint8)
    kind = "array" if isinstance(value, np.ndarray) else "scalar"
    return {kind: [_store(raw, arrays), descr, list(array.shape)]}


def _store(array: np.ndarray[Any, Any], arrays: dict[str, np.ndarray[Any, Any]]) -> str:
    name = str(len(arrays))
    arrays[name] = np.ascontiguousarray(array).reshape(array.shape)
    return name


def _decode(node: Any, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Any:
    if isinstance(node, list):
        return [_decode(item, arrays) for item in node]
    if not isinstance(node, dict):
        return node
    ((kind, content),) = node.items()
    if kind == "dict":
        return {_decode(key, arrays): _decode(value, arrays) for key, value in content}
    if kind == "tuple":
        return tuple(_decode(item, arrays) for item in content)
    if kind == "int":
        return int(content, 16)
    if kind == "float":
        return float(struct.unpack(">d", bytes.fromhex(content))[0])
    if kind == "bytes":
        return arrays[content].tobytes()
    name, dtype, shape = content
    if kind == "tensor":
        return _decode_tensor(arrays[name], dtype, shape)
    expected = np.lib.format.descr_to_dtype(_tuples(dtype))
    array = arrays[name]
    if array.dtype != expected:
        array = (
            np.frombuffer(bytearray(array.tobytes()), expected)
            if expected.itemsize
            else np.empty(shape, expected)
        )
    array = array.reshape(shape)
    return array[()] if kind == "scalar" else array


def _decode_tensor(array: np.ndarray[Any, Any], dtype: str, shape: list[int]) -> torch.Tensor:
    expected = _TORCH_DTYPES[dtype]
    if array.size == 0:
        return torch.empty(shape, dtype=expected)
    tensor = torch.from_numpy(array)
    if tensor.dtype != expected:
        tensor = tensor.reshape(-1).view(expected)
    return tensor.reshape(shape)


def _tuples(descr: Any) -> Any:
    """JSON turned the tuples of a structured dtype's description into lists; turn them back."""
    if isinstance(descr, str):
        return descr
    return [tuple(_field(part, i) for i, part in enumerate(item)) for item in descr]


def _field(part: Any, position: int) -> Any:
    if position == 0 and isinstance(part, list):
        return tuple(part)  # (title, name)
    if position == 1:
        return _tuples(part)
    if position == 2 and isinstance(part, list):
        return tuple(part)  # the shape of a subarray
    return part
