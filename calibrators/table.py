"""The ranges of a model: in memory, as a JSON file, and as the text of a TensorRT calibration cache."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from calibrators.cache import cache_header, read_cache, write_cache
from calibrators.errors import TableError
from calibrators.scale import INT8_MAX, scale_of
from calibrators.whole_file import replacing

__all__ = ["Range", "RangeTable", "TableKey", "cache_header"]

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Range:
    """amax: the largest magnitude that INT8 represents, finite, 0 or larger. method: where it is from.

    Raises TableError when amax is none of that.
    """

    amax: float
    method: str

    def __post_init__(self) -> None:
        if not (math.isfinite(self.amax) and self.amax >= 0):
            raise TableError(f"amax {self.amax}: expected a finite number, 0 or larger; calibrate again")


@dataclass(frozen=True)
class TableKey:
    """What the ranges depend on: hashes of the model and of the shards, and the method. A table is
    stale when any of them differs."""

    model: str
    shards: str
    method: str

    def digest(self) -> str:
        """Return 16 hex digits that stand for all three."""
        return hashlib.sha256(json.dumps([self.model, self.shards, self.method]).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class RangeTable:
    """ranges: by tensor name. key: None where unknown. samples: how many the ranges were taken from."""

    ranges: Mapping[str, Range]
    key: TableKey | None
    samples: int

    def scale(self, name: str) -> np.float32:
        """Return the INT8 scale of a tensor, amax / 127. Raises TableError when it has no range."""
        if name not in self.ranges:
            near = difflib.get_close_matches(name, self.ranges, n=3)
            hint = f" (nearest: {', '.join(map(repr, near))})" if near else ""
            raise TableError(f"no range for tensor {name!r} among {len(self.ranges)}{hint}; calibrate again")
        return scale_of(self.ranges[name].amax)

    def to_dict(self) -> dict[str, Any]:
        """Return the table as JSON types; ``from_dict`` is the inverse."""
        return {
            "schema_version": SCHEMA_VERSION,
            "key": asdict(self.key) if self.key else None,
            "samples": self.samples,
            "ranges": {name: asdict(self.ranges[name]) for name in sorted(self.ranges)},
        }

    @classmethod
    def from_dict(cls, data: object) -> RangeTable:
        """Return the table that ``to_dict`` described.

        Raises TableError for another schema_version, keys that are missing or unknown, values of the
        wrong type, and an amax that is negative, NaN or Inf.
        """
        version = data.get("schema_version") if isinstance(data, dict) else None
        if version != SCHEMA_VERSION:
            raise TableError(f"schema_version {version!r}: expected {SCHEMA_VERSION}; calibrate again")
        table = _record(data, {"schema_version", "key", "samples", "ranges"}, "the table")
        if type(table["samples"]) is not int or table["samples"] < 0:
            raise TableError(f"samples {table['samples']!r}: expected a whole number; calibrate again")
        key = None if table["key"] is None else _key(table["key"])
        if not isinstance(table["ranges"], dict):
            raise TableError("'ranges' must be an object of tensor names; calibrate again")
        ranges = {name: _range(name, entry) for name, entry in table["ranges"].items()}
        return cls(ranges, key, table["samples"])

    def save(self, path: Path) -> None:
        """Write the table as JSON. A crash leaves the old file or the new one, never a part.

        Raises TableError when it cannot be written.
        """
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        try:
            with replacing(path) as stream:
                stream.write(text.encode())
        except OSError as exc:
            raise TableError(f"{path} cannot be written: {exc.strerror or exc}") from exc

    @classmethod
    def load(cls, path: Path) -> RangeTable:
        """Read what ``save`` wrote.

        Raises TableError, naming the file, when it is missing, truncated or malformed.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except OSError as exc:
            raise TableError(f"{path} cannot be read: {exc.strerror or exc}; calibrate first") from exc
        except (ValueError, RecursionError) as exc:
            raise TableError(f"{path} is no whole JSON text: {exc}; calibrate again") from exc
        try:
            return cls.from_dict(data)
        except TableError as exc:
            raise TableError(f"{path}: {exc}") from exc

    def to_tensorrt_cache(self, header: str) -> str:
        """Return the text of a TensorRT calibration cache, tensors sorted by name.

        header: the first line, such as "TRT-8501-EntropyCalibration2"; TensorRT ignores a cache whose
        header names another version or algorithm than its own. Then a line per tensor: its name, a
        colon, and the big-endian float32 of its scale in 8 hex digits.

        Raises TableError when the header has another form, or a tensor's name holds a line break.
        """
        return write_cache(header, {name: self.scale(name) for name in self.ranges})

    @classmethod
    def from_tensorrt_cache(cls, text: str) -> tuple[str, RangeTable]:
        """Return the header of a TensorRT calibration cache, and its ranges without key and samples.

        amax is 127 * scale exactly, so that ``scale`` gives back the bits that stood in the cache (a
        denormal scale becomes the smallest normal one, and 0 a constant-zero tensor's 1/127).

        Raises TableError, naming the line, for a line that is malformed or repeats a tensor, and for a
        scale that is negative, NaN or Inf.
        """
        header, scales = read_cache(text)
        ranges = {name: Range(INT8_MAX * scale, "tensorrt-cache") for name, scale in scales.items()}
        return str(header), cls(ranges, key=None, samples=0)


def _record(data: object, expected: set[str], label: str) -> dict[str, Any]:
    if not isinstance(data, dict) or data.keys() != expected:
        seen = sorted(data) if isinstance(data, dict) else type(data).__name__
        raise TableError(f"{label} has {seen}; expected exactly {sorted(expected)}; calibrate again")
    return data


def _key(data: object) -> TableKey:
    record = _record(data, {field.name for field in fields(TableKey)}, "'key'")
    if not all(isinstance(value, str) for value in record.values()):
        raise TableError(f"'key' is {record}; expected text values; calibrate again")
    return TableKey(**record)


def _range(name: str, data: object) -> Range:
    record = _record(data, {field.name for field in fields(Range)}, f"tensor {name!r}")
    if type(record["amax"]) not in (int, float) or not isinstance(record["method"], str):
        raise TableError(f"tensor {name!r} is {record}; expected a number and a text; calibrate again")
    try:
        return Range(float(record["amax"]), record["method"])
    except (TableError, OverflowError) as exc:
        raise TableError(f"tensor {name!r}: {exc}") from exc
