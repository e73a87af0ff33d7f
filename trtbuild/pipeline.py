"""The one composition of the steps, shared by the CLI and by Python programs."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calibrators.table import RangeTable, cache_header
from trtbuild import calibrate as calibration
from trtbuild import tables
from trtbuild.collect.collect import ON_THIS_MACHINE, Options
from trtbuild.corrections import corrections_of
from trtbuild.engine import Engine
from trtbuild.errors import BuildError, InputError, LostPinError
from trtbuild.model.model import Model
from trtbuild.opened import open_model
from trtbuild.precision import rules
from trtbuild.precision.map import PrecisionMap
from trtbuild.profiles import profiles_of
from trtbuild.progress import say
from trtbuild.recipe import Recipe
from trtbuild.ship import manifest, store
from trtbuild.ship.output import check_destination, check_output, export
from trtbuild.ship.store import Build
from trtbuild.tables import Ranges, ranges_of
from trtbuild.targets.audit import LostPin, audit
from trtbuild.targets.base import Request, Target
from trtbuild.targets.choose import choose


def pins(engine: Engine, target: Target) -> tuple[Model, PrecisionMap]:
    """Open the model and resolve the precision of every node, as far as `target` gives a choice."""
    model = open_model(engine)
    recipe = engine.recipe
    by_type = [str(pin) for pin in recipe.pin if pin.trt_type is not None]
    layer_types = target.layer_types(model) if by_type else {}
    if by_type and not layer_types:
        say(f"note: target {target.name} has no TensorRT layers: {', '.join(by_type)} pin nothing here")
    return model, rules.resolve(model, recipe.precision, recipe.pin, target.implicit, layer_types)


def calibrate(
    engine: Engine, target: Target, how: Options = ON_THIS_MACHINE
) -> tuple[RangeTable, Path | None]:
    """Our range table of the engine's model and shards, over the tensors that `target` needs: from the store
    when it is there, else calibrated.

    Returns the table and where it is stored: None for a bare model, which has no store.
    """
    model = open_model(engine)
    calibration.require_float(model)
    if target.algorithm(engine.recipe) is not None:
        say(f"note: a build for {target.name} has TensorRT find the ranges; --ranges makes it take these")
    tensors = target.ranges(model)
    if not tensors:
        raise InputError(f"{model.path}: no node can run in int8, so there is nothing to calibrate")
    shards = tables.open_shards(engine.require_shards(), engine, model)
    model = tables.equalized(engine, model, target, shards, how)
    return tables.calibrated(engine, model, shards, tensors, how)


def calibrate_to(
    engine: Engine, target: Target, output: Path | None, version: str, how: Options = ON_THIS_MACHINE
) -> tuple[RangeTable, Path, Path]:
    """Calibrate and write the table, and the TensorRT calibration cache for `version` beside it.

    Into `output` and `<output>.cache`, or into the engine's store. Returns table, its path, the cache's.
    """
    header = cache_header(version)
    check_destination(engine, output)
    how = tables.beside(how, output)
    table, path = calibrate(engine, target, how)
    if output is not None:
        table.save(output)
        tables.forget(how)
    written = output or path
    assert written is not None
    cache = written.with_name(f"{written.name}.cache")
    whole = table if output is not None else RangeTable.load(written)  # may hold more, for another target
    store.write_text(cache, whole.to_tensorrt_cache(header))
    if not target.implicit:
        say(
            f"note: these {len(table.ranges)} tensors are what explicit int8 nodes read; implicit mode, "
            "and a cache for it, take every float tensor: --mode implicit"
        )
    return table, written, cache


def build(
    engine: Engine,
    target_name: str = "auto",
    output: Path | None = None,
    how: Options = ON_THIS_MACHINE,
) -> Build:
    """Calibrate if needed, build, audit, and store; with `output` also write it there, the manifest beside.

    Raises LostPinError when a pin did not hold, BuildError when nothing was lowered: nothing is stored then.
    """
    target = choose(target_name, engine.recipe.tensorrt.mode)
    if target_name == "auto":
        say(f"target auto: {target.name}")
    check_output(engine, target, output)
    model, precisions = pins(engine, target)
    rules.check_lowers(precisions)
    rules.check_budget(precisions, engine.recipe.precision.budget)
    how = tables.beside(how, output)
    request, table_path = _request(engine, model, precisions, target, how)
    key = manifest.key_of(request, target)

    def write(folder: Path) -> store.Manifest:
        return _write(engine, request, target, key, folder, table_path)

    if engine.builds is None:
        assert output is not None
        with tempfile.TemporaryDirectory(prefix=store.UNFINISHED, dir=output.parent) as folder:
            export(store.publish(Path(folder), key, write), output)
        tables.forget(how)
        return store.read_output(output)
    built = _built_before(engine, engine.builds, key) or store.publish(engine.builds, key, write)
    if output is not None:
        export(built, output)
    return built


def _built_before(engine: Engine, builds: Path, key: str) -> Build | None:
    """The same build from an earlier run, verified, and the newest again because it was asked for again."""
    build = store.find(key, builds)
    if build is not None:
        build.verify()
        _check_pins([LostPin(**pin) for pin in build.manifest["audit"]["lost"]], engine.recipe)
        store.mark_newest(build)
        say(f"build: {build.artifact.parent}, built before")
    return build


def inspect(build: Build) -> dict[str, Any]:
    """What was built: the target's facts, sizes, audit, and every layer with its real precision."""
    keys = ("key", "engine", "created", "target", "artifact", "audit", "layers")
    pinned = build.manifest["precision"]["pinned"]
    return {**{name: build.manifest[name] for name in keys}, "pinned": pinned}


def _request(
    engine: Engine,
    model: Model,
    precisions: PrecisionMap,
    target: Target,
    how: Options,
) -> tuple[Request, Path | None]:
    """What to build, and where the ranges are stored that TensorRT may find meanwhile."""
    if model.quantized and engine.recipe.calibration.equalize is not None:
        raise InputError(
            f"{model.path} brings its own Q/DQ, whose scales would no longer fit an equalized model; remove "
            "calibration.equalize"
        )
    lowered = {precisions.default} if target.implicit else precisions.used
    ranges = Ranges(None, None, None)
    if "int8" in lowered and not model.quantized:
        ranges = ranges_of(engine, model, target, how)
    shards = None
    if engine.shards is not None and (engine.builds is None or engine.shards.is_dir()):
        shards = tables.open_shards(engine.require_shards(), engine, model)
    profiles = profiles_of(model.inputs, engine.recipe.inputs, shards)
    model = ranges.equalized or model
    biases = corrections_of(engine, model, precisions, ranges, shards, target)
    request = Request(model, precisions, ranges.table, profiles, engine.recipe, ranges.calibration, biases)
    return request, ranges.path


def _write(
    engine: Engine, request: Request, target: Target, key: str, folder: Path, table_path: Path | None
) -> store.Manifest:
    """Build into `folder`, audit what was built, and describe it."""
    artifact = folder / target.artifact
    say(f"building for {target.name}")
    built = target.build(request, artifact)
    if built.table is not None:
        tables.keep(built.table, table_path)
    audited = audit(request.precisions, built.layers, built.reformats, built.executed)
    _check_pins(audited.lost, request.recipe)
    wanted = [
        name
        for name, node in request.precisions.nodes.items()
        if node.precision != "fp32" and name not in audited.removed
    ]
    if wanted and len(audited.unlowered) == len(wanted):
        raise BuildError(
            f"none of the {len(wanted)} nodes meant for a lower precision has it in what was built: "
            "nothing was kept"
        )
    return manifest.compose(engine, request, built, audited, artifact, key)


def _check_pins(lost: Sequence[LostPin], recipe: Recipe) -> None:
    """Raise LostPinError for pins that did not hold, unless the recipe lets them go; then they are said."""
    if not lost:
        return
    pins = "; ".join(f"{pin.node} (asked {pin.wanted}, found {pin.found})" for pin in lost)
    said = f"{len(lost)} pins did not hold in what was built"
    if not recipe.precision.allow_lost_pins:
        raise LostPinError(f"{said}, nothing was kept: {pins}")
    say(f"note: {said}, as precision.allow_lost_pins lets them: {pins}")
