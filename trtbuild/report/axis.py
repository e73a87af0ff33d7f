"""Round numbers along the axes of a drawing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_SLACK = 1e-9
"""Steps by which rounding may move a value over a tick that it lies on."""


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`, a tick every `step`; all three in the unit of what is drawn."""

    low: float
    high: float
    step: float

    @classmethod
    def around(cls, values: Sequence[float], most: int) -> Axis:
        """One that holds all of these finite values, with at most `most` steps (three or more)."""
        low, high = min(values), max(values)
        step = nice((high - low or abs(low) or 1.0) / (most - 2))  # the round ends add less than two steps
        first, last = math.floor(low / step + _SLACK), math.ceil(high / step - _SLACK)
        return cls(first * step, max(last, first + 1) * step, step)

    @property
    def ticks(self) -> list[float]:
        """Multiples of the step, so that one that is 0 is exactly 0."""
        first, last = round(self.low / self.step), round(self.high / self.step)
        return [self.step * index for index in range(first, last + 1)]

    def below(self, value: float) -> bool:
        return value < self.low - _SLACK * self.step

    def share(self, value: float) -> float:
        """Where a value lies: 0 at the low end, 1 at the high end, neither below nor above."""
        return (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)


def nice(value: float) -> float:
    """The next of …, 0.1, 0.2, 0.5, 1, 2, 5, 10, …; value: above 0."""
    power: float = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value)


def polyline(points: Iterable[tuple[float, float]]) -> str:
    """Points as an SVG polyline has them."""
    return " ".join(f"{x:g},{y:g}" for x, y in points)
