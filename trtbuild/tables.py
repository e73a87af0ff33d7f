"""Where the ranges of an int8 build come from: a file, the store, our calibration, or TensorRT's own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from calibrators.compare import Comparison, compare
from calibrators.errors import TableError
from calibrators.shards import ShardSet
from calibrators.table import RangeTable, TableKey
from trtbuild import calibrate as calibration
from trtbuild.engine import Engine
from trtbuild.errors import InputError
from trtbuild.model.model import Model
from trtbuild.profiles import profiles_of
from trtbuild.progress import say
from trtbuild.recipe import InputSection
from trtbuild.targets.base import Algorithm, Calibration, Target

CALIBRATION_BATCH = 8
FILES = "a range table (JSON), a build's manifest or a TensorRT calibration cache"
LARGEST = 1 << 28  # bytes of such a file


@dataclass(frozen=True)
class Ranges:
    """A table, or how TensorRT is to find one. `path`: where the table is stored, or will be; None where a
    bare model has no store."""

    table: RangeTable | None
    calibration: Calibration | None
    path: Path | None


@dataclass(frozen=True)
class RangesFile:
    """A file of ranges. label: how messages call it. header: of a TensorRT cache. model: the SHA-256 of the
    model that they are of, where the file says so."""

    label: str
    table: RangeTable
    header: str | None
    model: str | None


def ranges_of(engine: Engine, model: Model, target: Target) -> Ranges:
    """The ranges for a build on `target`.

    Raises InputError for a model that brings its own Q/DQ, shards that it cannot take, and a file of
    ranges of another model.
    """
    calibration.require_float(model)
    if engine.ranges is not None:
        return Ranges(_given(engine.ranges, engine, model, target), None, None)
    shards = open_shards(engine.require_shards(), engine, model)
    algorithm = target.algorithm(engine.recipe)
    if algorithm is None:
        table, path = calibrated(engine, model, shards, target.ranges(model))
        return Ranges(table, None, path)
    profiles = profiles_of(model.inputs, engine.recipe.inputs, shards)
    key = _own_key(model, shards, algorithm, target, engine, profiles)
    path = _path(engine, key)
    return Ranges(_stored(path, key, ()), Calibration(algorithm, shards, key), path)


def calibrated(
    engine: Engine, model: Model, shards: ShardSet, tensors: Sequence[str]
) -> tuple[RangeTable, Path | None]:
    """Our own table over `tensors`, from the store when it is there, and where it is stored.

    Raises InputError for shapes in the recipe that the model cannot take, and as `calibrate` does.
    """
    profiles_of(model.inputs, engine.recipe.inputs, shards)
    section = engine.recipe.calibration
    key = calibration.table_key(model, shards, section)
    path = _path(engine, key)
    stored = _stored(path, key, tensors)
    if stored is not None:
        ranges = {tensor: stored.ranges[tensor] for tensor in tensors}  # it may hold more, for another target
        return RangeTable(ranges, stored.key, stored.samples), path
    opt = next((shapes.opt for shapes in engine.recipe.inputs.values()), ())
    table = calibration.calibrate(model, shards, section, opt[0] if opt else CALIBRATION_BATCH, tensors)
    keep(table, path)
    return table, path


def open_shards(folder: Path, engine: Engine, model: Model) -> ShardSet:
    return ShardSet.open(folder, model.inputs, may_batch=engine.recipe.model.batched)


def keep(table: RangeTable, path: Path | None) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        table.save(path)


def _path(engine: Engine, key: TableKey) -> Path | None:
    return engine.builds / "ranges" / f"{key.digest()}.json" if engine.builds is not None else None


def _stored(path: Path | None, key: TableKey, tensors: Sequence[str]) -> RangeTable | None:
    """The table at `path` if it was made under `key` and covers `tensors`. Raises InputError when damaged."""
    if path is None or not path.is_file():
        return None
    try:
        table = RangeTable.load(path)
    except TableError as error:
        raise InputError(f"{error}; delete it first") from error
    if table.key != key or not set(tensors) <= set(table.ranges):
        return None
    say(f"ranges: {path}, calibrated before")
    return table


def _own_key(
    model: Model,
    shards: ShardSet,
    algorithm: Algorithm,
    target: Target,
    engine: Engine,
    profiles: Mapping[str, InputSection],
) -> TableKey:
    """TensorRT's ranges depend on its version, and on how the samples are cut into batches."""
    identity = target.identity(engine.recipe)
    opt = {name: shapes.opt for name, shapes in sorted(profiles.items())}
    method = json.dumps([f"TensorRT {identity['tensorrt']}", algorithm, opt])
    return TableKey(model.sha256, shards.fingerprint(), method)


def _given(path: Path, engine: Engine, model: Model, target: Target) -> RangeTable:
    """The ranges that the user gives in place of a calibration."""
    file = read(path, "--ranges")
    if file.header is not None:
        target.check_cache(file.header, engine.recipe)
    wanted = target.ranges(model)
    other = file.model not in (None, model.sha256)
    if other or (wanted and not set(wanted) & set(file.table.ranges)):
        raise InputError(f"{file.label} was calibrated for another model than {model.path}; calibrate again")
    return file.table


def read(path: Path, option: str) -> RangesFile:
    """Read a table (JSON), the manifest of a build, or a TensorRT calibration cache of any version.

    option: where the user gave it, for messages. Raises InputError for a file that is none of these, and for
    one without a range.
    """
    label = f"{option} {path}"
    header = made_for = None
    try:
        text = _text(path, label)
        if text.startswith("TRT-"):
            header, table = RangeTable.from_tensorrt_cache(text)
        else:
            table, made_for = _parsed(text, label)
    except TableError as error:
        raise InputError(f"{label}: {error}") from error
    if not table.ranges:
        raise InputError(f"{label} holds no ranges; calibrate again")
    return RangesFile(label, table, header, made_for)


def compared(table: RangeTable, file: RangesFile) -> Comparison:
    """Where `table` differs from the one in a file. Raises InputError when they have no tensor in common."""
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


def _parsed(text: str, label: str) -> tuple[RangeTable, str | None]:
    """A table, or the one inside a manifest, so that a device gets the ranges that another build found; and
    the SHA-256 of the model that it is of, where it says so."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TableError(f"no whole JSON text: {error}; calibrate again") from error
    if not isinstance(document, dict) or "artifact" not in document:
        table = RangeTable.from_dict(document)
        return table, table.key.model if table.key else None
    if document.get("ranges") is None:
        raise InputError(f"{label} is the manifest of a build without ranges: nothing in it is int8")
    built_from = document.get("model")
    made_for = built_from.get("sha256") if isinstance(built_from, dict) else None
    return RangeTable.from_dict(document["ranges"]), made_for
