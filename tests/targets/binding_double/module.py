"""The module of one TensorRT version, put together from the classes of this package."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from . import (
    builder,
    calibration,
    config,
    context,
    engine,
    enums,
    layer,
    logger,
    network,
    parser,
    profile,
    profiler,
    progress,
    tensor,
    timing,
)


@dataclass
class Behaviour:
    """What one double does, and what it saw."""

    loses_pins: frozenset[str] = frozenset()  # layers whose own precision and output types are ignored
    removes: frozenset[str] = frozenset()  # layers that are not in the engine
    foreign: tuple[tuple[str, str], ...] = ()  # first and last layer of what becomes one foreign node
    fails: str = ""  # every build returns None and logs this error
    raises: BaseException | None = None  # every build raises this
    no_gpu: bool = False  # Builder and Runtime cannot be constructed
    gpu: str = "NVIDIA GeForce RTX 4090"
    compute: str = "8.9"
    fast_int8: bool = True
    fast_fp16: bool = True
    dla_cores: int = 0
    cuda: Any = None  # the double of libcudart that engines run on
    refuses_reports: bool = False  # to a profiler
    loses_reports: frozenset[tuple[int, str]] = frozenset()  # the number of the run, and a layer
    batches: list[dict[str, Any]] = field(default_factory=list)  # what calibration read, by input


def make(version: str = "8.5.1.7", **behaviour: Any) -> ModuleType:
    """A module to put into sys.modules["tensorrt"]. Needs tensorrt_rtx, which parses. `_behaviour` of the
    module holds what was given here."""
    trt: Any = ModuleType("tensorrt")
    trt.__version__ = version
    trt._version = numbers = tuple(int(part) for part in version.split("."))
    trt._behaviour = Behaviour(**behaviour)
    trt._rtx = importlib.import_module("tensorrt_rtx")
    trt.Dims = trt._rtx.Dims
    trt.ElementWiseOperation = trt._rtx.ElementWiseOperation
    for name, names in enums.ENUMS.items():
        if made := enums.enum(name, names, numbers):
            setattr(trt, name, made)
    implicit, since = numbers < (11,), numbers.__ge__

    def define(name: str, *bases: Any) -> Any:
        bases = tuple(base for base in bases if base)
        made = type(bases[0])(name, bases, {"__slots__": (), "__module__": "tensorrt.tensorrt", "_trt": trt})
        setattr(trt, name, made)
        return made

    define("ILogger", logger.ILogger)
    trt.ILogger.Severity = enums.enum("Severity", enums.SEVERITY, numbers)
    for name, member in trt.ILogger.Severity.__members__.items():
        setattr(trt.ILogger, name, member)
    define("Logger", logger.Logger, trt.ILogger)
    define("ITensor", implicit and tensor.RangedTensor, tensor.Tensor)
    define("ILayer", implicit and layer.TypedLayer, since((8, 6)) and layer.NotedLayer, layer.Layer)
    define("IConstantLayer", layer.ConstantLayer, trt.ILayer)
    define("IElementWiseLayer", layer.ElementWiseLayer, trt.ILayer)
    define("IActivationLayer", layer.ActivationLayer, trt.ILayer)
    define(
        "INetworkDefinition",
        since((10,)) and network.DebuggedNetwork,
        since((10, 12)) and network.UnfusedDebuggedNetwork,
        network.Network,
    )
    define("ParserError", since((10,)) and parser.NamedParserError, parser.ParserError)
    define("OnnxParser", since((8, 6)) and parser.FlaggedParser, parser.OnnxParser)
    define("IOptimizationProfile", profile.OptimizationProfile)
    define("ITimingCache", timing.TimingCache)
    define("IHostMemory", builder.HostMemory)
    define(
        "IBuilderConfig",
        implicit and config.CalibratedConfig,
        since((8, 6)) and config.LevelledConfig,
        since((9,)) and config.MonitoredConfig,
        config.BuilderConfig,
    )
    define("Builder", implicit and builder.LoweringBuilder, builder.Builder)
    define("Runtime", engine.Runtime)
    define("ICudaEngine", engine.CudaEngine)
    define("IExecutionContext", context.ExecutionContext)
    define("EngineInspector", engine.EngineInspector)
    define("IProfiler", profiler.Profiler)
    if since((9,)):
        define("IProgressMonitor", progress.ProgressMonitor)
    if implicit:
        define("IInt8Calibrator", calibration.Calibrator)
        for name, (algorithm, text) in calibration.ALGORITHMS.items():
            made = define(name, trt.IInt8Calibrator)
            made._of_algorithm, made._of_text = algorithm, text
    for alias, kind in (("float32", "FLOAT"), ("float16", "HALF"), ("int8", "INT8"), ("int32", "INT32")):
        setattr(trt, alias, getattr(trt.DataType, kind))
    trt.init_libnvinfer_plugins = lambda logger, namespace: True
    return trt
