"""The text of a TensorRT calibration cache: a header, then a tensor and the bits of its scale per line.

    TRT-8501-EntropyCalibration2
    x: 3caa54fc
    (Unnamed Layer* 64) [Shuffle]_output: 0

TensorRT writes the bits without leading zeros: a scale of 0 is "0".
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

import numpy as np

from calibrators.errors import TableError

CacheAlgorithm = Literal["EntropyCalibration2", "MinMaxCalibration"]
"""As IInt8EntropyCalibrator2 and IInt8MinMaxCalibrator write it in the header."""

_HEADER = re.compile(r"TRT-(\w+)-(\w+)")
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:\.\d+)?")
_BITS = re.compile(r"[0-9a-fA-F]{1,8}")
_WHOLE_BITS = 8


class CacheHeader(NamedTuple):
    """version: TensorRT's number, "8501" for 8.5.1. algorithm: a CacheAlgorithm, or another of TensorRT's."""

    version: str
    algorithm: str

    def __str__(self) -> str:
        return f"TRT-{self.version}-{self.algorithm}"


def cache_header(version: str, algorithm: CacheAlgorithm = "EntropyCalibration2") -> str:
    """Return the header that a TensorRT version writes and accepts: "10.3.0" -> "TRT-100300-…".

    The number is NV_TENSORRT_VERSION: major * 1000 (from 10 on: * 10000) + minor * 100 + patch.
    Raises TableError for a version that is not major.minor.patch[.build], and for another algorithm.
    """
    match = _VERSION.fullmatch(version)
    if match is None:
        raise TableError(f"TensorRT version {version!r}: expected major.minor.patch, such as 10.3.0")
    if algorithm not in get_args(CacheAlgorithm):
        raise TableError(f"algorithm {algorithm!r}: expected one of {', '.join(get_args(CacheAlgorithm))}")
    major, minor, patch = map(int, match.groups())
    number = major * (1000 if major < 10 else 10000) + minor * 100 + patch
    return str(CacheHeader(str(number), algorithm))


def parse_cache_header(text: str) -> CacheHeader:
    """Return what the first line of a cache says. Raises TableError when it is no header."""
    line = text.split("\n", 1)[0].removesuffix("\r")
    match = _HEADER.fullmatch(line)
    if match is None:
        raise TableError(f"line 1: {line[:80]!r} is no header such as 'TRT-8501-EntropyCalibration2'")
    return CacheHeader(*match.groups())


def require_cache_header(text: str, version: str, algorithm: CacheAlgorithm) -> None:
    """Raise TableError unless TensorRT `version` with the calibrator of `algorithm` accepts this cache.

    TensorRT itself ignores such a cache with a warning and calibrates on whatever it is fed, or on nothing.
    """
    seen, expected = str(parse_cache_header(text)), cache_header(version, algorithm)
    if seen != expected:
        raise TableError(
            f"the calibration cache is {seen}, this build takes {expected} (TensorRT {version}): "
            "write it again for this version and algorithm, or calibrate again"
        )


def write_cache(header: str, scales: Mapping[str, np.float32]) -> str:
    """Return the text of a cache, tensors sorted by name, 8 hex digits each.

    Raises TableError when the header is none, or when a tensor's name holds a line break.
    """
    if not _HEADER.fullmatch(header):
        raise TableError(f"header {header!r}: expected such as 'TRT-8501-EntropyCalibration2'")
    for name in scales:
        if "\n" in name or "\r" in name:
            raise TableError(f"tensor {name!r} has a line break in its name, which a cache cannot hold")
    lines = [f"{name}: {struct.pack('>f', scales[name]).hex()}" for name in sorted(scales)]
    return "\n".join([header, *lines]) + "\n"


def read_cache(text: str) -> tuple[CacheHeader, dict[str, float]]:
    """Return the header and the scale of each tensor, a float32's value, 0 or larger.

    Raises TableError, naming the line, for a line that is malformed or repeats a tensor, and for a scale
    that is negative, NaN or Inf. Bits of fewer than 8 digits at the very end, without a line break after
    them, are malformed too: the file was cut off there.
    """
    header = parse_cache_header(text)
    lines = text.split("\n")
    scales: dict[str, float] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not line.removesuffix("\r"):
            continue
        name, _, digits = line.rpartition(":")  # the last: names contain colons
        digits = digits.strip()
        cut_off = number == len(lines) and len(digits) < _WHOLE_BITS
        if not name or not _BITS.fullmatch(digits) or cut_off:
            raise TableError(f"line {number}: {line[:80]!r}: expected 'tensor: up to 8 hex digits'")
        if name in scales:
            raise TableError(f"line {number}: tensor {name!r} is there twice; calibrate again")
        (scale,) = struct.unpack(">f", bytes.fromhex(digits.zfill(_WHOLE_BITS)))
        if not (math.isfinite(scale) and scale >= 0):
            raise TableError(
                f"line {number}: tensor {name!r}: scale {scale}: expected 0 or larger; calibrate again"
            )
        scales[name] = scale
    return header, scales
