"""Where the trials of a search stand in the drawing of the HTML report: coordinates, nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trtbuild.report.axis import polyline
from trtbuild.report.trials import counts, figures_axis, front_of, limits_of, pins_axis
from trtbuild.tune.trial import OWN

WIDTH, HEIGHT, LEFT, RIGHT = 1000, 372, 66, 900
TOP, BOTTOM = 16, 308
BELOW_Y = 322
"""Here lie the trials that are far below all that count."""
LINE = 13  # between two labels
INSET = 26  # between an axis and the trials that are first or last on it


@dataclass(frozen=True)
class Point:
    """A trial in its place. bar: of one that counts, where its interval ends, the upper end first."""

    x: float
    y: float
    bar: tuple[float, float] | None
    trial: Mapping[str, Any]


@dataclass(frozen=True)
class Plot:
    """Ticks are (place, label), limits (name, place, place of its label); front is a polyline. Points: what
    counts most comes last, so that nothing covers it. most: the place of the budget, where it is in sight."""

    points: list[Point]
    figures: list[tuple[float, str]]
    pins: list[tuple[float, str]]
    limits: list[tuple[str, float, float]]
    most: float | None
    front: str


def of(document: Mapping[str, Any]) -> Plot | None:
    """None where no trial has a figure."""
    figures = figures_axis(document, 10, intervals=True)
    if figures is None:
        return None
    pins = pins_axis(document, 12)

    def x(pinned: float) -> float:
        return round(LEFT + INSET + pins.share(pinned) * (RIGHT - LEFT - 2 * INSET), 1)

    def y(figure: float) -> float:
        return BELOW_Y if figures.below(figure) else round(BOTTOM - figures.share(figure) * (BOTTOM - TOP), 1)

    def bar(trial: Mapping[str, Any]) -> tuple[float, float] | None:
        if trial["interval"] is None or not counts(document, trial):
            return None
        high, low = (y(document["golden"] - lost) for lost in trial["interval"])
        return high, low

    drawn = sorted(
        (trial for trial in document["trials"] if trial["figure"] is not None),
        key=lambda trial: (trial["number"] == document["best"], trial["front"], trial["why"] == OWN),
    )
    most = document["most_pins"]
    steps: list[tuple[float, float]] = []
    for trial in front_of(document):
        if trial["figure"] is not None:
            place = x(trial["pinned"]), y(trial["figure"])
            steps += [*([(place[0], steps[-1][1])] if steps else []), place]
    return Plot(
        points=[Point(x(t["pinned"]), y(t["figure"]), bar(t), t) for t in drawn],
        figures=[(y(value), f"{value:g}") for value in figures.ticks],
        pins=[(x(value), f"{value:g}") for value in pins.ticks],
        limits=_apart([(name, y(value)) for name, value in limits_of(document).items()]),
        most=x(most) if most is not None and pins.low <= most <= pins.high else None,
        front=polyline([*steps, (RIGHT, steps[-1][1])] if steps else []),
    )


def _apart(lines: list[tuple[str, float]]) -> list[tuple[str, float, float]]:
    """From the top down; labels keep clear of the one above."""
    found: list[tuple[str, float, float]] = []
    for name, place in lines:
        found.append((name, place, max(place, found[-1][2] + LINE) if found else place))
    return found
