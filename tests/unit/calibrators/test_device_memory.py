"""The GPU's memory, with a double of pycuda.driver that keeps its rules: contexts are a stack, whatever
allocates, copies or frees does so in the one on top, and what is left on it at the end aborts the process."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from calibrators import tensorrt
from calibrators.errors import DeviceError
from calibrators.tensorrt import DeviceMemory, shard_calibrator
from tests.unit.calibrators.tensorrt_double import BINDING, Builder

F32 = np.dtype("float32")


class Error(Exception):
    pass


class MemoryError_(Error):  # noqa: N801, N818  (pycuda calls it MemoryError)
    pass


class Driver(ModuleType):
    """pycuda.driver. calls: what was called, in order; room: bytes that the GPU has."""

    Error, MemoryError = Error, MemoryError_

    def __init__(self) -> None:
        super().__init__("pycuda.driver")
        self.stack: list[Context] = []
        self.calls: list[str] = []
        self.room = 1 << 20
        self.initialised = False
        self.in_use: dict[int, Allocation] = {}
        self.Context = type("Context", (Context,), {"driver": self})
        self.broken = ""

    def init(self) -> None:
        if self.broken:
            raise Error(f"cuInit failed: {self.broken}")
        self.initialised = True

    def Device(self, ordinal: int) -> Device:  # noqa: N802
        if not self.initialised:
            raise Error("cuDeviceGet failed: initialization error")
        if ordinal > 1:
            raise Error("cuDeviceGet failed: invalid device ordinal")
        return Device(self, ordinal)

    def current(self) -> Context:
        if not self.stack:
            raise Error(
                "explicit_context_dependent failed: invalid device context - no currently active context?"
            )
        return self.stack[-1]

    def mem_alloc(self, size: int) -> Allocation:
        context = self.current()
        if size == 0:
            raise Error("cuMemAlloc failed: invalid argument")
        if size > self.room:
            raise MemoryError_("cuMemAlloc failed: out of memory")
        self.room -= size
        self.calls.append(f"alloc {size}")
        return Allocation(self, context, size)

    def memcpy_htod(self, dest: Allocation, src: np.ndarray) -> None:
        assert self.current() is dest.context
        assert src.nbytes <= dest.size
        self.calls.append(f"copy {src.nbytes}")
        ctypes.memmove(dest.memory, src.tobytes(order="A"), src.nbytes)  # any contiguous memory, as it lies


class Context:
    driver: Driver

    def __init__(self, ordinal: int) -> None:
        self.ordinal = ordinal

    def push(self) -> None:
        self.driver.stack.append(self)

    @classmethod
    def pop(cls) -> None:
        cls.driver.stack.pop()

    @classmethod
    def synchronize(cls) -> None:
        cls.driver.current()
        cls.driver.calls.append("synchronize")


class Device:
    def __init__(self, driver: Driver, ordinal: int) -> None:
        self.driver, self.ordinal = driver, ordinal

    def retain_primary_context(self) -> Context:
        self.driver.calls.append(f"retain {self.ordinal}")
        return self.driver.Context(self.ordinal)


class Allocation:
    def __init__(self, driver: Driver, context: Context, size: int) -> None:
        self.driver, self.context, self.size = driver, context, size
        self.memory = ctypes.create_string_buffer(size)
        driver.in_use[int(self)] = self

    def __int__(self) -> int:
        return ctypes.addressof(self.memory)

    def free(self) -> None:
        assert self.driver.current() is self.context
        del self.driver.in_use[int(self)]
        self.driver.room += self.size
        self.driver.calls.append(f"free {self.size}")


@pytest.fixture
def driver(monkeypatch) -> Iterator[Driver]:
    driver = Driver()
    package: Any = ModuleType("pycuda")
    package.driver = driver
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    tensorrt._primary_context.cache_clear()
    yield driver
    tensorrt._primary_context.cache_clear()
    assert driver.stack == []


def read(address: int, like: np.ndarray) -> np.ndarray:
    return np.frombuffer((ctypes.c_char * like.nbytes).from_address(address), like.dtype).reshape(like.shape)


def test_holds_what_it_was_filled_with_last(driver):
    memory = DeviceMemory(0)
    first = {"x": np.arange(6, dtype=F32).reshape(2, 3), "ids": np.arange(4, dtype=np.int32)}
    addresses = memory.fill(first)
    for name, array in first.items():
        assert_array_equal(read(addresses[name], array), array)
    second = {name: array + 1 for name, array in first.items()}
    assert memory.fill(second) == addresses
    for name, array in second.items():
        assert_array_equal(read(addresses[name], array), array)
    assert driver.calls == [
        *("retain 0", "alloc 24", "copy 24", "alloc 16", "copy 16", "synchronize"),
        *("copy 24", "copy 16", "synchronize"),
    ]


def test_nothing_is_allocated_before_it_is_filled_nor_freed_after(driver):
    memory = DeviceMemory(0)
    memory.close()
    assert driver.calls == []
    memory.fill({"x": np.zeros(3, F32)})
    memory.close()
    memory.close()
    assert driver.calls[-1:] == ["free 12"]
    assert driver.in_use == {}


def test_the_context_that_was_current_is_so_again(driver):
    driver.init()
    own = driver.Device(0).retain_primary_context()
    own.push()
    memory = DeviceMemory(0)
    memory.fill({"x": np.zeros(3, F32)})
    assert driver.stack == [own]
    memory.close()
    assert driver.stack == [own]
    driver.Context.pop()


def test_the_primary_context_is_retained_once(driver):
    for _ in range(3):
        memory = DeviceMemory(1)
        memory.fill({"x": np.zeros(3, F32)})
        memory.close()
    assert [call for call in driver.calls if "retain" in call] == ["retain 1"]


def test_an_empty_input_has_an_address_too(driver):
    addresses = DeviceMemory(0).fill({"past": np.zeros((2, 0), F32), "x": np.ones(2, F32)})
    assert addresses["past"] != addresses["x"]
    assert "copy 0" not in driver.calls


@pytest.mark.parametrize("array", [np.zeros(4, F32), np.zeros((3, 2), F32).T])
def test_what_does_not_fill_a_buffer_as_it_lies_is_refused(driver, array):
    memory = DeviceMemory(0)
    memory.fill({"x": np.zeros((2, 3), F32)})
    with pytest.raises(ValueError, match=r"'x': .* bytes for a buffer of 24"):
        memory.fill({"x": array})


def test_full_memory_says_what_to_do_and_frees_what_it_got(driver):
    driver.room = 16
    memory = DeviceMemory(0)
    with pytest.raises(
        DeviceError, match=r"no room for a calibration batch \(cuMemAlloc failed: out of memory\)"
    ):
        memory.fill({"x": np.zeros(4, F32), "y": np.zeros(1, F32)})
    assert len(driver.in_use) == 1
    memory.close()
    assert driver.in_use == {}


@pytest.mark.parametrize(("device", "broken"), [(0, "no CUDA-capable device is detected"), (7, "")])
def test_no_gpu(driver, device, broken):
    driver.broken = broken
    memory = DeviceMemory(device)
    with pytest.raises(DeviceError, match=rf"CUDA failed while .*{broken or 'invalid device ordinal'}"):
        memory.fill({"x": np.zeros(1, F32)})


def test_feeds_a_build_and_leaves_nothing_behind(driver, shard_set):
    shards = shard_set({"x": np.arange(12, dtype=F32).reshape(4, 3)})
    builder = Builder({"x": ("float32", (2, 3))})
    with shard_calibrator(BINDING, "entropy", shards, {"x": (2, 3)}, {"x": F32}) as calibrator:
        builder.build_serialized_network(calibrator)
        calibrator.check()
    assert_array_equal(np.concatenate([b["x"] for b in builder.batches]).ravel(), np.arange(12))
    assert driver.in_use == {}


class TestPycudaDoesNotLoad:
    def test_missing(self, shard_set, monkeypatch):
        monkeypatch.setitem(sys.modules, "pycuda", None)
        monkeypatch.delitem(sys.modules, "pycuda.driver", raising=False)
        shards = shard_set({"x": np.zeros((2, 3), F32)})
        with pytest.raises(
            DeviceError, match=r"pycuda, .*\); pip install 'trtbuild\[tensorrt\]', on a Jetson"
        ):
            shard_calibrator(BINDING, "entropy", shards, {"x": (2, 3)}, {"x": F32})

    def test_there_but_not_the_driver(self, tmp_path, monkeypatch):
        (tmp_path / "pycuda").mkdir()
        (tmp_path / "pycuda" / "__init__.py").write_text("")
        (tmp_path / "pycuda" / "driver.py").write_text("raise ImportError('libcuda.so.1: cannot open')")
        for name in ("pycuda", "pycuda.driver"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.syspath_prepend(tmp_path)
        try:
            with pytest.raises(DeviceError, match=r"\(libcuda\.so\.1: cannot open\); check NVIDIA\'s driver"):
                DeviceMemory(0)
        finally:
            sys.modules.pop("pycuda", None)
