"""Where a trial becomes a model: its ranges, its repairs, its pins; and how far that one is from the float
model."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from trtbuild import tables
from trtbuild.collect.collect import Options
from trtbuild.corrections import corrections_of
from trtbuild.digest import of_json
from trtbuild.engine import Engine
from trtbuild.errors import InputError
from trtbuild.golden.metric_file import Metric
from trtbuild.model import files
from trtbuild.model.graph import node_name
from trtbuild.model.model import Model
from trtbuild.model.scaling import to_json
from trtbuild.names import exactly
from trtbuild.precision import rules
from trtbuild.precision.map import PrecisionMap
from trtbuild.ranges.weights import fold_weights
from trtbuild.recipe import Pin
from trtbuild.recipe.tuned import Setting
from trtbuild.rewrite.cut import with_outputs
from trtbuild.rewrite.explicit import explicit
from trtbuild.tables import Ranges
from trtbuild.targets.base import Side
from trtbuild.targets.session import Tensors, infer, runner
from trtbuild.targets.sides import OnnxRuntimeSide
from trtbuild.targets.simulation import Simulation
from trtbuild.tune.flips import Base, Flip, Score, flip_between
from trtbuild.tune.reference import Reference
from trtbuild.tune.sensitivity import Sensitivity, scan
from trtbuild.tune.trial import Trial

KEPT_BYTES = 2e9
"""What the models of settings may take that are held for when the same setting comes again."""

RESOLVED = 128
"""Sets of pins whose precisions are held: those of one more pin are asked for by several settings in turn."""


class Lab:
    """Makes trials of one engine into models that ONNX Runtime runs. Ranges, equalization and bias
    corrections are those that a build of the same recipe takes, from the engine's store where it has them.

    reference: the samples that errors are taken on. how: how to calibrate.
    """

    def __init__(self, engine: Engine, model: Model, reference: Reference, how: Options) -> None:
        self._engine, self._model, self._how = engine, model, how
        self.reference = reference
        self._target = Simulation()
        self._shards = tables.open_shards(engine.require_shards(), engine, model)
        self._order = [node_name(node) for node in model.graph]
        self._precisions = functools.lru_cache(RESOLVED)(self._resolved)
        self._ranges: dict[Setting, Ranges] = {}
        self._most_kept = max(1, int(KEPT_BYTES // max(files.weight_bytes(model.normalised), 1)))

    def engine_of(self, trial: Trial) -> Engine:
        """The engine whose recipe says what the trial does: its pins come first, so that the recipe's win."""
        recipe = self._engine.recipe
        pins = _exactly(trial.pins) + recipe.pin
        calibration = trial.setting.in_section(recipe.calibration)
        return replace(
            self._engine, recipe=recipe.model_copy(update={"pin": pins, "calibration": calibration})
        )

    def precisions(self, trial: Trial) -> PrecisionMap:
        return self._precisions(trial.pins)

    def _resolved(self, pins: tuple[str, ...]) -> PrecisionMap:
        recipe = self._engine.recipe
        return rules.resolve(self._model, recipe.precision, _exactly(pins) + recipe.pin)

    @functools.cached_property
    def candidates(self) -> tuple[str, ...]:
        """The nodes that a pin takes out of int8, in graph order; those that the recipe's own rules hold are
        not among them."""
        free = self._precisions(())
        lowered = tuple(
            name for name, node in free.nodes.items() if node.lowered_by_default and free[name] == "int8"
        )
        pinned = self._precisions(lowered)
        return tuple(name for name in lowered if pinned.nodes[name].pinned)

    def base(self, trial: Trial) -> Base:
        """What runs, as the trial says."""
        engine = self.engine_of(trial)
        precisions, ranges = self.precisions(trial), self._ranges_of(trial.setting)
        model = ranges.equalized or self._model
        assert ranges.table is not None
        biases = corrections_of(engine, model, precisions, ranges, self._shards, self._target)
        return Base(model, precisions, ranges.table, biases)

    def with_pin(self, trial: Trial, node: str) -> Trial:
        """The trial with one more pin."""
        wanted = {*trial.pins, node}
        return replace(trial, pins=tuple(name for name in self._order if name in wanted))

    def ranges_digest(self, setting: Setting) -> str:
        """Of the ranges and the equalization that the setting leads to: equal ones are the same model."""
        found = self._ranges_of(setting)
        assert found.table is not None
        amax = {tensor: each.amax for tensor, each in found.table.ranges.items()}
        scaled = to_json(found.equalized.scaled) if found.equalized is not None else {}
        return of_json([amax, scaled, setting.bias_correction])

    def equalizes(self, setting: Setting) -> bool:
        """Whether there is anything in this model that the setting can equalize."""
        equalized = self._ranges_of(setting).equalized
        return equalized is not None and bool(equalized.scaled)

    def flips(self, trial: Trial, nodes: Sequence[str]) -> list[Flip]:
        """Each of the nodes pinned beside those of the trial, with what it takes along."""
        before = self.precisions(trial)
        return [flip_between(node, before, self.precisions(self.with_pin(trial, node))) for node in nodes]

    def check_score(self) -> None:
        """Raise InputError where a metric cannot tell the samples of a feed apart."""
        if any(len(item.names) > 1 for item in self.reference.feeds):
            raise InputError(
                f"{self._model.path} has a fixed batch of several samples, which --score cannot tell apart; "
                "export it with a dynamic batch axis, or leave --score out"
            )

    def scan(self, trial: Trial, feeds: int, metric: Metric | None) -> Sensitivity:
        """The sensitivity of every node, on the first feeds of the reference; by the metric too, where one is
        given: see `check_score`."""
        base, recipe = self.base(trial), self.engine_of(trial).recipe
        reference = self.reference.first(feeds)
        score = _scorer(metric, reference, self._model) if metric is not None else None
        name = metric.name if metric is not None else None
        assert base.table is not None
        return scan(base.model, base.table, recipe.precision, recipe.pin, reference, score, name)

    def written(self, trial: Trial) -> ir.Model:
        """The explicit model, its weights folded: to the bit what a build of it runs."""
        base = self.base(trial)
        model = explicit(base.model, base.precisions, base.table, "simulated", base.biases)
        fold_weights(model.graph)
        return model

    def side(self, trial: Trial) -> Side:
        return OnnxRuntimeSide("candidate", self.written(trial), cut=bool(self._model.unrunnable))

    def errors(self, trial: Trial) -> tuple[float, ...]:
        """The noise-to-signal ratio on each feed of the reference; Inf where it is not finite."""
        shown = with_outputs(self.written(trial), self.reference.judged, cut=True)
        with runner(shown, "trial") as active:
            return tuple(
                self.reference.nsr(index, infer(active, item.feeds, item.label))
                for index, item in enumerate(self.reference.feeds)
            )

    def _ranges_of(self, setting: Setting) -> Ranges:
        setting = setting.model_copy(update={"bias_correction": False})
        if setting not in self._ranges:
            while len(self._ranges) >= self._most_kept:
                del self._ranges[next(iter(self._ranges))]
            engine = self.engine_of(Trial(setting))
            self._ranges[setting] = tables.ranges_of(engine, self._model, self._target, self._how)
        return self._ranges[setting]


def _exactly(nodes: tuple[str, ...]) -> tuple[Pin, ...]:
    return tuple(Pin(name=exactly(node)) for node in nodes)


def _scorer(metric: Metric, reference: Reference, model: Model) -> Score:
    def score(index: int, seen: Tensors) -> float:
        outputs = {name: seen[name] for name in model.checked_outputs if name in seen}
        return metric(outputs, reference.feeds[index].names[0]).value

    return score
