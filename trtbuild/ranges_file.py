"""A file of ranges from the user: a range table, a build's manifest, or a TensorRT calibration cache."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calibrators.compare import Comparison, compare
from calibrators.errors import TableError
from calibrators.table import RangeTable
from trtbuild.errors import InputError, one_line
from trtbuild.model.scaling import Scaled, from_json
from trtbuild.progress import say

FILES = "a range table (JSON), a build's manifest or a TensorRT calibration cache"
LARGEST = 1 << 28  # bytes of such a file


@dataclass(frozen=True)
class RangesFile:
    """A file of ranges. label: how messages call it. header: of a TensorRT cache. model: the SHA-256 of the
    model that they are of, where the file says so. scaled: how that model was equalized; only a manifest
    says so. manifest: the whole of it, where the file is one."""

    label: str
    table: RangeTable
    header: str | None
    model: str | None
    scaled: Scaled = field(default_factory=dict)
    manifest: Mapping[str, Any] | None = None


def read(path: Path, option: str) -> RangesFile:
    """Read a table (JSON), the manifest of a build, or a TensorRT calibration cache of any version.

    option: where the user gave it, for messages. Raises InputError for a file that is none of these, and for
    one without a range.
    """
    label = f"{option} {path}"
    try:
        text = _text(path, label)
        if text.startswith("TRT-"):
            header, table = RangeTable.from_tensorrt_cache(text)
            file = RangesFile(label, table, header, None)
        else:
            file = _parsed(text, label)
    except TableError as error:
        raise InputError(f"{label}: {error}") from error
    if not file.table.ranges:
        raise InputError(f"{label} holds no ranges; calibrate again")
    return file


def compared(table: RangeTable, file: RangesFile) -> Comparison:
    """Where `table` differs from the one in a file, which may be of another model: that is said. Raises
    InputError when they have no tensor in common."""
    if table.key is not None and file.model not in (None, table.key.model):
        say(f"note: {file.label} is of another model")
    try:
        return compare(table, file.table)
    except TableError as error:
        raise InputError(f"{file.label}: {error}") from error


def _text(path: Path, label: str) -> str:
    """All of the file, which may be a pipe."""
    try:
        with path.open("rb") as stream:
            data = stream.read(LARGEST + 1)
    except OSError as error:
        raise InputError(f"{label}: {error.strerror or error}; expected {FILES}") from error
    if len(data) > LARGEST:
        raise InputError(f"{label} is larger than {LARGEST >> 20} MiB; expected {FILES}")
    try:
        return data.decode("utf-8")
    except ValueError as error:
        raise InputError(f"{label} is no text; expected {FILES}") from error


def _parsed(text: str, label: str) -> RangesFile:
    """A table, or the one inside a manifest, so that a device gets the ranges that another build found."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TableError(f"no whole JSON text: {error}; calibrate again") from error
    if not isinstance(document, dict) or "artifact" not in document:
        table = RangeTable.from_dict(document)
        return RangesFile(label, table, None, table.key.model if table.key else None)
    if document.get("ranges") is None:
        raise InputError(f"{label} is the manifest of a build without ranges: nothing in it is int8")
    table, built_from = RangeTable.from_dict(document["ranges"]), document.get("model")
    if not isinstance(built_from, dict):
        return RangesFile(label, table, None, None, manifest=document)
    scaled = _scaled(built_from, label)
    return RangesFile(label, table, None, built_from.get("sha256"), scaled, document)


def _scaled(built_from: Mapping[str, Any], label: str) -> Scaled:
    """Manifests of before there was equalization do not speak of it."""
    try:
        return from_json(built_from.get("equalized", {}))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{label}: model.equalized is damaged ({one_line(error)}); copy the manifest again"
        ) from error
