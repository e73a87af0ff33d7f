"""The histogram of a tensor, golden beside candidate, small enough to be drawn and shipped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trtbuild.golden.differ import TensorDiff

BARS = 64


def of(diff: TensorDiff) -> dict[str, list[float]] | None:
    """The compact form of the diff's histogram; None where it has none."""
    return compact(vars(diff.histogram)) if diff.histogram else None


def compact(found: Mapping[str, Any]) -> dict[str, list[float]] | None:
    """At most 64 bars of one width, from the lowest occupied bound to the highest; None where all is empty.

    A bin that spans several bars is dealt out evenly over its width.
    """
    edges = np.asarray(found["edges"], np.float64)
    counts = {side: np.asarray(found[side], np.float64) for side in ("golden", "candidate")}
    (occupied,) = np.nonzero(counts["golden"] + counts["candidate"])
    if not occupied.size:
        return None
    bounds = np.linspace(edges[occupied[0]], edges[occupied[-1] + 1], BARS + 1)
    return {
        "edges": _short(bounds, 6),
        **{side: _short(_dealt(edges, of_side, bounds), 4) for side, of_side in counts.items()},
    }


def _dealt(edges: NDArray[np.float64], counts: NDArray[np.float64], bounds: Any) -> NDArray[np.float64]:
    """Counts between `bounds`: differences of the cumulative count, a straight line inside each bin."""
    below = np.concatenate([[0.0], np.cumsum(counts)])
    dealt: NDArray[np.float64] = np.diff(np.interp(bounds, edges, below))
    return dealt


def _short(values: Any, digits: int) -> list[float]:
    return [float(f"{value:.{digits}g}") for value in values]
