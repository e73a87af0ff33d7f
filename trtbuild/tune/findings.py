"""What a search has found so far, and the best of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from trtbuild.ranges.error import clearly_less, harm, typical
from trtbuild.recipe.tuned import Outcome
from trtbuild.tune.judge import PASSED, WITH_MARGIN, Judgement
from trtbuild.tune.sensitivity import Sensitivity
from trtbuild.tune.trial import Trial

OUTCOMES: dict[int, Outcome] = {WITH_MARGIN: "passed with margin", PASSED: "passed", 0: "failed"}


@dataclass(frozen=True)
class Measured:
    """A trial and its error on each feed of the draw."""

    trial: Trial
    errors: tuple[float, ...]

    @property
    def error(self) -> float:
        """The typical one: their geometric mean."""
        return typical(self.errors)

    @property
    def harm(self) -> float:
        """What trials are told apart by: always finite."""
        return harm(self.errors)


@dataclass(frozen=True)
class Judged(Measured):
    """A trial that the gate has judged. number: from 1, in the order of the search. pinned: how many of the
    nodes that the default lowers are pinned, the recipe's own among them. why: what it was tried for."""

    number: int
    pinned: int
    why: str
    judgement: Judgement


@dataclass(frozen=True)
class OnEngine:
    """What the golden check said of a trial that was built for the target. figure: as in `Judgement`."""

    number: int
    build: str
    passed: bool
    figure: float | None


@dataclass
class Findings:
    """Grows while the search runs. measured: trials without pins, on the draw alone. engines: of the trials
    that were built as engines, in the order in which that was done."""

    judged: list[Judged] = field(default_factory=list)
    measured: list[Measured] = field(default_factory=list)
    sensitivity: Sensitivity | None = None
    engines: list[OnEngine] = field(default_factory=list)

    @property
    def best(self) -> Judged | None:
        """Of those that pass with a margin the one with the fewest pins; else of those that pass, or of all,
        the one with the largest figure."""
        return next(iter(self.by_merit()), None)

    @property
    def pins_tried(self) -> bool:
        return any(each.trial.pins for each in self.judged)

    @property
    def outcome(self) -> Outcome:
        """Of the best. Raises ValueError before any trial was judged."""
        if self.best is None:
            raise ValueError("nothing was judged")
        return OUTCOMES[0 if self.best.number in self.refused else self.best.judgement.level]

    @property
    def refused(self) -> set[int]:
        """The numbers of the trials whose engines fail the gate."""
        return {each.number for each in self.engines if not each.passed}

    def by_merit(self) -> list[Judged]:
        """The best first; last those whose engines fail the gate."""
        return sorted(
            self.judged, key=lambda each: (each.number not in self.refused, _merit(each)), reverse=True
        )

    def front(self) -> set[int]:
        """The numbers of the trials to which none with as few pins is better."""
        return {each.number for each in self.judged if not any(_beats(other, each) for other in self.judged)}

    def of(self, trial: Trial) -> Judged | None:
        """The trial as it was judged, if it was."""
        return next((found for found in self.judged if found.trial == trial), None)


def _merit(found: Judged) -> tuple[float, ...]:
    judgement = found.judgement
    few, figure, harm = -found.pinned, judgement.figure, -found.harm
    order: tuple[float, ...]
    if judgement.margin:
        order = (few, figure, harm)
    elif judgement.passed:
        order = (figure, few, harm)
    else:
        order = (-len(judgement.failing), figure, harm)
    return (judgement.level, *order, -found.number)


def _beats(other: Judged, found: Judged) -> bool:
    """Whether it is at least as good in both, and better in one; of equals the one with less error is."""
    few = other.pinned <= found.pinned
    good = other.judgement.figure >= found.judgement.figure
    same = (other.pinned, other.judgement.figure) == (found.pinned, found.judgement.figure)
    return few and good and (not same or (other.harm, other.number) < (found.harm, found.number))


def ranked(found: Sequence[Measured]) -> list[Measured]:
    """By their errors, the least first; but what repairs less goes before what is not clearly better."""
    left, order = sorted(found, key=lambda each: each.harm), []
    while left:
        best = left[0]
        as_good = [each for each in left if not clearly_less(best.errors, each.errors)] or [best]
        order.append(min(as_good, key=lambda each: each.trial.setting.repairs))
        left.remove(order[-1])
    return order
