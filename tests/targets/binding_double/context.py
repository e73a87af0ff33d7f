"""IExecutionContext: shapes, addresses, and runs that only take time, on a double of libcudart."""

from __future__ import annotations

from typing import Any

from .native import Native, expect
from .profiler import report

_MILLISECONDS = {"FLOAT": 4.0, "HALF": 2.0, "INT8": 1.0}
_REFORMAT = 0.5
_FIRST_RUN = 10  # times as long
_ORDER = ("NONE", "LAYER_NAMES_ONLY", "DETAILED")


def milliseconds(layer: dict[str, Any]) -> float | None:
    """What a layer of a plan takes in every run but the first; None: it does not run."""
    if layer["kind"] == "Constant":
        return None
    return _REFORMAT if layer["kind"] == "Reformat" else _MILLISECONDS.get(layer["inputs"][0]["type"], 4.0)


class ExecutionContext(Native):
    __slots__ = ("_addresses", "_emits", "_engine", "_nvtx", "_profiler", "_ran", "_runs", "_shapes")

    @property
    def engine(self) -> Any:
        return self._engine

    def set_input_shape(self, name: str, shape: Any) -> bool:
        """False, and an error in the log, for what is no input or lies outside of the profile."""
        tensor = self._engine._named(name)
        limits = tensor.get("profile") or [tensor.get("shape", ())] * 3
        low, _, high = limits
        fits = len(low) == len(shape) and all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))
        if tensor.get("mode") != "INPUT" or not fits:
            self._engine._tell("ERROR", f"Error Code 3: API Usage Error (no shape {tuple(shape)} for {name})")
            return False
        self._shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> Any:
        return self._trt.Dims(self._shapes.get(name, self._engine.get_tensor_shape(name)))

    def infer_shapes(self) -> list[str]:
        """The names of the inputs whose shapes are still missing."""
        inputs = [tensor for tensor in self._engine._plan["tensors"] if tensor["mode"] == "INPUT"]
        return [t["name"] for t in inputs if -1 in t["shape"] and t["name"] not in self._shapes]

    def get_max_output_size(self, name: str) -> int:
        return 4096

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return bool(self._engine._named(name))

    @property
    def nvtx_verbosity(self) -> Any:
        return getattr(self._trt.ProfilingVerbosity, self._nvtx)

    @nvtx_verbosity.setter
    def nvtx_verbosity(self, verbosity: Any) -> None:
        """May not be raised above that of the build."""
        name = expect(verbosity, self._trt.ProfilingVerbosity, "nvtx_verbosity").name
        self._nvtx = min(name, self._engine._plan["verbosity"], key=_ORDER.index)

    @property
    def profiler(self) -> Any:
        return self._profiler

    @profiler.setter
    def profiler(self, profiler: Any) -> None:
        self._profiler = expect(profiler, self._trt.IProfiler, "profiler")

    @property
    def enqueue_emits_profile(self) -> bool:
        return self._emits

    @enqueue_emits_profile.setter
    def enqueue_emits_profile(self, emits: bool) -> None:
        self._emits = emits

    def execute_async_v3(self, stream_handle: int) -> bool:
        """False, and an error in the log, where a tensor has no memory. With a profiler that `enqueue` is to
        report to, it waits for the end."""
        cuda = self._trt._behaviour.cuda
        names = [tensor["name"] for tensor in self._engine._plan["tensors"]]
        lacking = [name for name in names if not cuda.alive.get(self._addresses.get(name, 0))]
        if lacking or cuda.alive.get(stream_handle) != "stream":
            self._engine._tell("ERROR", f"Error Code 3: API Usage Error (no address is set for {lacking})")
            return False
        self._runs += 1
        self._ran = self._times()
        cuda.run((str(self._runs), sum(time for _, time in self._ran)))
        if self._profiler is not None and self._emits:
            cuda.in_flight = False
            self._report()
        return True

    def report_to_profiler(self) -> bool:
        """False without a profiler or a run. The double takes it for the caller's to wait for the run."""
        if self._profiler is None or self._ran is None or self._emits:
            return False
        if self._trt._behaviour.cuda.in_flight or self._trt._behaviour.refuses_reports:
            self._engine._tell("ERROR", "Error Code 1: Cuda Runtime (device not ready)")
            return False
        self._report()
        return True

    def _times(self) -> list[tuple[str, float]]:
        """Layer -> milliseconds, in their order. Without names, which is what NONE means at the build and may
        mean here, a layer is called by its number."""
        layers = self._engine._plan["layers"]
        timed = [(layer["name"], milliseconds(layer)) for layer in layers]
        factor = _FIRST_RUN if self._runs == 1 else 1
        return [
            (str(index) if self._nvtx == "NONE" else name, time * factor)
            for index, (name, time) in enumerate(timed)
            if time is not None
        ]

    def _report(self) -> None:
        lost = self._trt._behaviour.loses_reports
        for name, time in self._ran:
            if (self._runs, name) not in lost:
                report(self._profiler, name, time)
        self._ran = None
