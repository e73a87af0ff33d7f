"""TensorRT's runtime, and CUDA, without a GPU: engines are Python functions, device memory is host memory.

It stands below Polygraphy's TrtRunner, which is the real one. Like the binding it returns None or False and
leaves the reason to the logger, prints what a listener raises, and hands out dimensions that are no tuples.
"""

from __future__ import annotations

import ctypes
import enum
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

DataType = enum.Enum("DataType", "FLOAT HALF INT8 INT32 BOOL UINT8 INT64 BF16 FP8")
TensorIOMode = enum.Enum("TensorIOMode", "NONE INPUT OUTPUT")
TensorFormat = enum.Enum("TensorFormat", "LINEAR HWC CHW16")
TensorLocation = enum.Enum("TensorLocation", "DEVICE HOST")
NUMPY = {"FLOAT": np.float32, "HALF": np.float16, "INT32": np.int32, "INT64": np.int64, "BOOL": np.bool_}
Arrays = Mapping[str, NDArray[Any]]


class Dims:
    """A sequence, but no tuple and not equal to one."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self._lengths = tuple(lengths)

    def __len__(self) -> int:
        return len(self._lengths)

    def __getitem__(self, index: int) -> int:
        return self._lengths[index]


class Severity(enum.Enum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class ILogger:
    def log(self, severity: Severity, message: str) -> None:
        raise NotImplementedError


ILogger.Severity = Severity  # type: ignore[attr-defined]


class IOutputAllocator:
    pass


class IDebugListener:
    pass


@dataclass
class Plan:
    """An engine that TensorRT built. inputs, outputs: name -> dtype and shape, -1 for a dynamic axis. run:
    the inputs' arrays -> the outputs', and whatever else the engine computes, for debug tensors."""

    inputs: dict[str, tuple[str, tuple[int, ...]]]
    outputs: dict[str, tuple[str, tuple[int, ...]]]
    run: Callable[[Arrays], Arrays]
    profile: tuple[tuple[int, ...], ...] = ((1, 2), (2, 2), (4, 2))
    debug: list[tuple[str, str, str]] = field(default_factory=list)  # name, dtype, location, as they come
    refused: str = ""  # why it cannot be loaded
    warning: str = ""
    no_context: str = ""
    fails: str = ""  # why it cannot be run


class ICudaEngine:
    def __init__(self, plan: Plan, logger: Any) -> None:
        self.plan, self._logger = plan, logger
        self._tensors = {**plan.outputs, **plan.inputs}  # outputs before inputs: the order means nothing

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.plan.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType[self._tensors[name][0]]

    def get_tensor_shape(self, name: str) -> Dims:
        return Dims(self._tensors[name][1])

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[Dims]:
        assert profile == 0
        assert -1 in self.plan.inputs[name][1]
        return [Dims(shape) for shape in self.plan.profile]

    def get_tensor_format(self, name: str) -> TensorFormat:  # without a profile, as in 8.5
        return TensorFormat.LINEAR

    def is_shape_inference_io(self, name: str) -> bool:
        return False

    def create_execution_context(self) -> IExecutionContext | None:
        if self.plan.no_context:
            self._logger.log(Severity.ERROR, self.plan.no_context)
            return None
        return IExecutionContext(self, self._logger)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine, logger: Any) -> None:
        self.engine, self._logger = engine, logger
        self.active_optimization_profile = 0
        self.unfused_tensors_debug_state = False
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._allocators: dict[str, Any] = {}
        self._listener: Any = None

    def get_tensor_shape(self, name: str) -> Dims:
        return Dims(self._shapes.get(name, self.engine.plan.inputs.get(name, ("", (-1,)))[1]))

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        self._shapes[name] = tuple(shape)
        return True

    def get_tensor_address(self, name: str) -> int:
        return self._addresses.get(name, 0)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def set_output_allocator(self, name: str, allocator: IOutputAllocator) -> bool:
        self._allocators[name] = allocator
        return True

    def set_all_tensors_debug_state(self, flag: bool) -> bool:
        """Concerns tensors that were marked one by one; not the unfused ones."""
        return True

    def set_debug_listener(self, listener: IDebugListener) -> bool:
        self._listener = listener
        return True

    def execute_async_v3(self, stream: int) -> bool:
        plan = self.engine.plan
        if plan.fails:
            self._logger.log(Severity.ERROR, plan.fails)
            return False
        feeds = {
            name: _at(self._addresses[name], NUMPY[dtype], self._shapes[name])
            for name, (dtype, _) in plan.inputs.items()
        }
        found = plan.run(feeds)
        for name in plan.outputs:
            address = self._allocators[name].reallocate_output(name, 0, found[name].nbytes, 256)
            ctypes.memmove(address, np.ascontiguousarray(found[name]).ctypes.data, found[name].nbytes)
            self._allocators[name].notify_shape(name, Dims(found[name].shape))
        for name, dtype, location in plan.debug if self.unfused_tensors_debug_state else []:
            array = np.array(found[name])
            try:
                self._listener.process_debug_tensor(
                    array.ctypes.data,
                    TensorLocation[location],
                    DataType[dtype],
                    Dims(array.shape),
                    name,
                    stream,
                )
            except Exception as error:
                print(f"[ERROR] Exception caught in processDebugTensor(): {error}")
            array[...] = 0  # valid only during the call
        return True


def _at(address: int, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(ctypes.string_at(address, size), dtype).reshape(shape)


class Runtime:
    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self.engine_host_code_allowed = False
        Runtime.last = self

    last: Runtime

    def deserialize_cuda_engine(self, plan: Plan) -> ICudaEngine | None:
        if plan.warning:
            self._logger.log(Severity.WARNING, plan.warning)
        if plan.refused:
            self._logger.log(Severity.ERROR, plan.refused)
            return None
        return ICudaEngine(plan, self._logger)


class HostCuda:
    """In place of Polygraphy's wrapper of libcudart."""

    def __init__(self) -> None:
        self.memory: dict[int, Any] = {}
        self.streams: set[int] = set()
        self._handles = itertools.count(1)

    def create_stream(self) -> int:
        self.streams.add(handle := next(self._handles))
        return handle

    def destroy_stream(self, handle: int) -> None:
        self.streams.remove(handle)

    def stream_synchronize(self, handle: int) -> None:
        assert handle in self.streams

    def malloc(self, nbytes: int) -> int:
        buffer = ctypes.create_string_buffer(max(nbytes, 1))
        self.memory[ctypes.addressof(buffer)] = buffer
        return ctypes.addressof(buffer)

    def free(self, address: int) -> None:
        if address:  # as for free(), null is nothing to free
            del self.memory[address]

    def memcpy(self, dst: int, src: int, nbytes: int, kind: Any, stream_ptr: int | None = None) -> None:
        assert stream_ptr is None or stream_ptr in self.streams
        ctypes.memmove(dst, src, nbytes)


def install(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, HostCuda]:
    """The module, and the memory and streams in use; Polygraphy's own modules work over both."""
    from polygraphy.backend.trt import runner, util
    from polygraphy.cuda import cuda
    from polygraphy.datatype import tensorrt as dtypes

    trt: Any = ModuleType("tensorrt")
    trt.__version__ = "10.13.0"
    for kind in (ILogger, Runtime, ICudaEngine, IExecutionContext, IOutputAllocator, IDebugListener):
        setattr(trt, kind.__name__, kind)
    trt.DataType, trt.TensorIOMode = DataType, TensorIOMode
    trt.TensorFormat, trt.TensorLocation = TensorFormat, TensorLocation
    names = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16", "fp8": "FP8"}
    names |= {name: name.upper() for name in ("int8", "int32", "int64", "bool", "uint8")}
    for name, member in names.items():
        setattr(trt, name, DataType[member])
    trt.is_installed = trt.is_importable = lambda: True  # what Polygraphy's lazy module adds
    host = HostCuda()
    for module in (runner, util, dtypes):
        monkeypatch.setattr(module, "trt", trt)
    monkeypatch.setattr(cuda, "G_CUDA", host)
    return trt, host
