"""A .safetensors file that is written without a copy of its tensors, and mapped into memory to be read."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Collection, Container, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibrators.formats import SAFETENSORS_DTYPES
from trtbuild.errors import InputError

NAMES = {np.dtype(name): code for code, name in SAFETENSORS_DTYPES.items()}
METADATA, CHECKSUMS, ABSENT = "__metadata__", "trtbuild.crc32", "trtbuild.absent"
LARGEST_HEADER = 100_000_000  # what safetensors itself accepts


def storable(array: NDArray[Any]) -> bool:
    """Whether the format has the dtype."""
    return array.dtype in NAMES


class Mapped(NamedTuple):
    """absent: tensors that were known to be missing when the file was written."""

    tensors: dict[str, NDArray[Any]]
    absent: set[str]


def size_of(tensors: Mapping[str, NDArray[Any]], names: Collection[str]) -> int:
    """The most bytes that a file of these tensors takes; names: theirs, and those that are absent."""
    quoted = sum(2 * len(json.dumps(json.dumps(name))) for name in names)  # each is in the metadata too
    return sum(array.nbytes for array in tensors.values()) + quoted + 200 * (len(tensors) + 1)


def write(
    stream: IO[bytes], tensors: Mapping[str, NDArray[Any]], absent: Collection[str], pool: Executor
) -> None:
    """Write tensors with a CRC-32 of each. The largest dtypes go first, so each is aligned.

    Raises InputError for a dtype that the format does not have.
    """
    names = sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize)
    for name in names:
        if not storable(tensors[name]):
            raise InputError(f"tensor {name!r} of dtype {tensors[name].dtype} cannot be stored")
    arrays = {name: np.ascontiguousarray(tensors[name]).reshape(tensors[name].shape) for name in names}
    sums = dict(zip(names, pool.map(_checksum, arrays.values()), strict=True))
    entries = [(name, array.dtype, array.shape) for name, array in arrays.items()]
    stream.write(header(entries, {CHECKSUMS: json.dumps(sums), ABSENT: json.dumps(sorted(absent))}))
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


def mapped(path: Path, pool: Executor, wanted: Container[str]) -> Mapped:
    """Those of the `wanted` tensors that a file of `write` has: views of the file in memory, read-only, their
    checksums right.

    Raises InputError, naming the file, where it is truncated, damaged or cannot be read, FileNotFoundError
    where there is none.
    """
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > LARGEST_HEADER:
                raise ValueError(f"a header of {length} bytes")
            entries = json.loads(stream.read(length))
            data = np.memmap(stream, np.uint8, mode="r", offset=8 + length)
        metadata = entries.pop(METADATA)
        sums, absent = json.loads(metadata[CHECKSUMS]), set(json.loads(metadata[ABSENT]))
        arrays = {name: _view(data, entry) for name, entry in entries.items() if name in wanted}
        seen = dict(zip(arrays, pool.map(_checksum, arrays.values()), strict=True))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); delete it, and it is made again"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, "its header cannot be read") from error
    if wrong := [name for name, checksum in seen.items() if sums.get(name) != checksum]:
        raise _damaged(path, f"the checksum of {wrong[0]!r} differs")
    return Mapped(arrays, absent)


def _view(data: NDArray[np.uint8], entry: Mapping[str, Any]) -> NDArray[Any]:
    dtype, shape = np.dtype(SAFETENSORS_DTYPES[entry["dtype"]]), tuple(entry["shape"])
    start, stop = entry["data_offsets"]
    if not 0 <= start <= stop <= data.size or stop - start != math.prod(shape) * dtype.itemsize:
        raise ValueError("a tensor that is not all there")
    return data[start:stop].view(dtype).reshape(shape)


def _checksum(array: NDArray[Any]) -> int:
    """Of dtype, shape and values."""
    return zlib.crc32(array.reshape(-1).data, zlib.crc32(f"{array.dtype.name}{array.shape}".encode()))


def _damaged(path: Path, why: str) -> InputError:
    return InputError(f"{path} is damaged ({why}); delete it, and it is made again")
