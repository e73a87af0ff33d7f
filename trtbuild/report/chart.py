"""Where things stand in the drawings of the HTML report: coordinates from figures, nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trtbuild.report.axis import Axis, nice, polyline
from trtbuild.report.rank import problem, sqnr

WIDTH, LEFT, RIGHT = 1000, 66, 990
TOP, BOTTOM = 34, 268  # the plot; above it lie equal tensors, below it those without any signal or with NaN
EQUAL_Y, LOST_Y = 16, 284
RIBBON, RIBBON_HEIGHT = 300, 30
RIBBON_SHARE = {"int8": 0.35, "fp16": 0.65, "bf16": 0.65, "fp32": 1.0}
"""How high a layer's bar in the ribbon is: precision shows without colour too."""
HISTOGRAM_WIDTH, HISTOGRAM_HEIGHT = 320, 110
NEAR = 10.0
"""dB above the highest SQNR that a noise floor may lie for the scale to reach up to it."""


@dataclass(frozen=True)
class Point:
    """One layer: its number in the table, its place, and what its bar in the ribbon is."""

    number: int
    x: float
    y: float
    bar: float
    row: Mapping[str, Any]


@dataclass(frozen=True)
class Chart:
    """SQNR along the network. Ticks are (place, label); lines are the points of an SVG polyline."""

    points: list[Point]
    ticks: list[tuple[float, str]]
    numbers: list[tuple[float, str]]
    limit: float
    step: float
    line: str
    noise: str | None


def along(rows: Sequence[Mapping[str, Any]], limit_db: float) -> Chart | None:
    """The chart of these layers, in graph order; None where none was compared. Layers that were not
    compared leave a gap: they are in the table. The errors set the scale; noise floors that are far above all
    of them lie where equal tensors do."""
    shown = [(number, row) for number, row in enumerate(rows) if row["difference"]]
    if not shown:
        return None
    noises = [(number, sqnr(row["noise"])) for number, row in shown if row.get("noise")]
    figures = [value for _, row in shown if math.isfinite(value := _decibel(row))] + [limit_db]
    near = [value for _, value in noises if 0 <= value <= max(figures) + NEAR]
    axis = _scale(figures + near)
    step = (RIGHT - LEFT) / len(rows)
    x = _x(step)

    def y(value: float) -> float:
        if value > axis.high or value == -math.inf:
            return EQUAL_Y if value > 0 else LOST_Y
        return round(BOTTOM - axis.share(value) * (BOTTOM - TOP), 1)

    points = [
        Point(number, x(number), y(_decibel(row)), _bar(row["precision"]), row) for number, row in shown
    ]
    every = max(1, round(nice(len(rows) / 10)))
    return Chart(
        points=points,
        ticks=[(y(value), f"{value:g}") for value in axis.ticks],
        numbers=[(x(number), str(number + 1)) for number in range(0, len(rows), every)],
        limit=y(limit_db),
        step=round(step, 2),
        line=polyline((point.x, point.y) for point in points),
        noise=polyline((x(number), y(value)) for number, value in noises) if noises else None,
    )


@dataclass(frozen=True)
class Bars:
    """A histogram: golden as a filled shape, candidate as an outline; counts on a logarithmic scale."""

    golden: str
    candidate: str
    low: float
    high: float


def bars(histogram: Mapping[str, Sequence[float]]) -> Bars:
    largest = math.log1p(max([*histogram["golden"], *histogram["candidate"], 1.0]))
    width = HISTOGRAM_WIDTH / len(histogram["golden"])

    def outline(counts: Sequence[float]) -> str:
        parts = [f"M0 {HISTOGRAM_HEIGHT}"]
        for index, count in enumerate(counts):
            top = HISTOGRAM_HEIGHT - math.log1p(count) / largest * (HISTOGRAM_HEIGHT - 4)
            parts.append(f"L{index * width:.1f} {top:.1f}L{(index + 1) * width:.1f} {top:.1f}")
        return "".join([*parts, f"L{HISTOGRAM_WIDTH} {HISTOGRAM_HEIGHT}"])

    return Bars(
        golden=outline(histogram["golden"]),
        candidate=outline(histogram["candidate"]),
        low=histogram["edges"][0],
        high=histogram["edges"][-1],
    )


def _decibel(row: Mapping[str, Any]) -> float:
    """One with NaN of its own lies below all others, however good the rest of it is."""
    return -math.inf if problem(row) else sqnr(row["difference"])


def _x(step: float) -> Callable[[int], float]:
    return lambda number: round(LEFT + (number + 0.5) * step, 1)


def _bar(precision: str) -> float:
    return round(RIBBON_SHARE.get(precision, 1.0) * RIBBON_HEIGHT, 1)


def _scale(values: Sequence[float]) -> Axis:
    """Round numbers around the values and 0 dB."""
    tick = 10.0
    while (max(values) - min(*values, 0.0)) / tick > 8:
        tick *= 2
    low = math.floor(min(*values, 0.0) / tick) * tick
    return Axis(low, max(math.ceil(max(values) / tick) * tick, low + tick), tick)
