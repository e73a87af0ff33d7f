"""How long engines take on the GPU: CUDA graphs (or plain launches) between events, engine after engine.

Device time only: inputs lie on the GPU before the first launch, and outputs stay there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from ctypes import c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trtbuild.errors import InputError, MachineError
from trtbuild.progress import track
from trtbuild.targets.trt import cudart
from trtbuild.targets.trt.binding import TENSORRT, Binding, load
from trtbuild.targets.trt.cudart import Cudart, NotCaptured
from trtbuild.targets.trt.log import Log, open_log
from trtbuild.targets.trt.running import DTYPES

if TYPE_CHECKING:
    import tensorrt as trt

ROUNDS_AT_ONCE = 32
Feeds = Mapping[str, NDArray[Any]]
Launch = Callable[[], None]


@dataclass(frozen=True)
class Timings:
    """Milliseconds of every iteration, by engine. `method` is the same for all of them: "graph" (CUDA graph
    replay), or "enqueue" where one of them cannot be captured; `not_captured` then says which and why."""

    milliseconds: dict[str, tuple[float, ...]]
    method: str
    not_captured: str | None


def time_plans(plans: Mapping[str, Path], feeds: Feeds, warmup: int, iterations: int) -> Timings:
    """Time engines that were built just now, in one process.

    feeds: one batch, input name -> array; its shapes are the shapes that are timed.
    Raises MachineError where there is no TensorRT or no CUDA runtime, where TensorRT does not load or run an
    engine, and when the GPU has no memory left; InputError for a shape outside an engine's profile.
    """
    binding = load(TENSORRT)
    log = open_log(binding)
    runtime = binding.Runtime(log)  # type: ignore[arg-type]  # Log is an ILogger made at run time
    engines = {name: deserialized(runtime, path, log) for name, path in plans.items()}
    return time_engines(binding, cudart.load(), log, engines, feeds, warmup, iterations)


def time_engines(
    binding: Binding,
    cuda: Cudart,
    log: Log,
    engines: Mapping[str, trt.ICudaEngine],
    feeds: Feeds,
    warmup: int,
    iterations: int,
) -> Timings:
    """Time loaded engines. They take turns, A B C A B C, so that a drift of the clocks hits all alike.

    Raises as `time_plans` does. Everything on the GPU is freed in every case.
    """
    with ExitStack() as buffers:
        contexts = {name: prepared(cuda, log, engine, feeds, buffers) for name, engine in engines.items()}
        for context in contexts.values():  # DETAILED, for the audit, slows launches down
            context.nvtx_verbosity = binding.ProfilingVerbosity.NONE
        with cuda.stream() as stream, ExitStack() as graphs:
            plain = {name: enqueuing(name, context, stream, log) for name, context in contexts.items()}
            for launch in plain.values():
                launch()  # what an engine does at its first run only must not become part of a graph
            cuda.synchronize(stream)
            not_captured = None
            try:
                launches = {
                    name: _replay(cuda, graphs.enter_context(cuda.graph(stream, launch)), stream)
                    for name, launch in plain.items()
                }
            except NotCaptured as reason:
                not_captured, launches = str(reason), plain
            for _ in range(warmup):
                for launch in launches.values():
                    launch()
            cuda.synchronize(stream)
            columns = _rounds(cuda, stream, list(launches.values()), iterations)
    milliseconds = dict(zip(engines, columns, strict=True))
    return Timings(milliseconds, "enqueue" if not_captured else "graph", not_captured)


def _rounds(cuda: Cudart, stream: c_void_p, launches: list[Launch], count: int) -> list[tuple[float, ...]]:
    """Milliseconds of each launch in `count` rounds.

    Many rounds are enqueued at once, behind one that is not timed: the host runs ahead of the GPU, so
    that the time between two events is the GPU's and not the host's way from one call to the next.
    """
    columns: list[list[float]] = [[] for _ in launches]
    parts = [min(ROUNDS_AT_ONCE, count - done) for done in range(0, count, ROUNDS_AT_ONCE)]
    with ExitStack() as made:
        events = [
            [(made.enter_context(cuda.event()), made.enter_context(cuda.event())) for _ in launches]
            for _ in range(max(parts))
        ]
        for rounds in track(parts, "timing, rounds", count, int):
            for launch in launches:
                launch()
            for pairs in events[:rounds]:
                for (start, end), launch in zip(pairs, launches, strict=True):
                    cuda.record(start, stream)
                    launch()
                    cuda.record(end, stream)
            cuda.synchronize(stream)
            for pairs in events[:rounds]:
                for column, (start, end) in zip(columns, pairs, strict=True):
                    column.append(cuda.milliseconds(start, end))
    return [tuple(column) for column in columns]


def deserialized(runtime: trt.Runtime, path: Path, log: Log) -> trt.ICudaEngine:
    """The engine in a file that was built just now. Raises MachineError where TensorRT does not load it."""
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise MachineError(f"TensorRT does not load {path.name}: {log.reason()}")
    return engine


def prepared(
    cuda: Cudart, log: Log, engine: trt.ICudaEngine, feeds: Feeds, buffers: ExitStack
) -> trt.IExecutionContext:
    """An execution context with its inputs on the GPU and room for its outputs, which `buffers` frees.

    Raises MachineError when the GPU has no memory left, InputError for feeds that the engine does not take.
    """
    context = engine.create_execution_context()
    if context is None:
        raise MachineError(
            f"TensorRT does not prepare an engine to run ({log.reason()}); the engines lie side by side on "
            "the GPU: if its memory is short, give a smaller --batch"
        )
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name).name == "INPUT"]
    for name in inputs:
        array = _as_read(engine, name, feeds)
        if not context.set_input_shape(name, array.shape):
            raise InputError(f"input {name!r} of shape {array.shape} is outside the engine's profile")
        memory = buffers.enter_context(cuda.memory(array.nbytes))
        cuda.upload(memory, array.tobytes())
        context.set_tensor_address(name, int(memory.value or 0))
    if missing := context.infer_shapes():
        raise InputError(f"the shapes of {', '.join(missing)} do not follow from the inputs")
    for name in names:
        if name not in inputs:
            size = _bytes(engine, context, name)
            on_host = engine.get_tensor_location(name).name == "HOST"  # a shape as an output
            memory = buffers.enter_context(cuda.host_memory(size) if on_host else cuda.memory(size))
            context.set_tensor_address(name, int(memory.value or 0))
    return context


def _as_read(engine: trt.ICudaEngine, name: str, feeds: Feeds) -> NDArray[Any]:
    if name not in feeds:
        raise InputError(f"the engine reads an input {name!r}; there are {', '.join(feeds)}")
    array = feeds[name]  # TensorRT below 10 reads int64 as int32
    return np.ascontiguousarray(array, DTYPES.get(engine.get_tensor_dtype(name).name, array.dtype))


def _bytes(engine: trt.ICudaEngine, context: trt.IExecutionContext, name: str) -> int:
    """The size of an output; where it depends on the data, the largest possible one."""
    shape: tuple[int, ...] = context.get_tensor_shape(name)[:]
    if -1 in shape:
        return int(context.get_max_output_size(name))
    itemsize = float(engine.get_tensor_dtype(name).itemsize)  # of a type of 4 bits: 0.5
    elements: int = math.prod(shape)
    return math.ceil(elements * itemsize)


def enqueuing(name: str, context: trt.IExecutionContext, stream: c_void_p, log: Log) -> Launch:
    """Puts one run of a prepared context on the stream; raises MachineError where TensorRT refuses."""

    def launch() -> None:
        if not context.execute_async_v3(int(stream.value or 0)):
            raise MachineError(f"TensorRT does not run engine {name}: {log.reason()}")

    return launch


def _replay(cuda: Cudart, graph: c_void_p, stream: c_void_p) -> Launch:
    return lambda: cuda.launch(graph, stream)
