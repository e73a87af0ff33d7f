"""The audit: did every pin hold in what was built?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from trtbuild.precision.map import PrecisionMap
from trtbuild.targets.base import Layer


@dataclass(frozen=True)
class LostPin:
    """A pinned node and what became of it."""

    node: str
    wanted: str
    found: str


@dataclass(frozen=True)
class Audit:
    """Layers by real precision, pins that held, pins that were lost, and nodes that stayed above what they
    were meant for.

    A lost pin fails the build. `unlowered` costs speed, not accuracy: it fails only when nothing was lowered.
    """

    histogram: dict[str, int]
    held: int
    lost: tuple[LostPin, ...]
    unlowered: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def audit(precisions: PrecisionMap, layers: Iterable[Layer]) -> Audit:
    """Hold the layers of a build against the precisions that were asked for.

    A node may become several layers: it held float32 when none of them is lower, and it became int8
    when one of them is. A pinned node that no layer claims counts as lost: nothing proves it.
    """
    layers = list(layers)
    executed: dict[str, set[str]] = {}
    for layer in layers:
        for node in layer.nodes:
            executed.setdefault(node, set()).add(layer.precision)
    lost, held = [], 0
    for name in precisions.pinned:
        wanted, found = precisions[name], executed.get(name, set())
        if _holds(wanted, found):
            held += 1
        else:
            lost.append(LostPin(name, wanted, "+".join(sorted(found)) or "in no layer"))
    unlowered = tuple(
        name
        for name, node in precisions.nodes.items()
        if node.precision != "fp32" and node.precision not in executed.get(name, set())
    )
    return Audit(
        dict(sorted(Counter(layer.precision for layer in layers).items())), held, tuple(lost), unlowered
    )


def _holds(wanted: str, found: set[str]) -> bool:
    """Whether a layer has the precision `wanted`, and no layer another, but float32 beside a half."""
    return wanted in found and found <= {wanted, "fp32"}
