"""The enumerations of the binding, as pybind11 makes them: named values that are no integers."""

from __future__ import annotations

from typing import Any

NEVER = (99,)
# name -> (first version, version that dropped it); in the order of the values
Names = dict[str, tuple[tuple[int, ...], tuple[int, ...]]]


def _since(version: tuple[int, ...], *names: str, until: tuple[int, ...] = NEVER) -> Names:
    return dict.fromkeys(names, (version, until))


OLD, V86, V9, V10, V11 = (0,), (8, 6), (9,), (10,), (11,)
ENUMS: dict[str, Names] = {
    "BuilderFlag": {
        **_since(OLD, "FP16", "INT8", until=V11),
        **_since(OLD, "DEBUG", "GPU_FALLBACK"),
        **_since(OLD, "STRICT_TYPES", until=V10),
        **_since(OLD, "REFIT", "DISABLE_TIMING_CACHE", "TF32", "SPARSE_WEIGHTS", "SAFETY_SCOPE"),
        **_since(OLD, "OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS", until=V11),
        **_since(OLD, "DIRECT_IO"),
        **_since(OLD, "REJECT_EMPTY_ALGORITHMS", until=V11),
        **_since(OLD, "ENABLE_TACTIC_HEURISTIC", until=V10),
        **_since(V86, "VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME"),
        **_since(V86, "FP8", until=V11),
        **_since(V9, "ERROR_ON_TIMING_CACHE_MISS"),
        **_since(V9, "BF16", until=V11),
        **_since(V9, "DISABLE_COMPILATION_CACHE"),
        **_since(V10, "STRIP_PLAN", "REFIT_IDENTICAL", "WEIGHT_STREAMING"),
        **_since((10, 8), "EDITABLE_TIMING_CACHE"),
    },
    "NetworkDefinitionCreationFlag": {
        **_since(OLD, "EXPLICIT_BATCH", until=V11),
        **_since(OLD, "EXPLICIT_PRECISION", until=V86),
        **_since(V9, "STRONGLY_TYPED"),
    },
    "DataType": {
        **_since(OLD, "FLOAT", "HALF", "INT8", "INT32", "BOOL", "UINT8"),
        **_since(V86, "FP8"),
        **_since(V9, "BF16", "INT64"),
        **_since(V10, "INT4"),
        **_since((10, 8), "FP4"),
    },
    "LayerType": {
        **_since(OLD, "CONVOLUTION"),
        **_since(OLD, "FULLY_CONNECTED", until=V10),
        **_since(OLD, "ACTIVATION", "POOLING", "LRN", "SCALE", "SOFTMAX", "DECONVOLUTION"),
        **_since(OLD, "CONCATENATION", "ELEMENTWISE", "PLUGIN", "UNARY", "PADDING", "SHUFFLE", "REDUCE"),
        **_since(OLD, "TOPK", "GATHER", "MATRIX_MULTIPLY", "RAGGED_SOFTMAX", "CONSTANT"),
        **_since(OLD, "RNN_V2", until=V10),
        **_since(OLD, "IDENTITY", "PLUGIN_V2", "SLICE", "SHAPE", "PARAMETRIC_RELU", "RESIZE"),
        **_since(OLD, "TRIP_LIMIT", "RECURRENCE", "ITERATOR", "LOOP_OUTPUT", "SELECT", "FILL"),
        **_since(OLD, "QUANTIZE", "DEQUANTIZE", "CONDITION", "CONDITIONAL_INPUT", "CONDITIONAL_OUTPUT"),
        **_since(OLD, "SCATTER", "EINSUM", "ASSERTION", "ONE_HOT", "NON_ZERO", "GRID_SAMPLE", "NMS"),
        **_since(V86, "REVERSE_SEQUENCE", "NORMALIZATION", "CAST"),
        **_since(V10, "PLUGIN_V3"),
        **_since((10, 7), "SQUEEZE", "UNSQUEEZE", "CUMULATIVE"),
        **_since((10, 8), "DYNAMIC_QUANTIZE"),
    },
    "TacticSource": {
        **_since(OLD, "CUBLAS", "CUBLAS_LT", "CUDNN", until=V11),
        **_since(OLD, "EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS"),
    },
    "MemoryPoolType": {
        **_since(OLD, "WORKSPACE", "DLA_MANAGED_SRAM", "DLA_LOCAL_DRAM", "DLA_GLOBAL_DRAM"),
        **_since(V86, "TACTIC_DRAM"),
        **_since(V10, "TACTIC_SHARED_MEMORY"),
    },
    "OnnxParserFlag": _since(V86, "NATIVE_INSTANCENORM"),
    "HardwareCompatibilityLevel": _since(V86, "NONE", "AMPERE_PLUS"),
    "CalibrationAlgoType": _since(
        OLD,
        *("LEGACY_CALIBRATION", "ENTROPY_CALIBRATION", "ENTROPY_CALIBRATION_2", "MINMAX_CALIBRATION"),
        until=V11,
    ),
    "ProfilingVerbosity": _since(OLD, "LAYER_NAMES_ONLY", "NONE", "DETAILED"),
    "DeviceType": _since(OLD, "GPU", "DLA"),
    "LayerInformationFormat": _since(OLD, "ONELINE", "JSON"),
    "TensorIOMode": _since(OLD, "NONE", "INPUT", "OUTPUT"),
    "TensorLocation": _since(OLD, "DEVICE", "HOST"),
    "EngineCapability": _since(OLD, "STANDARD", "SAFETY", "DLA_STANDALONE"),
    "ErrorCode": {
        **_since(OLD, "SUCCESS", "INTERNAL_ERROR", "MEM_ALLOC_FAILED", "MODEL_DESERIALIZE_FAILED"),
        **_since(OLD, "INVALID_VALUE", "INVALID_GRAPH", "INVALID_NODE", "UNSUPPORTED_GRAPH"),
        **_since(OLD, "UNSUPPORTED_NODE"),
        **_since(V10, "UNSUPPORTED_NODE_ATTR", "UNSUPPORTED_NODE_INPUT", "UNSUPPORTED_NODE_DATATYPE"),
        **_since(V10, "UNSUPPORTED_NODE_DYNAMIC", "UNSUPPORTED_NODE_SHAPE", "REFIT_FAILED"),
    },
}
SEVERITY = _since(OLD, "INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")


class Enum:
    """One value. It equals only itself: not its integer, and no value of another enumeration. The class
    cannot be iterated or subscripted; it has `__members__`."""

    __slots__ = ("_name", "_value")
    __members__: dict[str, Any]

    def __init__(self, value: int) -> None:
        found = next((m for m in type(self).__members__.values() if m.value == value), None)
        self._value, self._name = int(value), found.name if found else "???"

    @property
    def name(self) -> str:
        return self._name

    @property
    def value(self) -> int:
        return self._value

    def __int__(self) -> int:
        return self._value

    __index__ = __int__

    def __hash__(self) -> int:
        return self._value

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and int(other) == self._value  # type: ignore[call-overload]

    def __repr__(self) -> str:
        return f"<{type(self).__name__}.{self._name}: {self._value}>"

    def __str__(self) -> str:
        return f"{type(self).__name__}.{self._name}"


def enum(name: str, names: Names, version: tuple[int, ...]) -> type[Enum] | None:
    """The enumeration as a version has it; None where it has none of the values."""
    present = [value for value, (first, until) in names.items() if first <= version < until]
    if not present:
        return None
    made: type[Enum] = type(
        name, (Enum,), {"__slots__": (), "__members__": {}, "__module__": "tensorrt.tensorrt"}
    )
    for number, value in enumerate(present):
        member = made.__new__(made)
        member._name, member._value = value, number
        made.__members__[value] = member
        setattr(made, value, member)
    if name == "DataType":
        made.itemsize = property(lambda member: _BYTES.get(member.name))  # type: ignore[attr-defined]
    if name == "ErrorCode" and version < (10,):
        made.name = _its_name  # type: ignore[assignment]  # as pybind11 does where __str__ is bound again
    return made


_BYTES = {"FLOAT": 4, "HALF": 2, "BF16": 2, "INT8": 1, "INT32": 4, "INT64": 8, "BOOL": 1}


def _its_name(member: Enum) -> str:
    return member._name
