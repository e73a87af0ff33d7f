"""Where two range tables of one model differ."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from calibrators.errors import TableError
from calibrators.scale import scale_of
from calibrators.table import RangeTable


@dataclass(frozen=True)
class Pair:
    """The range of one tensor in two tables."""

    tensor: str
    amax: float
    other: float

    @property
    def equal(self) -> bool:
        """Whether both have the same scale to the bit: a TensorRT cache keeps no more of a range."""
        return bool(scale_of(self.amax) == scale_of(self.other))

    @property
    def ratio(self) -> float:
        """amax / other; 1 where they are equal, and Inf where only the other is 0."""
        if self.equal:
            return 1.0
        return self.amax / self.other if self.other else math.inf

    @property
    def distance(self) -> float:
        """|log(ratio)|, 0 or larger."""
        return abs(math.log(self.ratio)) if self.ratio else math.inf


@dataclass(frozen=True)
class Comparison:
    """pairs: the tensors that both tables have, those that differ most first. only_…: names of the others."""

    pairs: tuple[Pair, ...]
    only_here: tuple[str, ...]
    only_there: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types; an infinite ratio is None."""
        return {
            "tensors": {
                pair.tensor: {
                    "amax": pair.amax,
                    "other": pair.other,
                    "ratio": pair.ratio if math.isfinite(pair.ratio) else None,
                }
                for pair in self.pairs
            },
            "equal": sum(pair.equal for pair in self.pairs),
            "only_here": list(self.only_here),
            "only_there": list(self.only_there),
        }


def compare(table: RangeTable, other: RangeTable) -> Comparison:
    """Return how `other` differs from `table`.

    Raises TableError when they have no tensor in common: they are of different models.
    """
    common = table.ranges.keys() & other.ranges.keys()
    if not common:
        raise TableError(
            f"none of its {len(other.ranges)} tensors is among the {len(table.ranges)} here: it is of "
            "another model; give a table of this one"
        )
    pairs = (Pair(name, table.ranges[name].amax, other.ranges[name].amax) for name in common)
    return Comparison(
        tuple(sorted(pairs, key=lambda pair: (-pair.distance, pair.tensor))),
        tuple(sorted(table.ranges.keys() - common)),
        tuple(sorted(other.ranges.keys() - common)),
    )
