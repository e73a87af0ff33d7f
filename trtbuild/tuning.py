"""`tune`: the search over one engine, put together, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trtbuild
from calibrators.shards import ShardSet
from trtbuild import calibrate as calibration
from trtbuild import finalists, tables
from trtbuild.collect.collect import ON_THIS_MACHINE
from trtbuild.collect.collect import Options as Collecting
from trtbuild.digest import of_json, sha256
from trtbuild.engine import Engine
from trtbuild.errors import InputError
from trtbuild.golden.metric_file import metric_of
from trtbuild.model.model import Model
from trtbuild.opened import open_model
from trtbuild.paths import check_writable
from trtbuild.precision import rules
from trtbuild.precision.map import PrecisionMap
from trtbuild.progress import say
from trtbuild.recipe import PrecisionSection, Thresholds
from trtbuild.recipe import tuned as tuned_file
from trtbuild.recipe.tuned import Setting
from trtbuild.targets.base import Target
from trtbuild.targets.sides import OnnxRuntimeSide, as_given
from trtbuild.tune.document import Document, Searched, comment_of, compose, tuned_of
from trtbuild.tune.explain import check_node, explained
from trtbuild.tune.held import HeldSide
from trtbuild.tune.journal import Journal
from trtbuild.tune.judge import Judge, Judgement
from trtbuild.tune.lab import Lab
from trtbuild.tune.options import DEFAULT, Options, budget_of, limits_of, own_precisions
from trtbuild.tune.reference import Reference
from trtbuild.tune.search import SCANNED, Search, described, sensitivity
from trtbuild.tune.trial import Trial
from trtbuild.versions import version_of

DRAW = 64
FOLDER = "tune"
READ = (".csv", ".json", ".npy", ".py", ".txt", ".yaml", ".yml")
"""Files beside the recipe that the metric may read, or import."""
ALGORITHM = 1
"""Of what is measured: a journal of another one is not gone on with."""


def tune(
    engine: Engine, target: Target, options: Options = DEFAULT, how: Collecting = ON_THIS_MACHINE
) -> Document:
    """Search for the fewest pins with which a build of `engine` passes its gate, and write them down.

    The recipe's own pins stay. Trials are run in ONNX Runtime; on target tensorrt the best of them are then
    built and checked as engines, where a GPU is there. Implicit mode, which cannot make the repairs, is
    offered none. Returns the document that `tune --json` prints.
    Raises InputError for an engine without a store, a model or recipe that leaves nothing to search for,
    samples or a metric that cannot be used. KeyboardInterrupt comes through after the best so far was said,
    and written where it passes the gate and nothing was there.
    """
    place = _place(engine, options)
    model = Model.open(engine.model)
    own = own_precisions(engine, model)
    _say_notes(engine, own, options)
    limits = limits_of(own, model, engine, target, options)
    every = tables.open_shards(engine.require_samples(), engine, model)
    draw = _draw(every, engine, options)
    metric, section = metric_of(engine), engine.recipe.validation
    judge = Judge(model, HeldSide(as_given(model)), every, metric, section, options.seed)
    with _journal(engine, model, every, options) as journal:
        reference = _check_reference(judge, model, journal, options)
        lab = Lab(engine, model, _reference(engine, model, draw), how)
        if options.score:
            lab.check_score()
        own_setting = Setting.of(engine.recipe.calibration)
        if target.implicit:  # it cannot make repairs, those of the recipe neither
            own_setting = Setting(method=own_setting.method)
        search = Search(lab, judge, journal, own_setting, limits)
        searched = Searched(
            engine=engine.name,
            target=target.name,
            model=model,
            samples=every.samples,
            draw=lab.reference.samples,
            seed=options.seed,
            metric=metric.name if metric else None,
            golden=reference.figure,
            max_drop=section.max_drop,
            lowerable=own.lowerable,
            own=own.budgeted,
            budget=budget_of(engine, options),
            most=limits.most,
            latencies=limits.latencies,
            given=options.given,
        )
        with _said_when_interrupted(search, searched, place):
            search.run()
            search.findings.engines = finalists.checked(target, lab, search.findings)
        written = _written(compose(searched, search.findings, interrupted=False), place)
        best = search.findings.best
        if best is not None and (options.scan or options.score or search.findings.pins_tried):
            trial = best.trial.with_pins(())
            search.findings.sensitivity = sensitivity(lab, journal, trial, limits.score)
    return {**compose(searched, search.findings, interrupted=False), "written": written}


def explain(
    engine: Engine, node: str, options: Options = DEFAULT, how: Collecting = ON_THIS_MACHINE
) -> Document:
    """What is known of one node in a build of `engine`: how sensitive it is, beside all the others, and what
    it reads. Returns the document that `tune --explain NODE --json` prints.

    Raises InputError for a node that is not there or never in int8, and as `tune` does.
    """
    model = open_model(engine)
    own_precisions(engine, model)
    check_node(model, node)
    every = tables.open_shards(engine.require_samples(), engine, model)
    draw = _draw(every, engine, options)
    with _journal(engine, model, every, options) as journal:
        lab = Lab(engine, model, _reference(engine, model, draw), how)
        trial = Trial(Setting.of(engine.recipe.calibration))
        metric = metric_of(engine) if options.score else None
        if metric is not None:
            lab.check_score()
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


def _say_notes(engine: Engine, own: PrecisionMap, options: Options) -> None:
    """What of the recipe is not searched, and what builds do not know of."""
    if engine.recipe.validation.layers != Thresholds():
        say("note: [validation.layers] is not looked at here: validate does")
    if options.given:
        say(f"note: what is found is found with {' '.join(options.given)}; builds need the same")
    if own.budgeted:
        say(
            f"note: the recipe's own pins stay, {own.budgeted} nodes; take them out to have them searched for"
        )


def _draw(every: ShardSet, engine: Engine, options: Options) -> ShardSet:
    count = min(DRAW, every.samples) if options.draw is None else options.draw
    return tables.drawn(every, engine, count, options.seed)


def _journal(engine: Engine, model: Model, every: ShardSet, options: Options) -> Journal:
    """That of everything that what is measured depends on. The budget, and when to stop, are not part of
    it."""
    assert engine.builds is not None, "see _place"
    recipe = engine.recipe
    reads = sorted(path for path in engine.folder.iterdir() if path.suffix in READ and path.is_file())
    files = [*reads, *([engine.labels] if engine.labels else [])]
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
    key = of_json(depends)[:16]
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
        if place.exists():
            say(f"{place} stays as it was")
        elif best.judgement.passed:
            _written(compose(searched, search.findings, interrupted=True), place)
        raise


def _written(document: Document, place: Path) -> str | None:
    """Write what was found, and return where; but what fails the gate over nothing that passes it."""
    found = tuned_of(document)
    if document["outcome"] == "failed" and place.exists():
        before = tuned_file.load(place).origin
        if before.outcome.startswith("passed") and before.model == found.origin.model:
            say(
                f"note: what was found fails the gate, and {place} passed it: that stays; -o writes elsewhere"
            )
            return None
    tuned_file.write(place, found, list(comment_of(document)))
    say(f"written: {place}")
    return str(place)
