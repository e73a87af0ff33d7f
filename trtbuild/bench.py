"""FP32, FP16, INT8 and mixed side by side: built, and timed on the GPU, in one process."""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from calibrators.shards import ShardSet
from trtbuild import pipeline, tables
from trtbuild.batches import one_batch
from trtbuild.engine import Engine
from trtbuild.errors import BuildError, InputError, TrtbuildError
from trtbuild.model.model import Model
from trtbuild.precision import rules
from trtbuild.precision.map import PrecisionMap
from trtbuild.profiles import profiles_of
from trtbuild.progress import say
from trtbuild.recipe import InputSection, Precision, Recipe
from trtbuild.targets.audit import Audit, audit
from trtbuild.targets.base import Layer, Request, Target
from trtbuild.targets.choose import choose
from trtbuild.targets.layer_times import LayerTimes, Profiled, layer_times
from trtbuild.targets.trt import profiling, timing

PLAIN: dict[str, Precision] = {"fp32": "fp32", "fp16": "fp16", "int8": "int8"}
"""What is built without pins, and its default precision; "mixed" is the recipe as it is."""
REFERENCES = ("fp32", "fp16")
"""What the others are compared with: one that cannot be built is left out."""
PROFILED = ("fp32", "int8")
"""Whose layers are timed, where that is asked for."""
ITERATIONS, WARMUP = 200, 50
SHORTEST_MS = 0.0005  # what CUDA events can tell apart
TIMED = "device time between CUDA events: inputs lie on the GPU before, outputs stay there"


@dataclass(frozen=True)
class Figures:
    """Of all iterations of one engine, in milliseconds; samples per second at the median."""

    median_ms: float
    p99_ms: float
    mean_ms: float
    samples_per_second: float


@dataclass(frozen=True)
class Timed:
    """One engine. `speedup`: FP32's median over its own; None without FP32. `layers`: how many have which
    precision. `lowered` of the `meant` nodes have the lower precision that they were meant for."""

    figures: Figures
    speedup: float | None
    engine_bytes: int
    layers: dict[str, int]
    lowered: int
    meant: int
    lost_pins: int


@dataclass(frozen=True)
class Bench:
    """`model`: its SHA-256. `inputs`: what was fed. `method`: "graph" (CUDA graph replay), or "enqueue" where
    `not_captured` says why not. `not_built`: the reference -> why. `layers`: of PROFILED, where asked for."""

    engine: str
    model: str
    target: dict[str, Any]
    samples: int
    shapes: dict[str, tuple[int, ...]]
    inputs: str
    iterations: int
    warmup: int
    method: str
    not_captured: str | None
    engines: dict[str, Timed]
    not_built: dict[str, str]
    layers: LayerTimes | None

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "timed": TIMED}


class _Made(NamedTuple):
    """An engine that was built, and what was read back from it."""

    audit: Audit
    layers: tuple[Layer, ...]


def bench(
    engine: Engine,
    batch: int | None = None,
    iterations: int = ITERATIONS,
    warmup: int = WARMUP,
    layers: bool = False,
) -> Bench:
    """Build the four engines for TensorRT, and time them in turns at OPT shapes, or with `batch` samples.

    layers: then time the layers of PROFILED too. Raises MachineError where there is no GPU or no TensorRT,
    InputError for a batch outside the profile, and what a build raises, unless it is that of a reference
    whose layers are not wanted.
    """
    if iterations < 1 or warmup < 0:
        raise InputError(f"{iterations} iterations and {warmup} to warm up: expected at least 1 and 0")
    target = choose("tensorrt", engine.recipe.tensorrt.mode)
    model, mixed = pipeline.pins(engine, target)
    shards = _shards(engine, model)
    profiles = profiles_of(model.inputs, engine.recipe.inputs, shards)
    fed = one_batch(model.inputs, profiles, shards, engine.recipe.model.batched, batch)
    requests = _requests(engine, model, mixed, profiles, target)
    with tempfile.TemporaryDirectory(prefix="trtbuild-") as folder:
        plans = {name: Path(folder) / f"{name}.plan" for name in requests}
        made, not_built = _build(requests, plans, target, PROFILED if layers else ())
        timings = timing.time_plans({name: plans[name] for name in made}, fed.feeds, warmup, iterations)
        sizes = {name: plans[name].stat().st_size for name in made}
        profiled = {
            name: profiling.profile_plan(name, plans[name], fed.feeds, warmup, iterations)
            for name in (PROFILED if layers else ())
        }
    figures = {name: figures_of(times, fed.samples) for name, times in timings.milliseconds.items()}
    fp32 = figures.get("fp32")
    engines = {
        name: Timed(
            figures=figures[name],
            speedup=fp32.median_ms / max(figures[name].median_ms, SHORTEST_MS) if fp32 else None,
            engine_bytes=sizes[name],
            layers=built.audit.histogram,
            lowered=_meant(requests[name].precisions, built.audit) - len(built.audit.unlowered),
            meant=_meant(requests[name].precisions, built.audit),
            lost_pins=len(built.audit.lost),
        )
        for name, built in made.items()
    }
    return Bench(
        engine=engine.name,
        model=model.sha256,
        target=target.identity(engine.recipe),
        samples=fed.samples,
        shapes={name: array.shape for name, array in fed.feeds.items()},
        inputs=fed.source,
        iterations=iterations,
        warmup=warmup,
        method=timings.method,
        not_captured=timings.not_captured,
        engines=engines,
        not_built=not_built,
        layers=_layer_times(profiled, made, mixed) if profiled else None,
    )


def figures_of(milliseconds: Sequence[float], samples: int) -> Figures:
    """Statistics over the iterations of one engine that takes `samples` at a time."""
    median = statistics.median(milliseconds)
    return Figures(
        median_ms=median,
        p99_ms=percentile(milliseconds, 99),
        mean_ms=statistics.fmean(milliseconds),
        samples_per_second=1000 * samples / max(median, SHORTEST_MS),
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of the values that at least `percent` of them do not exceed."""
    return sorted(values)[max(math.ceil(percent * len(values) / 100), 1) - 1]


def _shards(engine: Engine, model: Model) -> ShardSet | None:
    """The calibration shards; None where a folder of an engine came without them."""
    if engine.shards is None or (engine.builds is not None and not engine.shards.is_dir()):
        return None
    return tables.open_shards(engine.shards, engine, model)


def _requests(
    engine: Engine,
    model: Model,
    mixed: PrecisionMap,
    profiles: Mapping[str, InputSection],
    target: Target,
) -> dict[str, Request]:
    """What to build. They differ in precisions and in the recipe that says so, and in nothing else; biases
    are not corrected, which changes no latency."""
    ranges = tables.Ranges(None, None, None) if model.quantized else tables.ranges_of(engine, model, target)
    model = ranges.equalized or model
    as_it_is = Request(model, mixed, ranges.table, profiles, engine.recipe, ranges.calibration)
    plain = {}
    for name, default in PLAIN.items():
        recipe = _unpinned(engine.recipe, default)
        precisions = rules.resolve(model, recipe.precision, recipe.pin, target.implicit)
        plain[name] = replace(as_it_is, precisions=precisions, recipe=recipe)
    return {**plain, "mixed": as_it_is}


def _unpinned(recipe: Recipe, default: Precision) -> Recipe:
    precision = recipe.precision.model_copy(update={"default": default})
    return recipe.model_copy(update={"precision": precision, "pin": ()})


def _build(
    requests: Mapping[str, Request], plans: Mapping[str, Path], target: Target, wanted: Collection[str]
) -> tuple[dict[str, _Made], dict[str, str]]:
    """Write the plans; returns what was built, and why a reference was not that is not `wanted`."""
    made: dict[str, _Made] = {}
    not_built = {}
    table = None
    for name, request in requests.items():
        say(f"building {name}")
        try:
            _check(request, name)
            built = target.build(replace(request, table=request.table or table), plans[name])
            audited = audit(request.precisions, built.layers)
            _check_lowered(request.precisions, audited)
        except TrtbuildError as error:
            if name not in REFERENCES or name in wanted:
                raise
            say(f"note: no {name}: {error}")
            not_built[name] = str(error)
        else:
            made[name] = _Made(audited, built.layers)
            table = table or built.table  # where TensorRT finds the ranges, it does so once
    return made, not_built


def _layer_times(
    profiled: Mapping[str, profiling.Profile], made: Mapping[str, _Made], precisions: PrecisionMap
) -> LayerTimes:
    """The layers that a build shows are those of the engine, or, in explicit mode, of the network; then the
    engine's metadata has the nodes."""
    engines = {
        name: Profiled(profile.milliseconds, (*made[name].layers, *profile.layers))
        for name, profile in profiled.items()
    }
    return layer_times(engines, precisions)


def _check(request: Request, name: str) -> None:
    if request.model.quantized and name in REFERENCES:
        raise InputError("the model brings its own Q/DQ, which stay")
    rules.check_lowers(request.precisions)


def _check_lowered(precisions: PrecisionMap, audited: Audit) -> None:
    meant = _meant(precisions, audited)
    if meant and len(audited.unlowered) == meant:
        raise BuildError(f"none of the {meant} nodes meant for a lower precision has it")


def _meant(precisions: PrecisionMap, audited: Audit) -> int:
    """How many nodes were meant for a lower precision than float32, and have a layer at all."""
    return sum(precisions[name] != "fp32" and name not in audited.removed for name in precisions.nodes)
