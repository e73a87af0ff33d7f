"""The one composition of the steps, shared by the CLI and by Python programs."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from calibrators.errors import TableError
from calibrators.shards import ShardSet
from calibrators.table import RangeTable, TableKey, cache_header
from trtbuild import calibrate as calibration
from trtbuild.engine import Engine
from trtbuild.errors import BuildError, InputError, LostPinError
from trtbuild.golden import check as golden
from trtbuild.golden import metric_file
from trtbuild.golden.gate import Verdict
from trtbuild.model.model import Model
from trtbuild.precision import rules
from trtbuild.precision.map import PrecisionMap
from trtbuild.profiles import profiles_of
from trtbuild.progress import say
from trtbuild.rewrite.explicit import ranges_needed
from trtbuild.ship import manifest, store
from trtbuild.ship.output import check_destination, check_output, export
from trtbuild.ship.store import Build
from trtbuild.targets.audit import audit
from trtbuild.targets.base import Request, Target
from trtbuild.targets.choose import by_name, choose

VERDICT = "verdict.json"
CALIBRATION_BATCH = 8


def pins(engine: Engine) -> tuple[Model, PrecisionMap]:
    """Open the model and resolve the precision of every node."""
    model = Model.open(engine.model)
    return model, rules.resolve(model, engine.recipe.precision, engine.recipe.pin)


def calibrate(engine: Engine, model: Model | None = None) -> tuple[RangeTable, Path | None]:
    """The range table of the engine's model and shards: from the store when it is there, else calibrated.

    Returns the table and where it is stored: None for a bare model, which has no store.
    """
    model = model or Model.open(engine.model)
    calibration.require_float(model)
    shards = _open_shards(engine.require_shards(), engine, model)
    section = engine.recipe.calibration
    path = None
    if engine.builds is not None:
        key = calibration.table_key(model, shards, section)
        path = engine.builds / "ranges" / f"{key.digest()}.json"
        table = _stored_table(path, key)
        if table is not None and set(ranges_needed(model)) <= set(table.ranges):
            say(f"ranges: {path}, calibrated before")
            return table, path
    profiles_of(model.inputs, engine.recipe.inputs, shards)  # raises for shapes that the model cannot take
    opt = next((shapes.opt for shapes in engine.recipe.inputs.values()), ())
    table = calibration.calibrate(model, shards, section, opt[0] if opt else CALIBRATION_BATCH)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        table.save(path)
    return table, path


def _stored_table(path: Path, key: TableKey) -> RangeTable | None:
    """The table at `path`, if there is one and it was made under `key`. Raises InputError when damaged."""
    if not path.is_file():
        return None
    try:
        table = RangeTable.load(path)
    except TableError as error:
        raise InputError(f"{error}; delete it first") from error
    return table if table.key == key else None


def calibrate_to(engine: Engine, output: Path | None, version: str) -> tuple[RangeTable, Path, Path]:
    """Calibrate and write the table, and the TensorRT calibration cache for `version` beside it.

    Into `output` and `<output>.cache`, or into the engine's store. Returns table, its path, the cache's.
    """
    header = cache_header(version)
    check_destination(engine, output)
    table, path = calibrate(engine)
    if output is not None:
        table.save(output)
    written = output or path
    assert written is not None
    cache = written.with_name(f"{written.name}.cache")
    store.write_text(cache, table.to_tensorrt_cache(header))
    return table, written, cache


def build(engine: Engine, target_name: str = "auto", output: Path | None = None) -> Build:
    """Calibrate if needed, build, audit, and store; with `output` also write it there, the manifest beside.

    Raises LostPinError when a pin did not hold, BuildError when nothing was lowered: nothing is stored then.
    """
    target = choose(target_name)
    if target_name == "auto":
        say(f"target auto: {target.name}")
    check_output(engine, target, output)
    model, precisions = pins(engine)
    rules.check_lowers(precisions)
    rules.check_budget(precisions, engine.recipe.precision.budget)
    request = _request(engine, model, precisions)
    key = manifest.key_of(request, target)

    def write(folder: Path) -> store.Manifest:
        return _write(engine, request, target, key, folder)

    if engine.builds is None:
        assert output is not None
        with tempfile.TemporaryDirectory(prefix=store.UNFINISHED, dir=output.parent) as folder:
            export(store.publish(Path(folder), key, write), output)
        return store.read_output(output)
    built = _built_before(engine.builds, key) or store.publish(engine.builds, key, write)
    if output is not None:
        export(built, output)
    return built


def _built_before(builds: Path, key: str) -> Build | None:
    """The same build from an earlier run, verified, and the newest again because it was asked for again."""
    build = store.find(key, builds)
    if build is not None:
        build.verify()
        store.mark_newest(build)
        say(f"build: {build.artifact.parent}, built before")
    return build


def validate(engine: Engine, build: Build) -> Verdict:
    """The golden check of a build. A build in the store keeps the verdict beside it."""
    section = engine.recipe.validation
    model = Model.open(engine.model)
    if model.sha256 != build.manifest["model"]["sha256"]:
        raise InputError(f"{engine.model} is not the model that {build.key} was built from; build again")
    build.verify()
    shards = _open_shards(engine.require_samples(), engine, model)
    metric = None
    if section.metric is not None and engine.labels is not None:
        metric = metric_file.load(section.metric, engine.folder, engine.labels)
    request = manifest.request_of(build, engine, model)
    candidate, caveat = by_name(build.manifest["target"]["target"]).candidate(request, build.artifact)
    if caveat:
        say(f"note: {caveat}")
    verdict = golden.check(model, candidate, request.precisions, shards, metric, section)
    if engine.builds is not None and build.artifact.resolve().parent.parent == engine.builds.resolve():
        document = {"schema_version": store.SCHEMA_VERSION, "build": build.key, "caveat": caveat}
        store.write_json(build.artifact.parent / VERDICT, {**document, **verdict.to_dict()})
    return verdict


def inspect(build: Build) -> dict[str, Any]:
    """What was built: the target's facts, sizes, audit, and every layer with its real precision."""
    keys = ("key", "engine", "created", "target", "artifact", "audit", "layers")
    pinned = build.manifest["precision"]["pinned"]
    return {**{name: build.manifest[name] for name in keys}, "pinned": pinned}


def _request(engine: Engine, model: Model, precisions: PrecisionMap) -> Request:
    needs_table = not model.quantized and "int8" in precisions.used
    table = calibrate(engine, model)[0] if needs_table else None
    shards = None
    if engine.shards is not None and (engine.builds is None or engine.shards.is_dir()):
        shards = _open_shards(engine.shards, engine, model)
    profiles = profiles_of(model.inputs, engine.recipe.inputs, shards)
    return Request(model, precisions, table, profiles, engine.recipe)


def _open_shards(folder: Path, engine: Engine, model: Model) -> ShardSet:
    return ShardSet.open(folder, model.inputs, may_batch=engine.recipe.model.batched)


def _write(engine: Engine, request: Request, target: Target, key: str, folder: Path) -> store.Manifest:
    """Build into `folder`, audit what was built, and describe it."""
    artifact = folder / target.artifact
    say(f"building for {target.name}")
    built = target.build(request, artifact)
    audited = audit(request.precisions, built.layers)
    if audited.lost:
        lost = "; ".join(f"{pin.node} (asked {pin.wanted}, found {pin.found})" for pin in audited.lost)
        raise LostPinError(
            f"{len(audited.lost)} pins did not hold in what was built, nothing was kept: {lost}"
        )
    wanted = [name for name, node in request.precisions.nodes.items() if node.precision != "fp32"]
    if wanted and len(audited.unlowered) == len(wanted):
        raise BuildError(
            f"none of the {len(wanted)} nodes meant for a lower precision has it in what was built: "
            "nothing was kept"
        )
    return manifest.compose(engine, request, built, audited, artifact, key)
