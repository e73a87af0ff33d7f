"""The first GPU: its name and compute capability, asked of the driver alone; no package, no context."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from trtbuild.errors import MachineError, one_line

DRIVER = "libcuda.so.1"
NAME_BYTES = 256
# cuda.h: CUdevice_attribute
MAJOR, MINOR = 75, 76


@dataclass(frozen=True)
class Gpu:
    name: str
    compute_capability: tuple[int, int]


def require_gpu() -> Gpu:
    """GPU 0 of this machine. Raises MachineError, with the reason, where there is no driver or no GPU."""
    driver = _driver()
    _check(driver, driver.cuInit(0))
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(NAME_BYTES)
    _check(driver, driver.cuDeviceGet(ctypes.byref(device), 0))
    _check(driver, driver.cuDeviceGetName(name, NAME_BYTES, device))
    _check(driver, driver.cuDeviceGetAttribute(ctypes.byref(major), MAJOR, device))
    _check(driver, driver.cuDeviceGetAttribute(ctypes.byref(minor), MINOR, device))
    return Gpu(name.value.decode(errors="replace"), (major.value, minor.value))


def gpu_name() -> str | None:
    """As in "NVIDIA H200"; None where there is no driver or no GPU."""
    gpu = _gpu()
    return gpu.name if gpu else None


def compute_capability() -> tuple[int, int] | None:
    """As in (8, 9); None where there is no driver or no GPU."""
    gpu = _gpu()
    return gpu.compute_capability if gpu else None


def _gpu() -> Gpu | None:
    try:
        return require_gpu()
    except MachineError:
        return None


def _driver() -> Any:
    try:
        driver = ctypes.CDLL(DRIVER)
        driver.cuInit  # noqa: B018  (a stub to link against has no such function)
    except (OSError, AttributeError) as error:
        raise MachineError(
            f"no NVIDIA GPU: its driver does not load ({one_line(error)}); run this where there is one "
            "(in a container: --gpus all)"
        ) from error
    return driver


def _check(driver: Any, status: int) -> None:
    """Raise MachineError unless a call of the driver's went well; it returns its errors."""
    if status:
        text = ctypes.c_char_p()
        driver.cuGetErrorString(status, ctypes.byref(text))
        said = text.value.decode(errors="replace") if text.value else "it does not say why"
        raise MachineError(f"no NVIDIA GPU: the driver answers with error {status} ({said}); see nvidia-smi")
