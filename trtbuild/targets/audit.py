"""The audit: did every pin hold in what was built?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from trtbuild.precision.map import PrecisionMap
from trtbuild.precision.rules import HEIGHT
from trtbuild.targets.base import Layer

UNKNOWN = "unknown"
MOVES = frozenset(
    {
        *("Identity", "Dropout", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Tile"),
        *("Concat", "Split", "Slice", "DepthToSpace", "SpaceToDepth"),
    }
)
"""Operators that only move data: a target may need no layer for them, and then no precision can be wrong."""


@dataclass(frozen=True)
class LostPin:
    """A pinned node and what became of it."""

    node: str
    wanted: str
    found: str


@dataclass(frozen=True)
class Execution:
    """One of the layers that execute a node, the precision that it really has, and whether something that it
    reads was int8 before."""

    name: str
    precision: str
    reads_int8: bool = False


@dataclass(frozen=True)
class Pin:
    """A pinned node and all layers that execute it: none where TensorRT needs none."""

    node: str
    wanted: str
    layers: tuple[Execution, ...]


@dataclass(frozen=True)
class Audit:
    """Layers by real precision ("unknown" where it is not shown), and what became of the nodes.

    `held` pins held; a `lost` one fails the build. `unlowered`: nodes above the precision that they were
    meant for, which costs speed, not accuracy: it fails only when nothing was lowered. `below`: nodes without
    a pin that run below theirs, as a builder may decide that quantizes implicitly. `removed`: pins, and nodes
    meant for a lower precision, that only move data and have no layer of their own.
    `executed`: how many layers run, those without floats included; `reformats`: how many of them only change
    a tensor's format or type.
    """

    histogram: dict[str, int]
    held: int
    lost: tuple[LostPin, ...]
    unlowered: tuple[str, ...]
    below: tuple[str, ...]
    removed: tuple[str, ...]
    pins: tuple[Pin, ...]
    executed: int
    reformats: int

    @property
    def reformat_share(self) -> float:
        """Share of the layers that run, 0 to 1."""
        return self.reformats / self.executed if self.executed else 0.0

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "reformat_share": self.reformat_share}


def audit(
    precisions: PrecisionMap, layers: Iterable[Layer], reformats: int = 0, executed: int | None = None
) -> Audit:
    """Hold the layers of a build against the precisions that were asked for.

    A node may become several layers: it held float32 when none of them is lower, and it became int8
    when one of them is. A pinned node that no layer claims counts as lost, since nothing proves it, unless
    it only moves data; so does one in a layer whose precision is not shown.
    """
    layers = list(layers)
    execution: dict[str, list[Execution]] = {}
    for layer in layers:
        for node in layer.nodes:
            execution.setdefault(node, []).append(Execution(layer.name, layer.precision, layer.reads_int8))
    found = {node: {one.precision for one in ones} for node, ones in execution.items()}
    removed = {
        name: None
        for name, node in precisions.nodes.items()
        if name not in found and node.op_type in MOVES and (node.pinned or node.precision != "fp32")
    }
    pins = [Pin(name, precisions[name], tuple(execution.get(name, ()))) for name in precisions.pinned]
    kept = [pin for pin in pins if pin.node not in removed]
    lost = [pin for pin in kept if not _holds(pin.wanted, found.get(pin.node, set()))]
    return Audit(
        histogram=dict(sorted(Counter(layer.precision for layer in layers).items())),
        held=len(kept) - len(lost),
        lost=tuple(LostPin(pin.node, pin.wanted, _what_became(pin)) for pin in lost),
        unlowered=tuple(
            name
            for name, node in precisions.nodes.items()
            if node.precision != "fp32"
            and name not in removed
            and not _may_be(node.precision, found.get(name, set()))
        ),
        below=tuple(
            name
            for name, node in precisions.nodes.items()
            if not node.pinned and _is_below(node.precision, found.get(name, set()))
        ),
        removed=tuple(removed),
        pins=tuple(pins),
        executed=len(layers) if executed is None else executed,
        reformats=reformats,
    )


def _holds(wanted: str, found: set[str]) -> bool:
    """Whether a layer has the precision `wanted`, and no layer another, but float32 beside a half."""
    return wanted in found and found <= {wanted, "fp32"}


def _may_be(wanted: str, found: set[str]) -> bool:
    """Whether a layer has the precision `wanted`, or may have it: what is not shown may be a half, but int8
    counts only where it is shown."""
    return wanted in found or (wanted != "int8" and UNKNOWN in found)


def _is_below(wanted: str, found: set[str]) -> bool:
    return any(HEIGHT[precision] < HEIGHT[wanted] for precision in found - {UNKNOWN})


def _what_became(pin: Pin) -> str:
    shown = sorted({one.precision for one in pin.layers} - {UNKNOWN})
    hidden = dict.fromkeys(one.name for one in pin.layers if one.precision == UNKNOWN)
    return "+".join([*shown, *(f"unknown inside {name}" for name in hidden)]) or "in no layer"
