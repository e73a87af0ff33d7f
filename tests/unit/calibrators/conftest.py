"""What the tests of TensorRT's calibrators share: shards from arrays, and memory that a pointer reads."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibrators.shards import InputSpec, ShardSet

ShardSets = Callable[..., ShardSet]


@pytest.fixture
def shard_set(tmp_path: Path) -> ShardSets:
    """Writes a file s0, s1, … per dict of arrays, and opens them for inputs of those shapes.

    shapes: input name -> shape of the model's input; by default that of the arrays, any batch.
    """

    def write(
        *shards: Mapping[str, np.ndarray],
        shapes: Mapping[str, Sequence[int | None]] | None = None,
        may_batch: bool = True,
    ) -> ShardSet:
        folder = tmp_path / "shards"
        folder.mkdir()
        for index, arrays in enumerate(shards):
            np.savez(folder / f"s{index}.npz", **arrays)
        specs = [
            InputSpec(name, array.dtype, tuple(shapes[name]) if shapes else (None, *array.shape[1:]))
            for name, array in shards[0].items()
        ]
        return ShardSet.open(folder, specs, may_batch)

    return write


class HostMemory:
    """Stands for the GPU's memory: real addresses, in the host. Closed, it holds 0xFF (NaN as a float)."""

    def __init__(self) -> None:
        self.buffers: dict[str, Any] = {}
        self.closed = 0

    def fill(self, arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
        for name, array in arrays.items():
            assert array.flags.c_contiguous
            if name not in self.buffers:
                self.buffers[name] = ctypes.create_string_buffer(max(array.nbytes, 1))
            assert array.nbytes <= len(self.buffers[name])
            ctypes.memmove(self.buffers[name], array.ctypes.data, array.nbytes)
        return {name: ctypes.addressof(buffer) for name, buffer in self.buffers.items()}

    def close(self) -> None:
        self.closed += 1
        for buffer in self.buffers.values():
            ctypes.memset(buffer, 0xFF, len(buffer))


@pytest.fixture
def host_memory() -> HostMemory:
    return HostMemory()
