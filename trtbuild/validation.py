"""The golden check of a build: which model, samples and sides, and where its verdict is kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibrators.shards import ShardSet
from trtbuild import tables
from trtbuild.engine import Engine
from trtbuild.errors import InputError
from trtbuild.golden import check as golden
from trtbuild.golden import metric_file
from trtbuild.golden.activations import GIGABYTE, Activations, RecalledSide
from trtbuild.golden.scoring import Baseline
from trtbuild.golden.stored import check_place, open_stored, save
from trtbuild.golden.verdict import Verdict
from trtbuild.model.model import Model
from trtbuild.progress import say
from trtbuild.report.document import Checked, Drawn, samples_of
from trtbuild.ship import manifest, store
from trtbuild.ship.store import Build
from trtbuild.targets.base import Request, Side, Target
from trtbuild.targets.choose import by_name
from trtbuild.targets.scaled import as_in_file
from trtbuild.versions import version_of

VERDICT = "verdict.json"


@dataclass(frozen=True)
class Options:
    """golden: outputs that an earlier check kept with `save_golden`, in place of a golden run. baseline: a
    build that this one must not be worse than. draw: so many of the samples, drawn by `seed`, which is that
    of the confidence intervals too."""

    golden: Path | None = None
    save_golden: Path | None = None
    baseline: Build | None = None
    draw: int | None = None
    seed: int = 0


DEFAULT = Options()


def validate(engine: Engine, build: Build, how: Options = DEFAULT) -> Verdict:
    """The verdict of `check`."""
    return check(engine, build, how).verdict


def check(engine: Engine, build: Build, how: Options = DEFAULT) -> Checked:
    """The golden check of a build. A build in the store keeps the verdict beside it.

    Raises InputError for options that exclude each other or cannot be met, a model or samples that are not
    there or not those of the build, and whatever `golden.check.check` raises.
    """
    _check_options(how, build)
    model = Model.open(engine.model)
    for each in (build, how.baseline):
        if each is not None:
            _check_build(each, engine, model)
    every = tables.open_shards(engine.require_samples(), engine, model)
    shards, drawn = _drawn(every, engine, how)
    metric = metric_file.metric_of(engine)
    request, target = manifest.request_of(build, engine, model), _target(build)
    golden_side = open_stored(how.golden, model, every) if how.golden else _golden(engine, request, target)
    if how.save_golden is not None:
        save(how.save_golden, model, golden_side, every, build.manifest["target"])
    candidate = as_in_file(target.candidate(request, build.artifact), request.model)
    baseline = _baseline(engine, model, how.baseline)
    caveats = [side.caveat for side in (golden_side, candidate) if side.caveat]
    if baseline is not None and baseline.side.caveat:
        caveats.append(f"baseline {baseline.build}: {baseline.side.caveat}")
    for caveat in caveats:
        say(f"note: {caveat}")
    kept = _activations(engine, request, target, golden_side)
    verdict = golden.check(
        model,
        RecalledSide(golden_side, kept) if kept else golden_side,
        candidate,
        request.precisions,
        shards,
        metric,
        engine.recipe.validation,
        baseline,
        how.seed,
    )
    if kept is not None:
        kept.say_what_is_kept()
    checked = Checked(verdict, build, model, every, tuple(caveats), drawn)
    _keep_verdict(engine, checked)
    return checked


def _check_options(how: Options, build: Build) -> None:
    if how.baseline is not None and how.baseline.key == build.key:
        raise InputError(
            f"--baseline: {build.key} is the build that is checked; name the one in production by its key or "
            "its file"
        )
    if how.save_golden is None:
        return
    if how.golden is not None:
        raise InputError(
            f"--golden {how.golden} is not run, so there is nothing for --save-golden {how.save_golden} to "
            "keep; give one of them"
        )
    check_place(how.save_golden)


def _check_build(build: Build, engine: Engine, model: Model) -> None:
    if model.sha256 != build.manifest["model"]["sha256"]:
        raise InputError(f"{engine.model} is not the model that {build.key} was built from; build again")
    build.verify()


def _drawn(every: ShardSet, engine: Engine, how: Options) -> tuple[ShardSet, Drawn | None]:
    if how.draw is None:
        return every, None
    return tables.drawn(every, engine, how.draw, how.seed), Drawn(how.draw, how.seed)


def _target(build: Build) -> Target:
    facts = build.manifest["target"]
    return by_name(facts["target"], facts.get("mode"))


def _golden(engine: Engine, request: Request, target: Target) -> Side:
    return target.golden(request, _goldens(engine))


def _goldens(engine: Engine) -> Path | None:
    """Where golden engines and activations are kept."""
    return engine.builds / "golden" if engine.builds is not None else None


def _baseline(engine: Engine, model: Model, build: Build | None) -> Baseline | None:
    if build is None:
        return None
    request = manifest.request_of(build, engine, model)
    return Baseline(build.key, _target(build).candidate(request, build.artifact))


def _activations(engine: Engine, request: Request, target: Target, side: Side) -> Activations | None:
    """Where the golden's activations are kept: known by the model, and by what runs it."""
    folder, limit = _goldens(engine), engine.recipe.validation.golden_disk_gb
    if folder is None or not limit or side.shows == "outputs":
        return None
    depends: dict[str, Any] = {
        "model": request.model.sha256,
        "target": target.identity(request.recipe),
        "onnxruntime": version_of("onnxruntime"),
        "profiles": {name: profile.model_dump() for name, profile in request.profiles.items()},
    }
    return Activations(folder / "activations", depends, int(limit * GIGABYTE))


def _keep_verdict(engine: Engine, checked: Checked) -> None:
    """Beside a build of the engine's store, with what it was checked on."""
    folder = checked.build.artifact.resolve().parent
    if engine.builds is None or folder.parent != engine.builds.resolve():
        return
    document = {
        "schema_version": store.SCHEMA_VERSION,
        "build": checked.build.key,
        "caveat": "; ".join(checked.caveats) or None,
        "samples": samples_of(checked),
    }
    store.write_json(folder / VERDICT, {**document, **checked.verdict.to_dict()})
