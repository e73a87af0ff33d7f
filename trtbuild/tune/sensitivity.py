"""How much each node loses in int8: alone, all else in float; and taken back, all else in int8.

Neither says it all: errors are not additive, and the two rankings disagree. Half of the samples rank the
nodes on their own, and so do the others: where they agree, other samples would rank them so too.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrators.table import RangeTable
from trtbuild.model.model import Model
from trtbuild.precision.forms import NoForm, int8_forms
from trtbuild.precision.rules import resolve
from trtbuild.ranges.error import typical
from trtbuild.recipe import Pin, PrecisionSection
from trtbuild.tune.flips import Base, Flip, Flipped, Part, Score, flipped, pin_flips
from trtbuild.tune.reference import Reference


@dataclass(frozen=True)
class Measure:
    """nsr: noise-to-signal ratio of the outputs, typical of the feeds, Inf where one is not finite. kl: in
    nats, mean; None without class scores, and where it is infinite. halves: the nsr of every other feed, and
    of those between; of a single feed that one twice. score: of the task, mean; None where nobody asked."""

    nsr: float
    kl: float | None
    halves: tuple[float, float]
    score: float | None

    @classmethod
    def of(cls, found: Flipped) -> Measure:
        kl = statistics.fmean(found.kl) if found.kl else None
        return cls(
            nsr=typical(found.nsr),
            kl=kl if kl is not None and math.isfinite(kl) else None,
            halves=(typical(found.nsr[::2]), typical(found.nsr[1::2] or found.nsr)),
            score=statistics.fmean(found.scores) if found.scores else None,
        )

    def to_dict(self) -> dict[str, Any]:
        halves = [_number(half) for half in self.halves]
        return {"nsr": _number(self.nsr), "kl": self.kl, "halves": halves, "score": self.score}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Measure:
        first, second = (_or_infinite(half) for half in data["halves"])
        return cls(_or_infinite(data["nsr"]), data["kl"], (first, second), data["score"])


@dataclass(frozen=True)
class NodeSensitivity:
    """rank: by `alone`, 1 for the one that loses most. ranks_of_halves: the same by either half of the feeds.
    pinned: by a rule of the recipe.

    alone: the node in int8, all else in float. activations, weights: only these of it; None where it has no
    weights. reverted: all in int8 but this node, and what leaves int8 with it; None where it is in float.
    """

    node: str
    op_type: str
    rank: int
    ranks_of_halves: tuple[int, int]
    pinned: bool
    alone: Measure
    activations: Measure | None
    weights: Measure | None
    reverted: Measure | None

    def to_dict(self) -> dict[str, Any]:
        measures = {
            name: measure.to_dict() if measure is not None else None for name, measure in self._measures()
        }
        return {**vars(self), "ranks_of_halves": list(self.ranks_of_halves), **measures}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> NodeSensitivity:
        first, second = data["ranks_of_halves"]
        return cls(
            data["node"],
            data["op_type"],
            data["rank"],
            (first, second),
            data["pinned"],
            Measure.from_dict(data["alone"]),
            *(
                Measure.from_dict(data[name]) if data[name] is not None else None
                for name in ("activations", "weights", "reverted")
            ),
        )

    def _measures(self) -> Iterable[tuple[str, Measure | None]]:
        return ((name, getattr(self, name)) for name in ("alone", "activations", "weights", "reverted"))


@dataclass(frozen=True)
class Sensitivity:
    """samples: that it was measured on. agreement: Spearman's rank correlation of the two halves' nsr of each
    node alone, -1 to 1; None of a single feed, and where one of them tells no nodes apart. metric: what the
    scores are of. nodes: all that have an int8 form, in graph order. all: none of them reverted."""

    samples: int
    agreement: float | None
    metric: str | None
    nodes: tuple[NodeSensitivity, ...]
    all: Measure

    def to_dict(self) -> dict[str, Any]:
        nodes = [node.to_dict() for node in self.nodes]
        return {**vars(self), "nodes": nodes, "all": self.all.to_dict()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Sensitivity:
        nodes = tuple(map(NodeSensitivity.from_dict, data["nodes"]))
        return cls(data["samples"], data["agreement"], data["metric"], nodes, Measure.from_dict(data["all"]))


def scan(
    model: Model,
    table: RangeTable,
    section: PrecisionSection,
    pins: Sequence[Pin],
    reference: Reference,
    score: Score | None = None,
    metric: str | None = None,
) -> Sensitivity:
    """Measure every node that has an int8 form. pins: the recipe's rules, in effect where nodes are reverted.
    score: called once per feed and run, `metric` is its name.

    Raises InputError when a sample cannot be run.
    """
    shares = quantize_one(model)
    float_base = Base(model, resolve(model, PrecisionSection(default="fp32"), ()), table, {})
    alone = {
        (found.flip.node, found.flip.part): Measure.of(found)
        for found in flipped(float_base, shares, reference, score, "one node in int8, measures")
    }
    precisions = resolve(model, section, pins)
    nodes = [flip.node for flip in shares if flip.part == "both"]
    base = Base(model, precisions, table, {})
    reverted = {
        found.flip.node: Measure.of(found)
        for found in flipped(
            base, revert_one(model, section, pins), reference, score, "all but one in int8, measures"
        )
    }
    harm = {name: alone[name, "both"] for name in nodes}
    ranks = _ranks({name: measure.nsr for name, measure in harm.items()})
    halves = [{name: measure.halves[half] for name, measure in harm.items()} for half in (0, 1)]
    ranks_of_halves = [_ranks(half) for half in halves]
    found = tuple(
        NodeSensitivity(
            node=name,
            op_type=precisions.nodes[name].op_type,
            rank=ranks[name],
            ranks_of_halves=(ranks_of_halves[0][name], ranks_of_halves[1][name]),
            pinned=precisions.nodes[name].pinned,
            alone=harm[name],
            activations=alone.get((name, "activations")),
            weights=alone.get((name, "weights")),
            reverted=reverted.get(name),
        )
        for name in nodes
    )
    samples = sum(len(feed.names) for feed in reference.feeds)
    enough = len(reference.feeds) > 1
    agreement = spearman(*(list(half.values()) for half in halves)) if enough else None
    return Sensitivity(samples, agreement, metric, found, reverted[_ALL.node])


def quantize_one(model: Model) -> list[Flip]:
    """From float: each node that has an int8 form, and apart its activations and its weights, where it has
    both."""
    flips = []
    for name, form in int8_forms(model.graph).items():
        if isinstance(form, NoForm) or name in model.unrunnable:
            continue
        parts: tuple[Part, ...] = ("both",)
        if any(edge.constant for edge in form):
            parts = ("both", "activations", "weights")
        flips += [Flip(name, (name,), part) for part in parts]
    return flips


def revert_one(model: Model, section: PrecisionSection, pins: Sequence[Pin]) -> list[Flip]:
    """From the recipe: itself, under no name, and each int8 node back in float."""
    precisions = resolve(model, section, pins)
    lowered = [name for name in precisions.nodes if precisions[name] == "int8"]
    return [_ALL, *pin_flips(model, section, pins, lowered)]


_ALL = Flip("", ())


def spearman(one: Sequence[float], other: Sequence[float]) -> float | None:
    """The correlation of the ranks, those of equal numbers averaged; None where one side's are all equal, or
    there are none."""
    if not len(one):
        return None
    ranks = np.stack([_averaged_ranks(one), _averaged_ranks(other)])
    centred = ranks - ranks.mean(axis=1, keepdims=True)
    norms = np.sqrt(np.square(centred).sum(axis=1))
    return float(centred[0] @ centred[1] / norms.prod()) if norms.all() else None


def _averaged_ranks(numbers: Sequence[float]) -> NDArray[np.float64]:
    _, place, counts = np.unique(np.asarray(numbers), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[place])


def _ranks(numbers: dict[str, float]) -> dict[str, int]:
    """1 for the largest; of equal ones the first in order goes first."""
    order = sorted(numbers, key=lambda name: -numbers[name])
    return {name: rank for rank, name in enumerate(order, 1)}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _or_infinite(value: float | None) -> float:
    return math.inf if value is None else value
