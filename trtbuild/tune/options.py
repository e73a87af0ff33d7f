"""What a search is asked for, and whether it can be done."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from trtbuild import calibrate as calibration
from trtbuild.engine import Engine
from trtbuild.errors import InputError
from trtbuild.golden.metric_file import metric_of
from trtbuild.model.model import Model
from trtbuild.precision import rules
from trtbuild.precision.map import PrecisionMap
from trtbuild.progress import say
from trtbuild.targets.base import Target
from trtbuild.tune import latency
from trtbuild.tune.search import Limits


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
    scan: bool = False
    output: Path | None = None
    given: tuple[str, ...] = ()


DEFAULT = Options()


def own_precisions(engine: Engine, model: Model) -> PrecisionMap:
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


def budget_of(engine: Engine, options: Options) -> float | None:
    return engine.recipe.precision.budget if options.budget is None else options.budget


def limits_of(own: PrecisionMap, model: Model, engine: Engine, target: Target, options: Options) -> Limits:
    """Raises InputError where no pin is allowed, and for latencies that are needed and missing, or of another
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
    metric = metric_of(engine)
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


def _most(own: PrecisionMap, engine: Engine, options: Options) -> int:
    """How many of the lowerable nodes may be pinned. Raises InputError for a budget of none, one above that
    of the recipe, by which builds go, and one that the recipe's own pins exceed."""
    budget, of_recipe = budget_of(engine, options), engine.recipe.precision.budget
    if budget is None:
        return own.lowerable
    if not 0 <= budget <= 1:
        raise InputError(f"--budget {budget:g}: expected a share, 0 to 1")
    if of_recipe is not None and budget > of_recipe:
        raise InputError(
            f"--budget {budget:g} is above precision.budget, {of_recipe:g}, by which builds go; raise "
            f"that, or --set precision.budget={budget:g}, here and for builds"
        )
    rules.check_budget(own, budget)
    if budget == 0:
        raise InputError(
            f"a budget of 0 allows no pin; one of {own.lowerable} nodes is {1 / own.lowerable:.2%}: raise "
            "precision.budget, or --budget"
        )
    most = int(budget * own.lowerable + 1e-9)
    if most <= own.budgeted:
        say(f"note: a budget of {budget:g} leaves no pin, of {own.lowerable} nodes: settings only")
    return most
