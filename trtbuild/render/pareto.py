"""The trials of a search as a plot of characters: pinned nodes across, the figure up."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

from trtbuild.render.text import Document
from trtbuild.report.axis import Axis
from trtbuild.report.trials import (
    figures_axis,
    front_of,
    gate_of,
    limits_of,
    metric_of,
    pins_axis,
)
from trtbuild.tune.document import best_of

HEIGHT = 21  # lines
WIDEST = 100  # columns of the whole plot
BESIDE = 24  # columns for what stands left and right of it
MARKS = ("X", "O", "@")
"""A trial of the front that failed, one that passed, the best. Lower-case: not of the front."""


def mark(document: Document, trial: Mapping[str, Any]) -> str:
    if trial["number"] == document["best"]:
        return MARKS[2]
    letter = MARKS[trial["passed"]]
    return letter if trial["front"] else letter.lower()


def plot(document: Document, width: int) -> list[str]:
    """Its lines, none wider than `width` (40 or more); none at all where no trial has a figure."""
    figures = figures_axis(document, HEIGHT // 3, intervals=False)
    if figures is None:
        return []
    pins = pins_axis(document, 10)
    canvas = _Canvas(min(width, WIDEST) - BESIDE, pins, figures)
    sides: dict[int, list[str]] = {}
    for name, value in limits_of(document).items():
        row = canvas.row(value)
        canvas.fill(row, "─" if name == "golden" else "╌")
        sides.setdefault(row, []).append(name)
    _draw_front(canvas, document)
    drawn = sorted(
        (trial for trial in document["trials"] if trial["figure"] is not None),
        key=lambda trial: (trial["number"] == document["best"], trial["front"]),
    )  # what counts most comes last, so that nothing covers it
    for trial in drawn:
        canvas.put(canvas.row(trial["figure"]), canvas.column(trial["pinned"]), mark(document, trial))
    labels = {canvas.row(value): f"{value:g}" for value in figures.ticks}
    labels[HEIGHT] = "below"
    lines = [
        f"{labels.get(row, ''):>8} │{''.join(cells)} {', '.join(sides.get(row, []))}".rstrip()
        for row, cells in enumerate(canvas.rows)
        if row < HEIGHT or not set(cells) <= {" "}
    ]
    return [metric_of(document), *lines, *_across(canvas, pins, document)]


def _draw_front(canvas: _Canvas, document: Document) -> None:
    """With so many pins as much, or more: steps up to the right."""
    front = [trial for trial in front_of(document) if trial["figure"] is not None]
    for trial, next_one in zip_longest(front, front[1:]):
        end = canvas.width if next_one is None else canvas.column(next_one["pinned"])
        for column in range(canvas.column(trial["pinned"]), end):
            canvas.put(canvas.row(trial["figure"]), column, "·")


def _across(canvas: _Canvas, pins: Axis, document: Document) -> list[str]:
    axis, numbers = ["─"] * canvas.width, [" "] * (canvas.width + 4)
    for value in pins.ticks:
        column, text = canvas.column(round(value)), f"{value:.0f}"
        axis[column] = "┴"
        start = column - len(text) // 2
        numbers[start : start + len(text)] = text
    left = " " * 9
    title = f"pinned nodes, of {document['lowerable']}"
    return [
        f"{left}└{''.join(axis)}",
        f"{left} {''.join(numbers)}".rstrip(),
        f"{left} {title.center(canvas.width)}".rstrip(),
    ]


def legend(document: Document) -> str:
    """What the letters stand for that occur."""
    seen = {mark(document, trial) for trial in document["trials"]}
    best = best_of(document)
    words = {"@": f"@ best (trial {best['number']}, {gate_of(best)})", "O": "O passed", "X": "X failed"}
    parts = [text for letter, text in words.items() if letter in seen or letter.lower() in seen]
    return "  ".join([*parts, *(["small letters: not on the front"] if seen & set("ox") else [])])


class _Canvas:
    """HEIGHT rows from the highest figure to the lowest, and one more for what is below the scale."""

    def __init__(self, width: int, pins: Axis, figures: Axis) -> None:
        self.width, self.pins, self.figures = width, pins, figures
        self.rows = [[" "] * width for _ in range(HEIGHT + 1)]

    def row(self, figure: float) -> int:
        if self.figures.below(figure):
            return HEIGHT
        return round((1 - self.figures.share(figure)) * (HEIGHT - 1))

    def column(self, pinned: int) -> int:
        """Two columns at each end stay free, for the numbers beneath."""
        return 2 + round(self.pins.share(pinned) * (self.width - 5))

    def put(self, row: int, column: int, character: str) -> None:
        self.rows[row][column] = character

    def fill(self, row: int, character: str) -> None:
        self.rows[row] = [character] * self.width
