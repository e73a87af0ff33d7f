"""Builder: builds a description of the engine that TensorRT would build."""

from __future__ import annotations

from typing import Any

from . import calibration, plan, precision, validation
from .calibration import called
from .native import Native, expect, require_gpu, tell

_NO_SCALES = (
    "Error Code 4: Internal Error (Calibration failure occurred with no scaling factors detected. This could "
    "be due to no int8 calibrator or insufficient custom scales for network layers. Please see int8 sample "
    "to setup calibration correctly.)"
)


class HostMemory(bytearray):
    """IHostMemory: a buffer, and nothing else of a bytearray."""

    _trt: Any
    __len__ = __getitem__ = __iter__ = None  # type: ignore[assignment]

    @classmethod
    def _of(cls, data: bytes) -> Any:
        return cls(data)

    def __bool__(self) -> bool:
        return True

    @property
    def nbytes(self) -> int:
        return memoryview(self).nbytes

    @property
    def dtype(self) -> Any:
        return self._trt.DataType.INT8


class Builder(Native):
    __slots__ = ("_real", "_rtx_logger", "logger")

    def __init__(self, logger: Any) -> None:
        self.logger = expect(logger, self._trt.ILogger, "Builder")
        require_gpu(self)
        self._rtx_logger = _relay(self._trt._rtx, self._tell)
        self._real = self._trt._rtx.Builder(self._rtx_logger)

    @property
    def num_DLA_cores(self) -> int:  # noqa: N802  (the binding's own name)
        return int(self._trt._behaviour.dla_cores)

    def create_network(self, flags: int = 0) -> Any:
        real = self._real.create_network(0)
        flags = expect(flags, int, "create_network")
        return self._trt.INetworkDefinition._make(
            _builder=self, _flags=flags, _layers={}, _real=real, _tensors={}
        )

    def create_builder_config(self) -> Any:
        return self._trt.IBuilderConfig._new(self)

    def create_optimization_profile(self) -> Any:
        return self._trt.IOptimizationProfile._make(_real=self._real.create_optimization_profile())

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        """The plan; None after a failure, whose reason only the logger gets."""
        expect(network, self._trt.INetworkDefinition, "build_serialized_network")
        expect(config, self._trt.IBuilderConfig, "build_serialized_network")
        behaviour = self._trt._behaviour
        if behaviour.raises is not None:
            raise behaviour.raises
        error = behaviour.fails or validation.refused(network, config)
        ranges = {} if error else self._ranges(network, config)
        if not error and ranges is None:
            error = _NO_SCALES
        if not error and not self._progress(config):
            error = "Error Code 10: Internal Error (the build was cancelled by the progress monitor)"
        if error:
            self._tell("ERROR", error)
            self._tell("ERROR", "Error Code 2: Internal Error (Assertion engine != nullptr failed.)")
            return None
        steps = precision.decide(network, config, ranges)
        if config._timing is not None:
            config._timing._entries |= {f"{step.type} {step.precision}" for step in steps}
        return self._trt.IHostMemory._of(plan.write(self._trt, network, config, steps))

    def _tell(self, severity: str, message: str) -> None:
        tell(self.logger, severity, message)

    def _ranges(self, network: Any, config: Any) -> dict[str, float] | None:
        """A number for each tensor with a range; None where implicit INT8 has none at all."""
        if not precision.has(config, "INT8") or precision.explicit(network):
            return {}
        tensors = validation.float_tensors(network)
        ranges = {tensor.name: tensor._range[1] for tensor in tensors if tensor._range is not None}
        if config.int8_calibrator is None:
            self._tell(
                "WARNING",
                "Calibrator is not being used. Users must provide dynamic range for all tensors that are not "
                "Int32 or Bool.",
            )
        elif len(ranges) == len(tensors):
            self._tell("INFO", "User provided dynamic ranges for all network tensors. Calibration skipped.")
        else:
            ranges.update(calibration.scales_of(self, network, config, tensors) or {})
        for tensor in tensors if ranges else []:
            if tensor.name not in ranges:
                self._tell(
                    "WARNING",
                    f"Missing scale and zero-point for tensor {tensor.name}, expect fall back to non-int8 "
                    "implementation for any layer consuming or producing given tensor",
                )
        return ranges or None

    def _progress(self, config: Any) -> bool:
        """Whether the monitor lets the build go on; an exception of its means no."""
        monitor = config._values.get("progress_monitor")
        if monitor is None:
            return True
        phase = "Building Engine"
        called("phase_start", lambda: monitor.phase_start(phase, None, 2))
        going = all(
            called("step_complete", lambda step=step: monitor.step_complete(phase, step), False)
            for step in range(2)
        )
        called("phase_finish", lambda: monitor.phase_finish(phase))
        return going


class LoweringBuilder:
    """Mixed into Builder where quantization may be implicit."""

    __slots__ = ()
    platform_has_fast_int8 = property(lambda self: self._trt._behaviour.fast_int8)
    platform_has_fast_fp16 = property(lambda self: self._trt._behaviour.fast_fp16)


def _relay(rtx: Any, say: Any) -> Any:
    """A logger for TensorRT-RTX that hands on its warnings and errors, but not what comes of its being
    there: without a GPU, and with a builder and a logger of its own for each of the double's."""
    noise = ("Cuda Runtime", "Thread context", "The logger passed into")

    class Relay(rtx.ILogger):  # type: ignore[misc]  # the base class is untyped
        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= int(rtx.ILogger.WARNING) and not any(part in message for part in noise):
                say(severity.name, message)

    return Relay()
