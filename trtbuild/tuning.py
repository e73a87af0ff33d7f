"""`tune`: the search over one engine, put together, and what it leaves behind."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trtbuild
from calibrators.errors import CalibratorError
from calibrators.shards import ShardSet
from trtbuild import calibrate as calibration
from trtbuild import tables, validation
from trtbuild.collect.collect import ON_THIS_MACHINE
from trtbuild.collect.collect import Options as Collecting
from trtbuild.digest import sha256
from trtbuild.engine import Engine
from trtbuild.errors import InputError
from trtbuild.model.model import Model
from trtbuild.opened import open_model
from trtbuild.paths import check_writable
from trtbuild.precision import rules
from trtbuild.precision.map import PrecisionMap
from trtbuild.progress import say
from trtbuild.recipe import PrecisionSection
from trtbuild.recipe import tuned as tuned_file
from trtbuild.recipe.tuned import Setting
from trtbuild.targets.base import Target
from trtbuild.targets.sides import OnnxRuntimeSide, as_given
from trtbuild.tune import latency
from trtbuild.tune.document import Document, Searched, comment_of, compose, tuned_of
from trtbuild.tune.explain import check_node, explained
from trtbuild.tune.held import HeldSide
from trtbuild.tune.journal import Journal
from trtbuild.tune.judge import Judge, Judgement
from trtbuild.tune.lab import Lab
from trtbuild.tune.reference import Reference
from trtbuild.tune.search import SCANNED, Limits, Search, described, sensitivity
from trtbuild.tune.trial import Trial
from trtbuild.versions import version_of

DRAW = 64
FOLDER = "tune"
ALGORITHM = 1
"""Of what is measured: a journal of another one is not gone on with."""


@dataclass(frozen=True)
class Options:
    """draw: so many of the validation samples tell the errors (None: 64, or all); seed: of the draw and of
    confidence intervals. budget: share of the lowerable nodes that may be pinned; None: the recipe's. margin:
    the gate is to be passed with one. repairs: equalization and bias correction may be tried. score: tell the
    metric of each node too. latency: a document of `bench --layers`; budget_ms: what the pins may cost by it;
    by_latency: choose them by what they cost. output: where to write what was found; None: beside the recipe,
    where builds read it."""

    draw: int | None = None
    seed: int = 0
    budget: float | None = None
    margin: bool = True
    repairs: bool = True
    score: bool = False
    latency: Path | None = None
    budget_ms: float | None = None
    by_latency: bool = False
    output: Path | None = None


DEFAULT = Options()


def tune(
    engine: Engine, target: Target, options: Options = DEFAULT, how: Collecting = ON_THIS_MACHINE
) -> Document:
    """Search for the fewest pins with which a build of `engine` passes its gate, and write them down.

    The recipe's own pins stay. Trials are run in ONNX Runtime whatever the target; implicit mode, which
    cannot make the repairs, is offered none. Returns the document that `tune --json` prints.
    Raises InputError for an engine without a store, a model or recipe that leaves nothing to search for,
    samples or a metric that cannot be used. KeyboardInterrupt comes through after the best so far was said,
    and written where it passes the gate and nothing was there.
    """
    place = _place(engine, options)
    model = Model.open(engine.model)
    own = _own(engine, model)
    limits = _limits(own, model, engine, target, options)
    every = tables.open_shards(engine.require_samples(), engine, model)
    draw = _draw(every, engine, options)
    metric, section = validation.metric_of(engine), engine.recipe.validation
    judge = Judge(model, HeldSide(as_given(model)), every, metric, section, options.seed)
    with _journal(engine, model, every, options) as journal:
        reference = _check_reference(judge, model, journal, options)
        lab = Lab(engine, model, _reference(engine, model, draw), how)
        search = Search(lab, judge, journal, Setting.of(engine.recipe.calibration), limits)
        searched = Searched(
            engine=engine.name,
            target=target.name,
            model=model,
            samples=every.samples,
            draw=draw.samples,
            seed=options.seed,
            metric=metric.name if metric else None,
            golden=reference.figure,
            max_drop=section.max_drop,
            lowerable=own.lowerable,
            own=own.budgeted,
            budget=_budget(engine, options),
            most=limits.most,
            latencies=limits.latencies,
        )
        with _said_when_interrupted(search, searched, place):
            search.run()
    document = compose(searched, search.findings, interrupted=False)
    return _written(document, place)


def explain(
    engine: Engine, node: str, options: Options = DEFAULT, how: Collecting = ON_THIS_MACHINE
) -> Document:
    """What is known of one node in a build of `engine`: how sensitive it is, beside all the others, and what
    it reads. Returns the document that `tune --explain NODE --json` prints.

    Raises InputError for a node that is not there or never in int8, and as `tune` does.
    """
    model = open_model(engine)
    _own(engine, model)
    check_node(model, node)
    every = tables.open_shards(engine.require_samples(), engine, model)
    draw = _draw(every, engine, options)
    with _journal(engine, model, every, options) as journal:
        lab = Lab(engine, model, _reference(engine, model, draw), how)
        trial = Trial(Setting.of(engine.recipe.calibration))
        metric = validation.metric_of(engine) if options.score else None
        found = sensitivity(lab, journal, trial, metric)
        return {
            "engine": engine.name,
            **explained(node, lab.base(trial), found, lab.reference.first(SCANNED)),
        }


def _reference(engine: Engine, model: Model, draw: ShardSet) -> Reference:
    axes = {name: engine.recipe.validation.class_axis_of(name) for name in model.checked_outputs}
    return Reference.of(model, draw, axes)


def _place(engine: Engine, options: Options) -> Path:
    """Where what is found will be written. Raises InputError, before hours of searching, where it cannot
    be."""
    if engine.builds is None:
        raise InputError(
            f"{engine.model}: tune writes its pins beside a recipe.toml; name a folder that has one"
        )
    place = options.output or engine.folder / tuned_file.NAME
    check_writable(place, "--output" if options.output else "tune")
    tuned_file.check_replaceable(place)
    return place


def _own(engine: Engine, model: Model) -> PrecisionMap:
    """What the recipe itself says of every node. Raises InputError where that leaves nothing to search
    for."""
    section = engine.recipe.precision
    if section.default != "int8":
        raise InputError(
            f"tune looks for the pins of an int8 build, and precision.default is {section.default}; "
            "--set precision.default=int8"
        )
    calibration.require_float(model)
    own = rules.resolve(model, section, engine.recipe.pin)
    rules.check_lowers(own)
    return own


def _budget(engine: Engine, options: Options) -> float | None:
    return engine.recipe.precision.budget if options.budget is None else options.budget


def _most(own: PrecisionMap, engine: Engine, options: Options) -> int:
    """How many of the lowerable nodes may be pinned. Raises InputError where that is none, or the recipe's
    own pins are more."""
    budget = _budget(engine, options)
    if budget is None:
        return own.lowerable
    rules.check_budget(own, budget)
    most = int(budget * own.lowerable + 1e-9)
    if most == 0:
        raise InputError(
            f"a budget of {budget:g} allows no pin: one of {own.lowerable} nodes is {1 / own.lowerable:.2%}; "
            "raise precision.budget, or --budget"
        )
    return most


def _limits(own: PrecisionMap, model: Model, engine: Engine, target: Target, options: Options) -> Limits:
    """Raises InputError as `_most` does, and for latencies that are needed and missing, or of another
    model."""
    if options.latency is None and (options.by_latency or options.budget_ms is not None):
        asked = "--by latency" if options.by_latency else "--budget-ms"
        raise InputError(
            f"{asked} goes by measured milliseconds: give --latency FILE, which `trtbuild bench "
            f"{engine.name} --layers -o FILE` writes on the GPU"
        )
    latencies = latency.load(options.latency) if options.latency is not None else None
    if latencies is not None:
        latencies.check(model)
        latencies.cost_of([name for name, node in own.nodes.items() if node.lowered_by_default])
    metric = validation.metric_of(engine)
    if options.score and metric is None:
        raise InputError("--score needs a metric; give validation.metric, labels and max_drop in the recipe")
    return Limits(
        most=_most(own, engine, options),
        margin=options.margin,
        repairs=options.repairs and not target.implicit,
        latencies=latencies,
        most_ms=math.inf if options.budget_ms is None else options.budget_ms,
        by_latency=options.by_latency,
        score=metric if options.score else None,
    )


def _draw(every: ShardSet, engine: Engine, options: Options) -> ShardSet:
    count = min(DRAW, every.samples) if options.draw is None else options.draw
    try:
        return every.drawn(count, options.seed)
    except CalibratorError as error:
        raise InputError(f"--draw {count}: {engine.samples} has {every.samples} samples") from error


def _journal(engine: Engine, model: Model, every: ShardSet, options: Options) -> Journal:
    """That of everything that what is measured depends on. The budget, and when to stop, are not part of
    it."""
    assert engine.builds is not None, "see _place"
    recipe = engine.recipe
    files = [engine.labels] if engine.labels else []
    if recipe.validation.metric:
        files.append(engine.folder / recipe.validation.metric.rpartition(":")[0])
    shards = tables.open_shards(engine.require_shards(), engine, model)
    depends = {
        "algorithm": ALGORITHM,
        "trtbuild": trtbuild.__version__,
        "onnxruntime": version_of("onnxruntime"),
        "model": model.sha256,
        "recipe": recipe.model_dump(mode="json", exclude={"precision": {"budget"}}),
        "shards": calibration.samples_of(shards),
        "samples": calibration.samples_of(every),
        "metric": sha256(files),
        "draw": options.draw,
        "seed": options.seed,
    }
    key = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]
    return Journal(engine.builds / FOLDER / f"{key}.jsonl", key)


def _check_reference(judge: Judge, model: Model, journal: Journal, options: Options) -> Judgement:
    nothing = rules.resolve(model, PrecisionSection(default="fp32"), ())
    side = OnnxRuntimeSide("float model", model.normalised, cut=bool(model.unrunnable))
    return journal.recall(
        "reference",
        options.margin,
        lambda: judge.check_reference(side, nothing, options.margin),
        Judgement.to_dict,
        Judgement.from_dict,
    )


@contextmanager
def _said_when_interrupted(search: Search, searched: Searched, place: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        best = search.findings.best
        if best is None:
            say("nothing was judged yet; what was measured is kept, run tune again to go on")
            raise
        say(f"best so far: trial {best.number}, {described(best)}; run tune again to go on")
        if best.judgement.passed and not place.exists():
            _written(compose(searched, search.findings, interrupted=True), place)
        raise


def _written(document: Document, place: Path) -> Document:
    tuned_file.write(place, tuned_of(document), list(comment_of(document)))
    say(f"written: {place}")
    return {**document, "written": str(place)}
