"""A double of TensorRT's calibrators and of the builder that calls them.

As the real binding (seen in its 8.5.1.7 library and its sources): a class derived from it must call its
`__init__`; what a callback raises is printed, and get_batch's is then the end of the samples; from the list
of addresses it copies as many as the network has inputs, also past the list's end; it reads each input in
the network's shape and type; the cache that it hands over is its own memory, gone after the call.
"""

from __future__ import annotations

import ctypes
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

PAST_THE_LIST = 0xDEAD


class _Overridable(type):
    def __call__(cls, *args: Any) -> Any:
        made = super().__call__(*args)
        if not made.__dict__.get("initialised"):
            raise TypeError(f"{cls.__name__}.__init__() must be called when overriding __init__")
        return made


class IInt8Calibrator(metaclass=_Overridable):
    def __init__(self) -> None:
        self.initialised = True


class IInt8EntropyCalibrator2(IInt8Calibrator):
    header = "TRT-8501-EntropyCalibration2"


class IInt8MinMaxCalibrator(IInt8Calibrator):
    header = "TRT-8501-MinMaxCalibration"


BINDING = SimpleNamespace(
    __version__="8.5.1.7",
    IInt8EntropyCalibrator2=IInt8EntropyCalibrator2,
    IInt8MinMaxCalibrator=IInt8MinMaxCalibrator,
)


def swallow(callback: Callable[..., Any], *args: Any) -> Any:
    try:
        return callback(*args)
    except BaseException as error:
        print(f"[ERROR] Exception caught in {callback.__name__}(): {error!r}", file=sys.stderr)
        return None


@dataclass
class Builder:
    """Builds a network of these inputs, in this order: name -> (dtype, shape).

    The rest misbehaves on demand: stops after so many batches, does not calibrate, writes no cache, or
    something that is none; asks for other names than its inputs'.

    batches: what was read through the addresses. past_the_list: whether a list of them was too short.
    """

    inputs: dict[str, tuple[str, tuple[int, ...]]]
    stop_after: int | None = None
    calibrates: bool = True
    cache: Callable[[str, dict[str, float]], Any] | None = None
    names: list[str] | None = None
    batch_size: int | None = None
    batches: list[dict[str, np.ndarray]] = field(default_factory=list)
    past_the_list: bool = False

    def build_serialized_network(self, calibrator: IInt8Calibrator) -> bytes:
        """Returns a plan in any case: what calibration came to is no reason for TensorRT to fail."""
        if not self.calibrates:
            return b"plan"
        self.batch_size = swallow(calibrator.get_batch_size)
        if swallow(calibrator.read_calibration_cache) is not None:
            return b"plan"
        while self.stop_after is None or len(self.batches) < self.stop_after:
            addresses = swallow(calibrator.get_batch, self.names or list(self.inputs))
            if not addresses:
                break
            self._execute(addresses)
        self._write(calibrator)
        return b"plan"

    def _execute(self, addresses: list[int]) -> None:
        copied = [*addresses, *[PAST_THE_LIST] * len(self.inputs)][: len(self.inputs)]
        self.past_the_list |= PAST_THE_LIST in copied
        if not self.past_the_list:
            self.batches.append(
                {
                    name: _read(address, np.dtype(dtype), shape)
                    for address, (name, (dtype, shape)) in zip(copied, self.inputs.items(), strict=True)
                }
            )

    def _write(self, calibrator: Any) -> None:
        scales = {
            name: max(float(abs(b[name]).max()) for b in self.batches) / 127
            for name in self.inputs
            if self.batches
        }
        written = (self.cache or as_text)(calibrator.header, scales)
        if written is not None:
            memory = bytearray(written)
            view = memoryview(memory)
            swallow(calibrator.write_calibration_cache, view)
            memory[:] = b"\0" * len(memory)


def as_text(header: str, scales: dict[str, float]) -> bytes:
    lines = [f"{name}: {struct.unpack('>I', struct.pack('>f', s))[0]:x}" for name, s in scales.items()]
    return "\n".join([header, *lines, ""]).encode()


def _read(address: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    size = int(np.prod(shape, dtype=int)) * dtype.itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(address), dtype).reshape(shape).copy()
