"""What stands in for a GPU: the driver's answers, and host memory in place of the device's."""

# ruff: noqa: N802  (the driver's own names)
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

NAME, CAPABILITY = "NVIDIA GeForce RTX 4090", (8, 9)


class Driver:
    """As libcuda.so.1 answers where there is one GPU."""

    def cuInit(self, flags: int) -> int:
        return 0

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:
        name.value = NAME.encode()
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:
        value._obj.value = CAPABILITY[attribute - 75]
        return 0


class HostMemory:
    """In place of calibrators.tensorrt.DeviceMemory: real addresses, of host memory."""

    def __init__(self, device: int) -> None:
        self._arrays: dict[str, NDArray[Any]] = {}

    def fill(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, int]:
        self._arrays = {name: np.array(array, order="C") for name, array in arrays.items()}
        return {name: array.ctypes.data for name, array in self._arrays.items()}

    def close(self) -> None:
        self._arrays = {}
