"""A .safetensors file that is written without a copy of its tensors, and mapped into memory to be read."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Container, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from trtbuild.errors import InputError

DTYPES = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "I64": "int64", "I32": "int32"},
    **{"I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8"},
    "BOOL": "bool",
}
"""Safetensors' names of NumPy's dtypes: https://huggingface.co/docs/safetensors"""
NAMES = {np.dtype(name): code for code, name in DTYPES.items()}
METADATA, CHECKSUMS = "__metadata__", "trtbuild.crc32"
LARGEST_HEADER = 100_000_000  # what safetensors itself accepts


def storable(array: NDArray[Any]) -> bool:
    """Whether the format has the dtype."""
    return array.dtype in NAMES


def size_of(tensors: Mapping[str, NDArray[Any]]) -> int:
    """The most bytes that a file of these tensors takes."""
    names = sum(2 * len(json.dumps(name)) for name in tensors)  # each is in the checksums too
    return sum(array.nbytes for array in tensors.values()) + names + 200 * (len(tensors) + 1)


def write(stream: IO[bytes], tensors: Mapping[str, NDArray[Any]], pool: Executor) -> None:
    """Write `storable` tensors, with a CRC-32 of each. The largest dtypes go first, so each is aligned."""
    names = sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize)
    arrays = {name: np.ascontiguousarray(tensors[name]).reshape(tensors[name].shape) for name in names}
    sums = dict(zip(names, pool.map(_checksum, arrays.values()), strict=True))
    entries = [(name, array.dtype, array.shape) for name, array in arrays.items()]
    stream.write(header(entries, {CHECKSUMS: json.dumps(sums)}))
    for array in arrays.values():
        stream.write(array.reshape(-1).data)


def header(
    tensors: Sequence[tuple[str, np.dtype[Any], tuple[int, ...]]], metadata: Mapping[str, str]
) -> bytes:
    """The beginning of a file in which these tensors follow, in this order."""
    document: dict[str, Any] = {METADATA: dict(metadata)}
    start = 0
    for name, dtype, shape in tensors:
        stop = start + math.prod(shape) * dtype.itemsize
        document[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def mapped(path: Path, pool: Executor, wanted: Container[str]) -> dict[str, NDArray[Any]]:
    """Those of the `wanted` tensors that a file of `write` has: views of the file in memory, read-only, their
    checksums right.

    Raises InputError, naming the file, where it is truncated or damaged; OSError where it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > LARGEST_HEADER:
                raise ValueError(f"a header of {length} bytes")
            entries = json.loads(stream.read(length))
        sums = json.loads(entries.pop(METADATA)[CHECKSUMS])
        data = np.memmap(path, np.uint8, mode="r", offset=8 + length)
        arrays = {name: _view(data, entry) for name, entry in entries.items() if name in wanted}
        seen = dict(zip(arrays, pool.map(_checksum, arrays.values()), strict=True))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, "its header cannot be read") from error
    if wrong := [name for name, checksum in seen.items() if sums.get(name) != checksum]:
        raise _damaged(path, f"the checksum of {wrong[0]!r} differs")
    return arrays


def _view(data: NDArray[np.uint8], entry: Mapping[str, Any]) -> NDArray[Any]:
    dtype, shape = np.dtype(DTYPES[entry["dtype"]]), tuple(entry["shape"])
    start, stop = entry["data_offsets"]
    if not 0 <= start <= stop <= data.size or stop - start != math.prod(shape) * dtype.itemsize:
        raise ValueError("a tensor that is not all there")
    return data[start:stop].view(dtype).reshape(shape)


def _checksum(array: NDArray[Any]) -> int:
    """Of dtype, shape and values."""
    return zlib.crc32(array.reshape(-1).data, zlib.crc32(f"{array.dtype.name}{array.shape}".encode()))


def _damaged(path: Path, why: str) -> InputError:
    return InputError(f"{path} is damaged ({why}); delete it, and it is made again")
