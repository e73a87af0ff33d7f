"""Runtime, ICudaEngine and EngineInspector: what can be known of a plan without running it."""

from __future__ import annotations

import json
from typing import Any

from .native import Crash, Native, expect, require_gpu, tell
from .plan import MAGIC

_FORMATS = {
    "FLOAT": "Row major linear FP32",
    "HALF": "Row major linear FP16 format",
    "BF16": "Row major linear BFloat16 format",
    "INT8": "Thirty-two wide channel vectorized row major Int8 format",
    "INT32": "Row major linear Int32",
    "INT64": "Row major linear Int64 format",
    "BOOL": "Row major linear BOOL",
}
_KINDS = {
    "FLOAT": "Float",
    "HALF": "Half",
    "BF16": "BFloat16",
    "INT8": "Int8",
    "INT32": "Int32",
    "INT64": "Int64",
}
_TACTICS = {"FLOAT": "f32f32_f32f32_f32", "HALF": "f16f16_f16f16_f16", "INT8": "interleaved_i8i8_i8i32_f32"}


class Runtime(Native):
    __slots__ = ("logger",)

    def __init__(self, logger: Any) -> None:
        self.logger = expect(logger, self._trt.ILogger, "Runtime")
        require_gpu(self)

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Any:
        """The engine; None for a plan of another version or GPU, or for anything else, and only the logger
        gets the reason."""
        data, behaviour = bytes(memoryview(serialized_engine)), self._trt._behaviour
        if not data.startswith(MAGIC):
            return self._refuse(
                "1: [stdArchiveReader.cpp::StdArchiveReaderInitCommon::36] Error Code 1: Serialization "
                "(Serialization assertion magicTagRead == kMAGIC_TAG failed.Magic tag does not match)"
            )
        try:
            plan = json.loads(data[len(MAGIC) :])
        except ValueError:
            return self._refuse("1: Error Code 1: Serialization (the archive ends too early)")
        if plan["version"] != self._trt.__version__:
            return self._refuse(
                "6: The engine plan file is not compatible with this version of TensorRT, expecting library "
                f"version {self._trt.__version__} got {plan['version']}, please rebuild."
            )
        if plan["compute"] != behaviour.compute:
            return self._refuse(
                "6: The engine plan file is generated on an incompatible device, expecting compute "
                f"{behaviour.compute} got compute {plan['compute']}, please rebuild."
            )
        if plan["gpu"] != behaviour.gpu:
            tell(
                self.logger,
                "WARNING",
                "Using an engine plan file across different models of devices is not recommended and is "
                "likely to affect performance or even cause errors.",
            )
        return self._trt.ICudaEngine._make(_plan=plan, _bytes=data, _logger=self.logger, _life=["alive"])

    def _refuse(self, message: str) -> None:
        tell(self.logger, "ERROR", message)
        tell(
            self.logger,
            "ERROR",
            "4: [runtime.cpp::deserializeCudaEngine::66] Error Code 4: Internal Error (Engine "
            "deserialization failed.)",
        )


class CudaEngine(Native):
    __slots__ = ("_bytes", "_life", "_logger", "_plan")

    def __del__(self) -> None:
        self._life.clear()

    @property
    def num_io_tensors(self) -> int:
        return len(self._plan["tensors"])

    @property
    def num_layers(self) -> int:
        return len(self._plan["layers"])

    @property
    def profiling_verbosity(self) -> Any:
        return getattr(self._trt.ProfilingVerbosity, self._plan["verbosity"])

    def get_tensor_name(self, index: int) -> str:
        return str(self._plan["tensors"][index]["name"])

    def get_tensor_mode(self, name: str) -> Any:
        return getattr(self._trt.TensorIOMode, self._named(name).get("mode", "NONE"))

    def get_tensor_shape(self, name: str) -> Any:
        return self._trt.Dims(self._named(name).get("shape", ()))

    def get_tensor_location(self, name: str) -> Any:
        return self._trt.TensorLocation.DEVICE

    def get_tensor_dtype(self, name: str) -> Any:
        return getattr(self._trt.DataType, self._named(name).get("dtype", "FLOAT"))

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Any]:
        tensor = self._named(name)
        shapes = tensor.get("profile") or [tensor.get("shape", ())] * 3
        return [self._trt.Dims(shape) for shape in shapes]

    def serialize(self) -> Any:
        return self._trt.IHostMemory._of(self._bytes)

    def create_execution_context(self) -> Any:
        return self._trt.IExecutionContext._make(
            _engine=self,
            _shapes={},
            _addresses={},
            _nvtx=self._plan["verbosity"],
            _profiler=None,
            _emits=True,
            _runs=0,
            _ran=None,
        )

    def create_engine_inspector(self) -> Any:
        """Before TensorRT 10 the inspector does not keep its engine alive."""
        kept = self if self._trt._version >= (10,) else None
        return self._trt.EngineInspector._make(
            _plan=self._plan, _context=None, _engine=kept, _life=self._life
        )

    def _named(self, name: str) -> dict[str, Any]:
        """An unknown name is no exception: the defaults come back."""
        return next((tensor for tensor in self._plan["tensors"] if tensor["name"] == name), {})

    def _tell(self, severity: str, message: str) -> None:
        tell(self._logger, severity, message)


class EngineInspector(Native):
    __slots__ = ("_context", "_engine", "_life", "_plan")

    def __del__(self) -> None:
        if not self._life:
            raise Crash("an inspector outlives its engine")

    @property
    def execution_context(self) -> Any:
        return self._context

    @execution_context.setter
    def execution_context(self, context: Any) -> None:
        self._context = expect(context, self._trt.IExecutionContext, "execution_context")

    def get_engine_information(self, format: Any) -> str:
        if expect(format, self._trt.LayerInformationFormat, "get_engine_information").name != "JSON":
            return "\n".join(layer["name"] for layer in self._plan["layers"])
        quiet = self._plan["verbosity"] == "NONE"
        layers = [] if quiet else [self._layer(layer) for layer in self._plan["layers"]]
        tensors = self._plan["tensors"]
        if self._trt._version >= (11,):
            return json.dumps({"Layers": layers, "I/O Tensors": [_io_tensor(tensor) for tensor in tensors]})
        return json.dumps({"Layers": layers, "Bindings": [tensor["name"] for tensor in tensors]})

    def _layer(self, layer: dict[str, Any]) -> Any:
        """A name, unless the engine was built with DETAILED profiling verbosity."""
        if self._plan["verbosity"] != "DETAILED":
            return layer["name"]
        myelin = layer["kind"] == "kgen"
        entry: dict[str, Any] = {"Name": layer["name"], "LayerType": layer["kind"]}
        for side in ("inputs", "outputs"):
            entry[side.title()] = [self._tensor(tensor, myelin) for tensor in layer[side]]
        if layer["parameter"]:
            entry["ParameterType"] = layer["parameter"]
        if layer["origin"]:
            entry["Origin"] = layer["origin"]
        if layer["weights"]:
            kind, count = layer["weights"]
            entry["Weights"] = {"Type": _KINDS[kind], "Count": count}
            entry["TacticName"] = f"sm80_xmma_fprop_implicit_gemm_{_TACTICS.get(kind, '')}_double"
        entry["TacticValue"] = "0x0000000000000000"
        if self._trt._version >= (8, 6):
            entry |= {"StreamId": 0, "Metadata": ("\x1f" if myelin else "\x1e").join(layer["notes"])}
        return entry

    def _tensor(self, tensor: dict[str, Any], myelin: bool) -> dict[str, Any]:
        """Of a tensor of dynamic shape the format is told only in a context that knows the shapes; the double
        leaves the -1 where the real one tells the length."""
        entry = {"Name": tensor["name"], "Location": "Device", "Dimensions": tensor["shape"]}
        known = -1 not in tensor["shape"] or (self._context is not None and not self._context.infer_shapes())
        plain = _KINDS[tensor["type"]]
        text = (plain if myelin else _FORMATS[tensor["type"]]) if known else "N/A due to dynamic shapes"
        if self._trt._version >= (11,):
            text = f"{_FORMATS[tensor['type']]}" if known else "Format not available due to dynamic shapes"
            return {**entry, "Format": text, "Datatype": plain}
        return {**entry, "Format/Datatype": text}


def _io_tensor(tensor: dict[str, Any]) -> dict[str, Any]:
    shapes = dict(zip(("MinShape", "OptShape", "MaxShape"), tensor["profile"], strict=False))
    return {
        "Name": tensor["name"],
        "IOMode": tensor["mode"].title(),
        "DataType": _KINDS.get(tensor["dtype"], tensor["dtype"].title()),
        "Dimensions": tensor["shape"],
        "Location": "Device",
        "IsShapeInferenceIO": False,
        "ProfileInfo": [{**shapes, "Format": "Row major linear FP32 format (kLINEAR)"}] if shapes else [],
    }
