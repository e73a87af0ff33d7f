"""Run an engine, through Polygraphy's runner. This is the part that needs a GPU."""

from __future__ import annotations

import ctypes
import math
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from trtbuild.errors import InputError, MachineError, one_line
from trtbuild.progress import say
from trtbuild.targets.trt.binding import RTX, TENSORRT, Binding
from trtbuild.targets.trt.gpu import require_gpu
from trtbuild.targets.trt.log import OUT_OF_MEMORY, Log, open_log
from trtbuild.targets.trt.ports import EngineRunner, Port

if TYPE_CHECKING:
    import tensorrt as trt

DTYPES = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}
"""TensorRT's names -> NumPy. Not `trt.nptype`, which fails in TensorRT 8.5 with NumPy 1.24 and later. BF16,
which NumPy lacks, is read as float32."""

FLOATS = {"FLOAT": 4, "HALF": 2, "BF16": 2}  # bytes
OTHER_GPU = re.compile(r"different models of devices")


@contextmanager
def open_engine(
    binding: Binding, plan: bytes, name: str, debug: Collection[str] = ()
) -> Iterator[EngineRunner]:
    """Load the engine `plan`, whose checksum was verified before, and activate it.

    `debug` names the debug tensors to collect (TensorRT 10.12 and later). Raises InputError for an engine of
    another TensorRT version or GPU; MachineError without a GPU, and when its memory is too small.
    """
    from polygraphy.logger import G_LOGGER

    log = open_log(binding)
    engine = _load(binding, plan, name, log)
    listener = _listener(binding, debug) if debug else None
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL + 1):  # its errors arrive as exceptions
        runner = _trt_runner(binding)(engine, name=name, debug_listener=listener)
        with _translated(log, name):
            runner.activate()
        try:
            if listener is not None:
                runner.context.unfused_tensors_debug_state = True
            yield _Opened(runner, engine, listener, log)
        except BaseException:
            # After a CUDA error, freeing fails too: the first error is the one to tell.
            with suppress(Exception):
                _close(runner)
            raise
        _close(runner)


def _close(runner: Any) -> None:
    """Deactivate it, and free its outputs, which Polygraphy leaves on the GPU."""
    outputs = list(runner.output_allocator.buffers.values())
    try:
        runner.deactivate()
    finally:
        for buffer in outputs:
            buffer.free()


class _Opened:
    """An active engine, as `EngineRunner`."""

    def __init__(self, runner: Any, engine: trt.ICudaEngine, listener: Any, log: Log) -> None:
        self._runner, self._listener, self._log = runner, listener, log
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name).name == "INPUT"]
        self.inputs = {name: _port(engine, name) for name in inputs}
        self.outputs = tuple(name for name in names if name not in self.inputs)
        self._dtypes = {name: engine.get_tensor_dtype(name).name for name in self.outputs}

    def infer(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        if self._listener is not None:
            self._listener.tensors.clear()
        with _translated(self._log, self._runner.name):
            raw = self._runner.infer(dict(feeds), check_inputs=False, return_raw_buffers=True)
        if self._listener is None:
            collected = {}
        elif self._listener.failure is not None:
            raise MachineError(f"reading a debug tensor failed: {one_line(self._listener.failure)}")
        else:
            collected = self._listener.tensors
        shown = {name: read(raw[name].array, self._dtypes[name], raw[name].shape) for name in self.outputs}
        return {**collected, **shown}


def read(buffer: NDArray[np.uint8], dtype: str, shape: Sequence[int]) -> NDArray[Any]:
    """The bytes of a tensor as an array; `dtype` is TensorRT's name of it.

    Raises InputError for a dtype that NumPy does not have.
    """
    if dtype == "BF16":
        wide = buffer.reshape(-1).view(np.uint16).astype(np.uint32) << 16
        return wide.view(np.float32).reshape(tuple(shape))
    if dtype not in DTYPES:
        raise InputError(f"the engine shows a tensor of type {dtype}, which cannot be read")
    return buffer.reshape(-1).view(DTYPES[dtype]).reshape(tuple(shape))


def _load(binding: Binding, plan: bytes, name: str, log: Log) -> trt.ICudaEngine:
    """Host code stays off: an engine must not bring code of its own that runs on this machine."""
    if hasattr(binding, "init_libnvinfer_plugins"):
        binding.init_libnvinfer_plugins(log, "")  # TensorRT's own; an engine with one of them needs it
    try:
        engine = binding.Runtime(log).deserialize_cuda_engine(plan)  # type: ignore[arg-type]
    except TypeError as error:  # what the binding makes of a runtime that CUDA did not allow
        require_gpu()
        reason = "; ".join(log.errors or log.warnings) or one_line(error)  # a CUDA that fails is a warning
        raise MachineError(f"{name}: TensorRT cannot run engines here: {reason}") from error
    for warning in filter(OTHER_GPU.search, log.warnings):
        say(f"note: {name}: {warning}")
    if engine is not None:
        return engine
    require_gpu()
    if OUT_OF_MEMORY.search(log.reason()):
        raise MachineError(f"{name}: the GPU has too little memory to load this engine: {log.reason()}")
    raise InputError(
        f"{name}: TensorRT {binding.__version__} does not load this engine: {log.reason()}; an engine runs "
        "with the TensorRT version and on the kind of GPU that it was built with: build it again here"
    )


def _trt_runner(binding: Binding) -> Any:
    """Polygraphy's runner. It decides when it is imported which module it takes for TensorRT."""
    from polygraphy import config

    rtx = cast(ModuleType, binding).__name__ == RTX
    if "polygraphy.datatype" not in sys.modules:
        config.USE_TENSORRT_RTX = rtx
    if bool(config.USE_TENSORRT_RTX) != rtx:
        raise MachineError(
            f"Polygraphy was loaded for {TENSORRT if rtx else RTX}, which is not what built this engine; "
            f"set POLYGRAPHY_USE_TENSORRT_RTX={int(rtx)} in the environment and run again"
        )
    from polygraphy.backend.trt import TrtRunner

    return TrtRunner


@contextmanager
def _translated(log: Log, name: str) -> Iterator[None]:
    """Polygraphy only says to look at the log: tell what TensorRT wrote there meanwhile."""
    from polygraphy.exception import PolygraphyException

    before = len(log.errors)
    try:
        yield
    except OSError as error:
        raise MachineError(
            f"{name}: the CUDA runtime does not load ({one_line(error)}); pip install "
            "nvidia-cuda-runtime-cu12, or add the folder of libcudart.so to LD_LIBRARY_PATH"
        ) from error
    except PolygraphyException as error:
        reason = log.reason(before) if len(log.errors) > before else one_line(error)
        if OUT_OF_MEMORY.search(reason) or "CUDA Error: 2." in reason:
            raise MachineError(f"{name}: the GPU has too little memory for this engine: {reason}") from error
        raise MachineError(f"{name}: TensorRT does not run this engine: {reason}") from error


def _port(engine: trt.ICudaEngine, name: str) -> Port:
    dtype = engine.get_tensor_dtype(name).name
    if dtype not in DTYPES:
        raise InputError(f"the engine takes input {name!r} as {dtype}, which the model cannot be fed as")
    low = high = _lengths(engine.get_tensor_shape(name))
    if -1 in low:
        low, _, high = (_lengths(dims) for dims in engine.get_tensor_profile_shape(name, 0))
    return Port(np.dtype(DTYPES[dtype]), low, high)


def _lengths(dims: trt.Dims) -> tuple[int, ...]:
    return tuple(dims[index] for index in range(len(dims)))


def _listener(binding: Binding, wanted: Collection[str]) -> Any:
    """An IDebugListener that copies the `wanted` tensors to the host. TensorRT may show more, under names of
    its own, and int8 ones without their scale; the binding only prints what is raised in here."""
    from polygraphy import cuda

    class Listener(binding.IDebugListener):  # type: ignore[name-defined,misc]  # TensorRT 10 and later
        def __init__(self) -> None:
            binding.IDebugListener.__init__(self)  # type: ignore[attr-defined]
            self.tensors: dict[str, NDArray[Any]] = {}
            self.failure: Exception | None = None

        def process_debug_tensor(
            self, address: int, location: Any, dtype: Any, shape: Any, name: str, stream: int
        ) -> bool:
            try:
                if name in wanted and name not in self.tensors and dtype.name in FLOATS:
                    buffer = np.empty(math.prod(shape) * FLOATS[dtype.name], np.uint8)
                    if location.name == "HOST":
                        ctypes.memmove(buffer.ctypes.data, address, buffer.nbytes)
                    else:
                        kind = cuda.MemcpyKind.DeviceToHost
                        cuda.wrapper().memcpy(buffer.ctypes.data, address, buffer.nbytes, kind, stream)
                        cuda.wrapper().stream_synchronize(stream)
                    self.tensors[name] = read(buffer, dtype.name, tuple(shape))
            except Exception as error:
                self.failure = self.failure or error
            return True

    return Listener()
