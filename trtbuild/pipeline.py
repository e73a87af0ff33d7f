"""The one composition of the steps, shared by the CLI and by Python programs."""

from __future__ import annotations

import datetime
import shutil
import tempfile
from pathlib import Path
from typing import Any

import trtbuild
from calibrators.errors import CalibratorError, TableError
from calibrators.shards import ShardSet
from calibrators.table import RangeTable, TableKey, cache_header
from trtbuild import calibrate as calibration
from trtbuild.engine import BUILDS, ENGINES, Engine, engine_folder, no_such, open_engine
from trtbuild.errors import InputError, LostPinError, MachineError, one_line
from trtbuild.golden import check as golden
from trtbuild.golden import metric_file
from trtbuild.golden.gate import Verdict
from trtbuild.model import files as onnx_files
from trtbuild.model.model import Model
from trtbuild.precision import rules
from trtbuild.precision.map import PrecisionMap
from trtbuild.profiles import profiles_of
from trtbuild.progress import say
from trtbuild.recipe import InputSection
from trtbuild.rewrite.explicit import ranges_needed
from trtbuild.ship import store
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
    shards = ShardSet.open(engine.require_shards(), model.inputs)
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
    _check_destination(engine, output)
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

    Raises LostPinError when a pin did not hold: nothing is stored then.
    """
    target = choose(target_name)
    if target_name == "auto":
        say(f"target auto: {target.name}")
    _check_output(engine, target, output)
    model, precisions = pins(engine)
    rules.check_budget(precisions, engine.recipe.precision.budget)
    request = _request(engine, model, precisions)
    key = store.key_of(_identity(request, target))
    if engine.builds is None:
        assert output is not None
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=output.parent) as folder:
            built = store.publish(
                Path(folder), key, lambda staging: _write(engine, request, target, key, staging)
            )
            _export(built, output)
        return store.read_output(output)
    built_before = store.find(key, engine.builds)
    if built_before is not None:
        built_before.verify()
        store.mark_newest(built_before)
        say(f"build: {built_before.artifact.parent}, built before")
    built = built_before or store.publish(
        engine.builds, key, lambda staging: _write(engine, request, target, key, staging)
    )
    if output is not None:
        _export(built, output)
    return built


def validate(engine: Engine, build: Build) -> Verdict:
    """The golden check of a build. A build in the store keeps the verdict beside it."""
    section = engine.recipe.validation
    model = Model.open(engine.model)
    if model.sha256 != build.manifest["model"]["sha256"]:
        raise InputError(f"{engine.model} is not the model that {build.key} was built from; build again")
    build.verify()
    shards = ShardSet.open(engine.require_samples(), model.inputs)
    metric = None
    if section.metric is not None and engine.labels is not None:
        metric = metric_file.load(section.metric, engine.folder, engine.labels)
    request = _request_of(build, engine, model)
    candidate, caveat = by_name(build.manifest["target"]["target"]).candidate(request, build.artifact)
    if caveat:
        say(f"note: {caveat}")
    verdict = golden.check(model, candidate, request.precisions, shards, metric, section)
    if engine.builds is not None and build.artifact.resolve().parent.parent == engine.builds.resolve():
        document = {"schema_version": store.SCHEMA_VERSION, "build": build.key, "caveat": caveat}
        store.write_json(build.artifact.parent / VERDICT, {**document, **verdict.to_dict()})
    return verdict


def find_build(reference: str, key: str | None = None) -> Build:
    """The build that `reference` names; of an engine the newest one, or the one that `key` names.

    A build is named by its folder, the beginning of its key, or the file that `-o` wrote; an engine
    goes before a key that begins like its name.
    Raises InputError when there is none.
    """
    folder = engine_folder(reference)
    if folder is None:
        stores = [Path(BUILDS), *sorted(ENGINES.glob(f"*/{BUILDS}"))]
        build = _named_build(Path(reference)) or store.find(reference, *stores)
        if build is not None and key is None:
            return build
        if build is not None:
            raise InputError(f"{reference} is a build itself; --build {key} needs an engine before it")
        if reference.endswith(".onnx"):
            raise InputError(f"{reference} is no build; name a file that `trtbuild build -o` wrote")
        raise no_such(
            reference, "a build's folder", "the beginning of a key", "a file that -o wrote", "an engine"
        )
    if key is None:
        return store.newest(folder / BUILDS)
    build = _named_build(Path(key)) or store.find(key, folder / BUILDS)
    if build is None:
        raise InputError(f"{folder / BUILDS}: no build whose key begins with {key!r}")
    return build


def engine_of(
    build: Build, reference: str, overrides: tuple[str, ...] = (), samples: Path | None = None
) -> Engine:
    """The engine that `reference` names; where it names a build, the engine around that build's store,
    else the one that it was built from. Raises InputError when that is no longer there.
    """
    if engine_folder(reference) is not None:
        return open_engine(reference, overrides, samples=samples)
    artifact = build.artifact.resolve()
    source = build.manifest["source"]
    if artifact.parent.parent.name == BUILDS and engine_folder(str(artifact.parents[2])) is not None:
        source = str(artifact.parents[2])
    if not Path(source).exists():
        raise InputError(f"{build.artifact} was built from {source}, which is not here")
    return open_engine(source, overrides, samples=samples)


def _named_build(path: Path) -> Build | None:
    if (path / store.MANIFEST).is_file():
        return store.read(path)
    return store.read_output(path) if path.name and store.manifest_of(path).is_file() else None


def inspect(build: Build) -> dict[str, Any]:
    """What was built: the target's facts, sizes, audit, and every layer with its real precision."""
    manifest = build.manifest
    keys = ("key", "engine", "created", "target", "artifact", "audit", "layers")
    pinned = manifest["precision"]["pinned"]
    return {**{name: manifest[name] for name in keys}, "pinned": pinned}


def _request(engine: Engine, model: Model, precisions: PrecisionMap) -> Request:
    needs_table = not model.quantized and any(n.precision == "int8" for n in precisions.nodes.values())
    table = calibrate(engine, model)[0] if needs_table else None
    shards = None
    if engine.shards is not None and (engine.builds is None or engine.shards.is_dir()):
        shards = ShardSet.open(engine.shards, model.inputs)
    profiles = profiles_of(model.inputs, engine.recipe.inputs, shards)
    return Request(model, precisions, table, profiles, engine.recipe)


def _request_of(build: Build, engine: Engine, model: Model) -> Request:
    """The request that a stored build was made from, read back from its manifest."""
    manifest = build.manifest
    try:
        return Request(
            model=model,
            precisions=PrecisionMap.from_dict(manifest["precision"]),
            table=RangeTable.from_dict(manifest["ranges"]) if manifest["ranges"] else None,
            profiles={name: InputSection(**shapes) for name, shapes in manifest["profiles"].items()},
            recipe=engine.recipe,
        )
    except (KeyError, TypeError, AttributeError, ValueError, CalibratorError) as error:
        raise build.damaged(f"{type(error).__name__}: {one_line(error)}") from error


def _identity(request: Request, target: Target) -> dict[str, Any]:
    """Everything that decides the bytes of a build."""
    return {
        "trtbuild": trtbuild.__version__,
        "model": request.model.sha256,
        "precision": {name: node.precision for name, node in request.precisions.nodes.items()},
        "pinned": request.precisions.pinned,
        "ranges": request.table.to_dict() if request.table else None,
        "profiles": {name: shapes.model_dump() for name, shapes in request.profiles.items()},
        "target": target.identity(request.recipe),
    }


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
    model = request.model
    return {
        "schema_version": store.SCHEMA_VERSION,
        "key": key,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(),
        "trtbuild": trtbuild.__version__,
        "engine": engine.name,
        "source": str((engine.folder if engine.builds else engine.model).resolve()),
        "model": {
            "path": str(model.path.resolve()),
            "sha256": model.sha256,
            "opset": model.normalisation.opset_before,
            "normalised_opset": model.normalisation.opset_after,
            "renamed_nodes": model.normalisation.renamed,
            "not_calibrated": model.unrunnable,
            "quantized": model.quantized,
        },
        "target": built.facts,
        "profiles": {name: shapes.model_dump() for name, shapes in request.profiles.items()},
        "precision": request.precisions.to_dict(),
        "ranges": request.table.to_dict() if request.table else None,
        "audit": audited.to_dict(),
        "layers": [vars(layer) for layer in built.layers],
        "artifact": store.describe(artifact),
    }


def _check_output(engine: Engine, target: Target, output: Path | None) -> None:
    """Fail before the work, not after it: nowhere to write to, or a name that promises another thing."""
    _check_destination(engine, output)
    if output is None:
        return
    promises_model, builds_model = output.suffix == ".onnx", target.artifact.endswith(".onnx")
    if builds_model and not promises_model:
        raise MachineError(
            f"-o {output} promises an engine, but target {target.name} writes an explicit ONNX model; "
            "use --target tensorrt-rtx (pip install 'trtbuild[rtx]'), or a name ending in .onnx"
        )
    if promises_model and not builds_model:
        raise InputError(f"-o {output} promises an ONNX model, but target {target.name} writes an engine")


def _check_destination(engine: Engine, output: Path | None) -> None:
    if output is None:
        if engine.builds is None:
            raise InputError(f"{engine.model}: a bare model has no builds folder; say where to write with -o")
        return
    if output.resolve() == engine.model.resolve():
        raise InputError(f"-o {output} would overwrite the model itself")
    try:
        with tempfile.TemporaryFile(dir=output.parent):
            pass
    except OSError as error:
        raise InputError(f"-o {output}: cannot write into {output.parent}: {error.strerror}") from error
    if output.is_dir():
        raise InputError(f"-o {output} is a folder; give a file name")


def _export(build: Build, output: Path) -> None:
    """Write a build's artifact and manifest to `output` and `<output>.json`: complete, then renamed."""
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=output.parent) as folder:
        copy = Path(folder) / output.name
        if onnx_files.data_of(build.artifact).is_file():
            onnx_files.save(onnx_files.read(build.artifact), copy)
        else:
            shutil.copyfile(build.artifact, copy)
        store.write_json(store.manifest_of(copy), {**build.manifest, "artifact": store.describe(copy)})
        for file in (onnx_files.data_of(copy), copy, store.manifest_of(copy)):
            if file.is_file():
                file.replace(output.with_name(file.name))
