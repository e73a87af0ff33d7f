"""How long each layer of an engine takes, as TensorRT's profiler reports it.

Not the time of `timing`: an event stands between any two layers and each is launched by itself, so the sum is
longer, most of all where layers are short or could run side by side. It is for comparing layers.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtbuild.errors import MachineError
from trtbuild.progress import interrupts_kept, track
from trtbuild.targets.base import Layer
from trtbuild.targets.trt import cudart, inspector
from trtbuild.targets.trt.binding import TENSORRT, Binding, load
from trtbuild.targets.trt.cudart import Cudart
from trtbuild.targets.trt.log import Log, open_log
from trtbuild.targets.trt.timing import Feeds, deserialized, enqueuing, prepared

if TYPE_CHECKING:
    import tensorrt as trt


@dataclass(frozen=True)
class Profile:
    """One engine. milliseconds: layer -> mean time, layers of one name together, in the order in which they
    run. layers: those that compute floats, with the nodes that their metadata names (TensorRT 8.6 and later).
    """

    milliseconds: dict[str, float]
    layers: tuple[Layer, ...]


def profile_plan(name: str, path: Path, feeds: Feeds, warmup: int, iterations: int) -> Profile:
    """Profile an engine that was built just now, with ProfilingVerbosity.DETAILED.

    name: what errors call it. feeds: one batch, input name -> array. Raises MachineError where there is no
    TensorRT or no CUDA runtime, where TensorRT does not load, run or profile the engine, and when the GPU has
    no memory left; InputError for a shape outside the engine's profile.
    """
    binding = load(TENSORRT)
    layers = inspector.inspect(binding, path.read_bytes(), network=(), halves=True).layers
    log = open_log(binding)
    runtime = binding.Runtime(log)  # type: ignore[arg-type]  # Log is an ILogger made at run time
    engine = deserialized(runtime, path, log)
    milliseconds = profile_engine(binding, cudart.load(), log, name, engine, feeds, warmup, iterations)
    return Profile(milliseconds, layers)


def profile_engine(
    binding: Binding,
    cuda: Cudart,
    log: Log,
    name: str,
    engine: trt.ICudaEngine,
    feeds: Feeds,
    warmup: int,
    iterations: int,
) -> dict[str, float]:
    """Mean milliseconds of each layer of a loaded engine over `iterations` runs, after `warmup` others.

    Raises as `profile_plan` does. Everything on the GPU is freed in every case.
    """
    profiler = _profiler(binding)
    runs: list[Mapping[str, float]] = []
    count = warmup + iterations
    with ExitStack() as buffers:
        context = prepared(cuda, log, engine, feeds, buffers)
        context.nvtx_verbosity = binding.ProfilingVerbosity.LAYER_NAMES_ONLY  # of none, a name is a number
        context.enqueue_emits_profile = False  # else enqueue waits, and nobody learns that a report failed
        context.profiler = profiler
        with cuda.stream() as stream:
            enqueue = enqueuing(name, context, stream, log)
            for _ in track(range(count), f"profiling {name}, runs", count, lambda _: 1):
                enqueue()
                cuda.synchronize(stream)
                runs.append(_reported(name, context, profiler, log))
                if runs[-1].keys() != runs[0].keys():
                    raise MachineError(
                        f"TensorRT's profiler reports other layers of engine {name} than before; run again"
                    )
    return {layer: statistics.fmean(run[layer] for run in runs[warmup:]) for layer in runs[0]}


def _reported(name: str, context: trt.IExecutionContext, profiler: Any, log: Log) -> Mapping[str, float]:
    """Layer -> milliseconds of the run that has just ended."""
    profiler.found = {}
    with interrupts_kept():  # of what is raised in a callback, TensorRT prints a line and goes on
        reported = context.report_to_profiler()
    if not reported:
        raise MachineError(f"TensorRT does not profile engine {name}: {log.reason()}")
    if not profiler.found:
        raise MachineError(
            f"TensorRT's profiler reports no layer of engine {name}; run bench without --layers"
        )
    found: Mapping[str, float] = profiler.found
    return found


def _profiler(binding: Binding) -> Any:
    """An IProfiler that adds up the times of a run by layer."""
    base: Any = binding.IProfiler  # type: ignore[attr-defined]  # every version has it

    class Profiler(base):  # type: ignore[misc]  # a base class known at run time only
        def __init__(self) -> None:
            base.__init__(self)
            self.found: dict[str, float] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.found[layer_name] = self.found.get(layer_name, 0.0) + ms

    return Profiler()
