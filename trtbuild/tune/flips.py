"""Single nodes the other way, int8 for float or float for int8, and what that does to the outputs.

Runs of single threads, one on each core, make more in a second than runs of all cores.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from trtbuild.collect.counting import cores
from trtbuild.model.model import Model
from trtbuild.names import exactly
from trtbuild.precision.map import PrecisionMap
from trtbuild.precision.rules import resolve
from trtbuild.progress import track
from trtbuild.recipe import Pin, PrecisionSection
from trtbuild.targets.session import Tensors
from trtbuild.tune.plan import Plan, Seen
from trtbuild.tune.reference import Reference
from trtbuild.tune.switches import Base, Flip, Part

__all__ = ["Base", "Flip", "Flipped", "Part", "Score", "flip_between", "flipped", "pin_flips"]

Score = Callable[[int, Tensors], float]
"""The number of a feed and what the model makes of it -> a figure of the task."""

_WAITING = 32  # runs per core that may wait for one while the next stage is made ready


@dataclass(frozen=True)
class Flipped:
    """Of each feed of the reference. nsr: noise-to-signal ratios, Inf where outputs are not finite. kl: in
    nats, of those feeds that have class scores; None where none has. scores: None where nobody asked."""

    flip: Flip
    nsr: tuple[float, ...]
    kl: tuple[float, ...] | None
    scores: tuple[float, ...] | None


class _Outcome(NamedTuple):
    nsr: float
    kl: float | None
    score: float | None


def flipped(
    base: Base,
    flips: Sequence[Flip],
    reference: Reference,
    score: Score | None = None,
    what: str = "flips",
) -> Iterator[Flipped]:
    """Measure each flip, in graph order. To the bit what the explicit model of the flip makes in a session of
    one thread: `explicit` with the nodes the other way, and without the corrections of biases of those that
    leave int8 (those that come to int8 have none). But a flipped node is float32 or int8: where the recipe
    has it in a half on one side, it is float32 here.

    score: called from the thread that iterates; it sees all outputs of the model. what: for the progress.
    Raises InputError for a node without int8 form, a range that is missing, a sample that cannot be run.
    """
    return track(_measured(base, flips, reference, score), what, len(flips), lambda _: 1)


def flip_between(node: str, before: PrecisionMap, after: PrecisionMap) -> Flip:
    """What goes to int8, or leaves it, from one map to the other: a pinned Conv takes the residual Add behind
    it along."""
    changed = [name for name in before.nodes if (before[name] == "int8") != (after[name] == "int8")]
    return Flip(node, tuple(changed))


def pin_flips(
    model: Model, section: PrecisionSection, pins: Sequence[Pin], nodes: Iterable[str]
) -> list[Flip]:
    """What one more pin, to float32 of each of `nodes`, changes; those that it changes nothing of are left
    out."""
    before = resolve(model, section, pins)
    flips = [
        flip_between(name, before, resolve(model, section, [*pins, Pin(name=exactly(name))]))
        for name in nodes
    ]
    return [flip for flip in flips if flip.nodes]


def _measured(
    base: Base, flips: Sequence[Flip], reference: Reference, score: Score | None
) -> Iterator[Flipped]:
    if not flips:
        return
    plan = Plan(base, flips, reference, scored=score is not None)
    outcomes: list[list[_Outcome]] = [[] for _ in flips]
    pool = ThreadPoolExecutor(cores())
    try:
        for feeds in plan.turns():
            for number, feed, nsr, kl, seen in _ahead(pool, plan.runs(pool, feeds), _WAITING * cores()):
                figure = score(feed, seen) if score is not None else None
                outcomes[number].append(_Outcome(nsr, kl, figure))
                if len(outcomes[number]) == len(reference.feeds):
                    yield _collected(flips[number], outcomes[number])
    finally:
        pool.shutdown(cancel_futures=True)


def _collected(flip: Flip, outcomes: Sequence[_Outcome]) -> Flipped:
    kl = tuple(outcome.kl for outcome in outcomes if outcome.kl is not None)
    scores = tuple(outcome.score for outcome in outcomes if outcome.score is not None)
    return Flipped(flip, tuple(outcome.nsr for outcome in outcomes), kl or None, scores or None)


def _ahead(pool: Executor, tasks: Iterable[Callable[[], Seen]], most: int) -> Iterator[Seen]:
    """The results in order, with up to `most` tasks under way while the next one is made."""
    waiting: deque[Future[Seen]] = deque()
    for task in tasks:
        waiting.append(pool.submit(task))
        while len(waiting) > most or (waiting and waiting[0].done()):
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
