"""Where the ranges of an int8 build come from: a file, the store, our calibration, or TensorRT's own."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from calibrators.errors import CalibratorError, TableError
from calibrators.shards import ShardSet
from calibrators.table import RangeTable, TableKey
from trtbuild import calibrate as calibration
from trtbuild import equalization, ranges_file
from trtbuild.collect.collect import ON_THIS_MACHINE, Options
from trtbuild.engine import Engine
from trtbuild.errors import InputError
from trtbuild.model.model import Model
from trtbuild.profiles import profiles_of
from trtbuild.progress import say
from trtbuild.ranges_file import RangesFile
from trtbuild.recipe import InputSection
from trtbuild.rewrite.equalize import restored
from trtbuild.targets.base import Algorithm, Calibration, Target

CALIBRATION_BATCH = 8
STALE_SECONDS = 3 * 24 * 3600


@dataclass(frozen=True)
class Ranges:
    """A table, or how TensorRT is to find one. `path`: where the table is stored, or will be; None where a
    bare model has no store. `equalized`: the model that they are of, where it is not the file's. `file`: the
    one that the user gave."""

    table: RangeTable | None
    calibration: Calibration | None
    path: Path | None
    equalized: Model | None = None
    file: RangesFile | None = None


def ranges_of(engine: Engine, model: Model, target: Target, how: Options = ON_THIS_MACHINE) -> Ranges:
    """The ranges for a build on `target`.

    Raises InputError for a model that brings its own Q/DQ, shards that it cannot take, and a file of
    ranges of another model.
    """
    calibration.require_float(model)
    if engine.ranges is not None:
        return _given(engine.ranges, engine, model, target)
    shards = open_shards(engine.require_shards(), engine, model)
    algorithm = target.algorithm(engine.recipe)
    model = equalized(engine, model, target, shards, how)
    if algorithm is None:
        table, path = calibrated(engine, model, shards, target.ranges(model), how)
        return Ranges(table, None, path, model)
    profiles = profiles_of(model.inputs, engine.recipe.inputs, shards)
    key = _own_key(model, shards, algorithm, target, engine, profiles)
    path = _path(engine, key)
    return Ranges(_stored(path, key, ()), Calibration(algorithm, shards, key), path, model)


def equalized(engine: Engine, model: Model, target: Target, shards: ShardSet, how: Options) -> Model:
    """`model` equalized as the recipe asks, as it was before where that is in the store; says how many
    tensors are. Without `calibration.equalize` it is the model itself.

    Raises InputError for a target that takes the file as it is, and as `equalization.equalize` does.
    """
    alpha = engine.recipe.calibration.equalize
    if alpha is None:
        return model
    _check_explicit(target, engine)
    key = TableKey(model.sha256, calibration.samples_of(shards), f"equalize {alpha}")
    path = engine.builds / "ranges" / f"{key.digest()}.equalized.json" if engine.builds is not None else None
    found = equalization.stored(model, key, path) if path is not None else None
    if found is None:
        if path is not None:
            _check_place(path.parent)
        found = equalization.equalize(model, shards, alpha, batch_of(engine), how.memory)
        if path is not None:
            equalization.keep(found, key, path)
    say(f"equalized: {len(found.scaled)} tensors" if found.scaled else "note: no tensor can be equalized")
    return found


def _check_explicit(target: Target, engine: Engine) -> None:
    if target.implicit:
        raise InputError(
            "an equalized model cannot be built in implicit mode, which takes the model file as it is: build "
            f"with --mode explicit (TensorRT 10 and later), or {engine.without('equalize')}"
        )


def calibrated(
    engine: Engine, model: Model, shards: ShardSet, tensors: Sequence[str], how: Options
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
    if path is not None:
        _check_place(path.parent)
        counts = TableKey(key.model, key.shards, "counts").digest()  # the same for every method
        how = replace(how, checkpoints=path.with_name(f"{counts}.partial"))
    table = calibration.calibrate(model, shards, section, batch_of(engine), tensors, _apart(how, model))
    if constant := [name for name in tensors if table.ranges[name].amax == 0]:
        say(f"note: constant zero in every sample: {', '.join(constant)}")
    if path is not None:
        keep(table, path)
        forget(how)
        _sweep(path.parent)
    return table, path


def batch_of(engine: Engine) -> int:
    """Samples that run at a time."""
    opt = next((shapes.opt for shapes in engine.recipe.inputs.values()), ())
    return opt[0] if opt else CALIBRATION_BATCH


def _apart(how: Options, model: Model) -> Options:
    """`how`, with the counts of an equalized model in a folder of their own: they are of the same tensors."""
    if how.checkpoints is None or not model.scaled:
        return how
    return replace(how, checkpoints=how.checkpoints / calibration.method_of(model, "").split()[-1])


def _check_place(folder: Path) -> None:
    """Raise InputError, before hours of calibrating, where the table could not be written."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(
            f"{there}: no permission to write, and ranges are stored there; change its permissions"
        )


def beside(how: Options, output: Path | None) -> Options:
    """`how`, with the counts kept beside the file that is to be written, as a bare model has no store."""
    return how if output is None else replace(how, checkpoints=output.with_name(f".{output.name}.partial"))


def forget(how: Options) -> None:
    """Delete the counts: the ranges are where they belong."""
    if how.checkpoints is not None:
        shutil.rmtree(how.checkpoints, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Delete the counts that nobody has gone on with for days."""
    for left in folder.glob("*.partial"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)


def open_shards(folder: Path, engine: Engine, model: Model) -> ShardSet:
    return ShardSet.open(folder, model.inputs, may_batch=engine.recipe.model.batched)


def drawn(shards: ShardSet, engine: Engine, count: int, seed: int) -> ShardSet:
    """So many of the engine's validation samples. Raises InputError where there are fewer."""
    try:
        return shards.drawn(count, seed)
    except CalibratorError as error:
        raise InputError(f"--draw {count}: {engine.samples} has {shards.samples} samples") from error


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
    return TableKey(model.sha256, shards.fingerprint(), calibration.method_of(model, method))


def _given(path: Path, engine: Engine, model: Model, target: Target) -> Ranges:
    """The ranges that the user gives in place of a calibration, and the equalization that goes with them."""
    file = ranges_file.read(path, "--ranges")
    if file.header is not None:
        target.check_cache(file.header, engine.recipe)
    wanted = target.ranges(model)
    other = file.model not in (None, model.sha256)
    if other or (wanted and not set(wanted) & set(file.table.ranges)):
        raise InputError(f"{file.label} was calibrated for another model than {model.path}; calibrate again")
    if file.scaled:
        _check_explicit(target, engine)
        say(f"equalized: {len(file.scaled)} tensors, as {file.label} says")
    elif calibration.of_equalized(file.table.key):
        raise InputError(
            f"{file.label} was calibrated for an equalized model, and does not say how it was equalized; "
            "give the manifest of its build"
        )
    elif engine.recipe.calibration.equalize is not None:
        raise InputError(
            f"{file.label} was calibrated for a model that is not equalized; give the manifest of a build "
            "that is, or remove calibration.equalize"
        )
    return Ranges(file.table, None, None, restored(model, file.scaled), file)
