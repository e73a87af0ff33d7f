"""The calibrators' base classes, and the calibration that a builder runs with one of them."""

from __future__ import annotations

import ctypes
import math
import struct
import sys
import traceback
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from .native import Crash, Native, Overridable

GARBAGE = 3e38  # what is read where a pointer is missing; the real thing reads past the list
ALGORITHMS = {
    "IInt8LegacyCalibrator": ("LEGACY_CALIBRATION", "LegacyCalibration"),
    "IInt8EntropyCalibrator": ("ENTROPY_CALIBRATION", "EntropyCalibration"),
    "IInt8EntropyCalibrator2": ("ENTROPY_CALIBRATION_2", "EntropyCalibration2"),
    "IInt8MinMaxCalibrator": ("MINMAX_CALIBRATION", "MinMaxCalibration"),
}


class CastError(Exception):
    """A value from Python that the binding cannot make a C++ value of."""


class Calibrator(Native, metaclass=Overridable):
    """IInt8Calibrator. Called from Python, these methods do nothing; a build calls those of a subclass."""

    __slots__ = ("_initialised",)

    def __init__(self) -> None:
        self._initialised = True

    def get_batch_size(self) -> int:
        raise Crash("get_batch_size is not overridden")

    def get_batch(self, names: list[str]) -> list[int]:
        raise Crash("get_batch is not overridden")

    def read_calibration_cache(self) -> Any:
        raise Crash("read_calibration_cache is not overridden")

    def write_calibration_cache(self, cache: Any) -> None:
        raise Crash("write_calibration_cache is not overridden")

    def get_algorithm(self) -> Any:
        return getattr(self._trt.CalibrationAlgoType, self._of_algorithm)  # type: ignore[attr-defined]


def called(function: str, call: Callable[[], Any], failed: Any = None) -> Any:
    """What the binding does with every exception of a callback, KeyboardInterrupt too: it prints it on
    stderr and goes on as if nothing had been returned."""
    try:
        return call()
    except Crash:
        raise
    except BaseException as error:
        where = "".join(
            f"  {f.filename}({f.lineno}): {f.name}\n"
            for f in reversed(traceback.extract_tb(error.__traceback__))
        )
        text = str(error)
        if not isinstance(error, CastError):
            text = f"{type(error).__name__}: {error}\n\nAt:\n{where}"
        print(f"[ERROR] Exception caught in {function}(): {text}", file=sys.stderr)
        return failed


def header(trt: Any, calibrator: Any) -> str:
    major, minor, patch = (*trt._version, 0, 0)[:3]
    number = major * 10000 + minor * 100 + patch if major >= 10 else major * 1000 + minor * 100 + patch
    return f"TRT-{number}-{calibrator._of_text}"


def scales_of(builder: Any, network: Any, config: Any, tensors: list[Any]) -> dict[str, float] | None:
    """Scales by tensor name, from the calibrator's cache or its batches. None where there was no batch."""
    trt, calibrator = builder._trt, config.int8_calibrator
    seen = trt._behaviour
    calibrator.get_algorithm()
    cache = called("read_calibration_cache", calibrator.read_calibration_cache)
    known = None if cache is None else _read(bytes(memoryview(cache)), header(trt, calibrator))
    if cache is not None and known is None:
        builder._tell("ERROR", "Calibration table does not match calibrator algorithm type.")
    if known is not None:
        builder._tell(
            "INFO",
            "Generated calibration scales using calibration cache. Make sure that calibration cache has "
            "latest scales.",
        )
        return known
    called("get_batch_size", calibrator.get_batch_size, -1)
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    shapes = [_shape(builder, config, tensor) for tensor in inputs]
    largest: dict[str, float] = {}
    names = [tensor.name for tensor in inputs]
    while True:
        pointers = next_batch(calibrator, names)
        if not pointers:
            break
        batch = {}
        for index, (tensor, shape) in enumerate(zip(inputs, shapes, strict=True)):
            array = _array(pointers[index], shape, tensor) if index < len(pointers) else np.float32(GARBAGE)
            batch[tensor.name] = array
            largest[tensor.name] = max(largest.get(tensor.name, 0.0), float(np.max(np.abs(array))))
        seen.batches.append(batch)
    if not largest:
        return None
    indices = [layer.get_output(1) for layer in network._all() if layer.type.name == "TOPK"]  # these too
    scales = {t.name: (largest.get(t.name) or _made_up(t.name)) / 127 for t in (*tensors, *indices)}
    text = _write(scales, header(trt, calibrator))
    called("write_calibration_cache", lambda: calibrator.write_calibration_cache(memoryview(text)))
    return scales


def next_batch(calibrator: Any, names: list[str]) -> list[int]:
    """The pointers of the next batch; empty at the end of the data, or of what passes for it."""
    pointers: list[int] = called("get_batch", lambda: _pointers(calibrator.get_batch(list(names))), [])
    return pointers


def _pointers(result: Any) -> list[int]:
    """As pybind11 makes a vector of size_t: any sequence of integers, no floats, no text."""
    if result is None:
        return []
    if isinstance(result, str) or not all(hasattr(pointer, "__index__") for pointer in result):
        raise CastError("Unable to cast Python instance to C++ type (compile in debug mode for details)")
    return [int(pointer) for pointer in result]


def _shape(builder: Any, config: Any, tensor: Any) -> tuple[int, ...]:
    """The OPT shape of the calibration profile, else of the first profile."""
    profile = config._calibration_profile
    if profile is None and config._profiles:
        profile = config._profiles[0]
        builder._tell("WARNING", "Calibration Profile is not defined. Calibrating with Profile 0")
    shapes = profile.get_shape(tensor.name) if profile is not None and -1 in tuple(tensor.shape) else []
    return tuple(shapes[1]) if shapes else tuple(tensor.shape)


def _array(pointer: int, shape: tuple[int, ...], tensor: Any) -> Any:
    """A copy of the memory: indices as they are, everything else as float32 whatever the network says."""
    count, whole = math.prod(shape), tensor.dtype.name in ("INT32", "INT64", "BOOL")
    kind = {"INT64": ctypes.c_int64, "BOOL": ctypes.c_bool}.get(tensor.dtype.name, ctypes.c_int32)
    memory = ((kind if whole else ctypes.c_float) * count).from_address(pointer)
    return np.ctypeslib.as_array(memory).reshape(shape).copy()


def _made_up(name: str) -> float:
    return 1 + zlib.crc32(name.encode()) % 1000 / 100


def _read(cache: bytes, expected: str) -> dict[str, float] | None:
    first, *lines = cache.decode().splitlines() or [""]
    if first != expected:
        return None
    pairs = (line.rsplit(": ", 1) for line in lines if line)
    return {name: struct.unpack(">f", bytes.fromhex(scale))[0] for name, scale in pairs}


def _write(scales: dict[str, float], first: str) -> bytes:
    lines = [f"{name}: {struct.pack('>f', scale).hex()}" for name, scale in scales.items()]
    return "\n".join([first, *lines, ""]).encode()
