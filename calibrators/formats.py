"""One shard file: what its headers promise, without reading the data, and then its arrays."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from safetensors import safe_open

from calibrators.errors import ShardError

SUFFIXES = (".npy", ".npz", ".safetensors")
# A header is a few bytes and can promise anything; no honest shard holds an array of this size.
MAX_ARRAY_BYTES = 64 * 2**30
SAFETENSORS_DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "F16": "float16",
    "U32": "uint32",
    "I32": "int32",
    "F32": "float32",
    "U64": "uint64",
    "I64": "int64",
    "F64": "float64",
}


@dataclass(frozen=True)
class Header:
    """dtype: numpy's name ("float32"; ">f4" when byte-swapped), or safetensors' where numpy has none."""

    dtype: str
    shape: tuple[int, ...]


def read_headers(path: Path, npy_name: str) -> dict[str, Header]:
    """Return the header of every array in a shard without reading the arrays.

    npy_name: what to call the array of an .npy file, which carries no name.
    Raises ShardError, naming the file, when it cannot be read, is damaged or truncated, holds Python
    objects, or promises more than MAX_ARRAY_BYTES for one array.
    """
    with _naming(path):
        if path.suffix.lower() == ".npz":
            return _npz_headers(path)
        if path.suffix.lower() == ".safetensors":
            return _safetensors_headers(path)
        with path.open("rb") as stream:
            return {npy_name: _npy_header(stream, os.fstat(stream.fileno()).st_size, str(path))}


def read_arrays(path: Path, npy_name: str) -> dict[str, NDArray[Any]]:
    """Return the arrays of a shard; an .npy file is memory-mapped, the others are read whole.

    Raises ShardError, naming the file, when it cannot be read or is damaged. Nothing is unpickled.
    """
    with _naming(path):
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as members:
                return {name: members[name] for name in members.files}
        if path.suffix.lower() == ".safetensors":
            with safe_open(path, framework="numpy") as tensors:
                return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
        return {npy_name: np.load(path, mmap_mode="r", allow_pickle=False)}


def _npz_headers(path: Path) -> dict[str, Header]:
    headers: dict[str, Header] = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            label = f"{path}: {member.filename!r}"
            if name == member.filename:
                raise ShardError(f"{label} is not an .npy array; write the shard with np.savez")
            if name in headers:
                raise ShardError(f"{label} is there twice; write the shard with np.savez")
            with archive.open(member) as stream:
                headers[name] = _npy_header(stream, member.file_size, label)
    return headers


def _npy_header(stream: IO[bytes], size: int, label: str) -> Header:
    version = npy.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = npy.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, _, dtype = npy.read_array_header_2_0(stream)
    else:  # 3.0 exists only for structured arrays with field names outside latin-1
        raise ShardError(f"{label}: npy format {version} is for structured arrays; save a numeric array")
    if dtype.hasobject:
        raise ShardError(f"{label} holds pickled Python objects (dtype {dtype}); save a numeric array")
    promised = _array_bytes(shape, dtype, label)
    if stream.tell() + promised > size:
        raise ShardError(f"{label} is truncated: its header promises {promised} bytes; write it again")
    return Header(str(dtype), shape)


def _safetensors_headers(path: Path) -> dict[str, Header]:
    headers: dict[str, Header] = {}
    with safe_open(path, framework="numpy") as tensors:
        for name in tensors.keys():  # noqa: SIM118 (safe_open is no mapping)
            part = tensors.get_slice(name)
            shape, dtype = tuple(part.get_shape()), part.get_dtype()
            if dtype in SAFETENSORS_DTYPES:
                dtype = SAFETENSORS_DTYPES[dtype]
                _array_bytes(shape, np.dtype(dtype), f"{path}: {name!r}")
            headers[name] = Header(dtype, shape)
    return headers


def _array_bytes(shape: tuple[int, ...], dtype: np.dtype[Any], label: str) -> int:
    if any(length < 0 for length in shape):
        raise ShardError(f"{label} has a negative length in its shape {shape}; write it again")
    promised = math.prod(shape) * dtype.itemsize
    if promised > MAX_ARRAY_BYTES:
        raise ShardError(
            f"{label} promises {promised / 2**30:.0f} GiB (shape {shape}, {dtype}); the limit is "
            f"{MAX_ARRAY_BYTES // 2**30} GiB per array: split it into smaller shards"
        )
    return promised


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read into a ShardError that names the file."""
    try:
        yield
    except ShardError:
        raise
    except OSError as exc:
        raise ShardError(f"{path} cannot be read: {exc.strerror or exc}") from exc
    except MemoryError as exc:
        raise ShardError(f"{path} does not fit in memory; split it into smaller shards") from exc
    except Exception as exc:  # damaged bytes: numpy, zipfile, zlib, safetensors raise a dozen unrelated types
        reason = (str(exc).splitlines() or [type(exc).__name__])[0]
        raise ShardError(f"{path} is damaged or no {path.suffix} file: {reason}; write it again") from exc
