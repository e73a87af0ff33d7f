"""Scaling: an activation whose channels are held at other magnitudes than in the model file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Scaling:
    """Each channel of an activation is `factors[channel]` times what it is in the model file.

    axis: that of the channels, counted from the end (-1 is the last). Raises ValueError for a factor that is
    not a normal float32 above 0.
    """

    axis: int
    factors: tuple[float, ...]

    def __post_init__(self) -> None:
        limits = np.finfo(np.float32)
        if self.axis >= 0:
            raise ValueError(f"axis {self.axis}: expected one counted from the end")
        for factor in self.factors:
            if not (math.isfinite(factor) and float(limits.tiny) <= factor <= float(limits.max)):
                raise ValueError(f"factor {factor}: expected a float32 above 0")

    @property
    def array(self) -> NDArray[np.float32]:
        """The factors in a shape that broadcasts against the activation."""
        return np.asarray(self.factors, np.float32).reshape(-1, *[1] * (-self.axis - 1))


Scaled = Mapping[str, Scaling]
"""Tensor -> how it is scaled, of those that are."""


def to_json(scaled: Scaled) -> dict[str, Any]:
    """As JSON types; `from_json` is the inverse."""
    return {tensor: asdict(scaled[tensor]) for tensor in sorted(scaled)}


def from_json(data: Any) -> dict[str, Scaling]:
    """What `to_json` described. Raises ValueError, TypeError, KeyError, AttributeError for anything else."""
    return {
        tensor: Scaling(int(entry["axis"]), tuple(map(float, entry["factors"])))
        for tensor, entry in data.items()
    }
