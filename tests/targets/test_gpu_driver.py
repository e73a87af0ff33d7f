"""What the driver says of the first GPU, over a libcuda that returns its errors, as the real one does."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import pytest

from trtbuild.errors import MachineError
from trtbuild.targets.trt import gpu

NO_DEVICE = 100


class Driver:
    """libcuda with one GPU; `failing` is the function that returns an error."""

    def __init__(self, failing: str = "") -> None:
        self.failing = failing

    def __getattr__(self, name: str) -> Any:
        def function(*arguments: Any) -> int:
            if name == self.failing:
                return NO_DEVICE
            self.answer(name, *arguments)
            return 0

        return function

    @staticmethod
    def answer(name: str, *arguments: Any) -> None:
        if name == "cuDeviceGet":
            arguments[0]._obj.value = 7
        elif name == "cuDeviceGetName":
            text, size, device = arguments
            assert (len(text), device.value) == (size, 7)
            text.value = b"NVIDIA Toy"
        elif name == "cuDeviceGetAttribute":
            number, attribute, device = arguments
            assert device.value == 7
            number._obj.value = {75: 8, 76: 9}[attribute]
        elif name == "cuGetErrorString":
            arguments[1]._obj.value = b"no CUDA-capable device is detected"


def load(monkeypatch: pytest.MonkeyPatch, driver: object) -> None:
    def library(name: str) -> object:
        assert name == "libcuda.so.1"
        if isinstance(driver, OSError):
            raise driver
        return driver

    monkeypatch.setattr(ctypes, "CDLL", library)


def test_the_first_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    load(monkeypatch, Driver())
    assert gpu.require_gpu() == gpu.Gpu("NVIDIA Toy", (8, 9))
    assert (gpu.gpu_name(), gpu.compute_capability()) == ("NVIDIA Toy", (8, 9))


@pytest.mark.parametrize("failing", ["cuInit", "cuDeviceGet", "cuDeviceGetName", "cuDeviceGetAttribute"])
def test_a_driver_that_finds_none(monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    load(monkeypatch, Driver(failing))
    assert (gpu.gpu_name(), gpu.compute_capability()) == (None, None)
    with pytest.raises(
        MachineError, match=r"error 100 \(no CUDA-capable device is detected\); see nvidia-smi"
    ):
        gpu.require_gpu()


@pytest.mark.parametrize(
    ("driver", "words"),
    [
        (OSError("libcuda.so.1: cannot open shared object file"), r"not load \(libcuda.so.1: cannot open"),
        (SimpleNamespace(), "not load .*cuInit"),  # a stub to link against
    ],
)
def test_no_driver(monkeypatch: pytest.MonkeyPatch, driver: object, words: str) -> None:
    load(monkeypatch, driver)
    assert (gpu.gpu_name(), gpu.compute_capability()) == (None, None)
    with pytest.raises(MachineError, match=words):
        gpu.require_gpu()


def test_this_machine() -> None:
    name, capability = gpu.gpu_name(), gpu.compute_capability()
    assert (name is None) == (capability is None)
    assert name is None or (name and capability and capability >= (3, 0))
