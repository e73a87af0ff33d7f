"""Single nodes the other way, int8 for float or float for int8, and what that does to the outputs.

Nothing before a node changes with it, so the model is cut into stages. What lives at a cut is computed once;
a flip runs its own stage, and from there on what all flips of the stage have in common.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import onnx_ir as ir

from calibrators.shards import Batch
from calibrators.table import RangeTable
from trtbuild.collect.counting import cores
from trtbuild.collect.memory import sizes_of
from trtbuild.errors import InputError, one_line
from trtbuild.model.model import Model
from trtbuild.precision.map import PrecisionMap
from trtbuild.precision.rules import resolve
from trtbuild.progress import track
from trtbuild.ranges.stages import Flow, part_of
from trtbuild.recipe import Pin, PrecisionSection
from trtbuild.rewrite.biases import Corrections
from trtbuild.targets.session import Tensors, open_session
from trtbuild.tune.reference import Reference
from trtbuild.tune.switches import Kind, Switches

Part = Literal["both", "activations", "weights"]
Score = Callable[[int, Tensors], float]
"""The number of a feed and what the model makes of it -> a figure of the task."""

STATE_BYTES = 1.5e9
"""What all feeds may take between two stages, about: else they take turns."""
_CUTS = 3  # the stage's start, its end, and the end of the next one, which is made ready meanwhile
_WAITING = 32  # runs per core that may wait for one while the next stage is made ready
_KINDS: dict[Part, tuple[Kind, ...]] = {
    "both": ("activations", "weights", "bias"),
    "activations": ("activations",),
    "weights": ("weights",),
}


@dataclass(frozen=True)
class Base:
    """What runs but for a flip. biases: the corrections of its int8 nodes; {} for none."""

    model: Model
    precisions: PrecisionMap
    table: RangeTable | None
    biases: Corrections


@dataclass(frozen=True)
class Flip:
    """node: what the flip is called by. nodes: all that go the other way with it; without any it is the base
    itself. part: which of their inputs do; other than "both" only from float to int8."""

    node: str
    nodes: tuple[str, ...]
    part: Part = "both"


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
    flips = [flip_between(name, before, resolve(model, section, [*pins, Pin(name=name)])) for name in nodes]
    return [flip for flip in flips if flip.nodes]


def _measured(
    base: Base, flips: Sequence[Flip], reference: Reference, score: Score | None
) -> Iterator[Flipped]:
    if not flips:
        return
    plan = _Plan(base, flips, reference, scored=score is not None)
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


def _ahead(pool: Executor, tasks: Iterable[Callable[[], Any]], most: int) -> Iterator[Any]:
    """The results in order, with up to `most` tasks under way while the next one is made."""
    waiting: deque[Future[Any]] = deque()
    for task in tasks:
        waiting.append(pool.submit(task))
        while len(waiting) > most or (waiting and waiting[0].done()):
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


class _Part:
    """A part of the model that runs, on one thread of its own."""

    def __init__(self, part: ir.Model) -> None:
        self._session = open_session(part, threads=1)
        self._inputs = [str(value.name) for value in part.graph.inputs]
        self._outputs = [str(value.name) for value in part.graph.outputs]

    def run(self, values: Tensors, label: str) -> Tensors:
        """What it makes of those of `values` that it reads."""
        try:
            made = self._session.run(self._outputs, {name: values[name] for name in self._inputs})
        except Exception as error:  # onnxruntime's errors have no common base below Exception
            raise InputError(f"tuning: running {label} failed: {one_line(error)}") from error
        return dict(zip(self._outputs, made, strict=True))


@dataclass(frozen=True)
class _Stage:
    """start, end: positions in the graph; end is the next stage's start, or the graph's end. flips: the
    numbers of those that happen inside."""

    start: int
    end: int
    flips: tuple[int, ...]


@dataclass(frozen=True)
class _Opened:
    """A stage that runs. flips: from its start to its end, the other way. piece: the same, as the base has
    it. rest: from there to the outputs. Each is None where it would make nothing that is asked for."""

    flips: dict[int, _Part | None]
    piece: _Part | None
    rest: _Part | None

    def measure(self, number: int, before: Tensors, after: Tensors, label: str) -> Tensors:
        """The values at the outputs with this flip. before, after: the base's where the stage starts and
        ends, and the outputs made so far."""
        flip = self.flips[number]
        seen = {**after, **(flip.run(before, label) if flip is not None else {})}
        return {**seen, **(self.rest.run(seen, label) if self.rest is not None else {})}


class _Plan:
    """The stages of some flips, and what is run for them."""

    def __init__(self, base: Base, flips: Sequence[Flip], reference: Reference, scored: bool) -> None:
        model = base.model
        nodes = dict.fromkeys(name for flip in flips for name in flip.nodes)
        self._switches = Switches(model, base.precisions, base.table, base.biases, list(nodes))
        for flip in flips:
            if flip.part != "both" and any(map(self._switches.int8, flip.nodes)):
                raise ValueError(f"{flip}: only the way to int8 has parts")
        self._model, self._flips, self._reference = model, flips, reference
        self._flow = Flow(self._switches.model.graph, model.unrunnable)
        self._scored = [name for name in model.checked_outputs if self._flow.is_array(name)] if scored else []
        self._shown = tuple(dict.fromkeys([*reference.tensors, *self._scored]))
        self._stages = list(self._staged())

    def turns(self) -> Iterator[Sequence[int]]:
        """The numbers of the feeds, as many at a time as may be held."""
        feeds = self._reference.feeds
        largest = max(feeds, key=lambda feed: sum(array.nbytes for array in feed.feeds.values()))
        made = {str(value.name) for node in self._model.graph for value in node.outputs}
        live = [self._flow.live(stage.start) for stage in self._stages]
        named = sorted({name for names in live for name in names if name in made})
        sizes = sizes_of(self._model, largest, named, "tuning")
        most = max((sum(sizes.get(name, 0) for name in names) for names in live), default=0)
        count = max(1, int(STATE_BYTES // max(1, _CUTS * most)))
        for first in range(0, len(feeds), count):
            yield range(first, min(first + count, len(feeds)))

    def runs(self, pool: Executor, feeds: Sequence[int]) -> Iterator[Callable[[], Any]]:
        """What to run on these feeds, flip by flip; each returns the flip, the feed, errors and outputs."""
        batches = [self._reference.feeds[feed] for feed in feeds]
        states = [dict(batch.feeds) for batch in batches]
        if lead := self._part(0, self._stages[0].start):
            states = self._on(pool, lead, states, batches, self._stages[0].start)
        for stage in self._stages:
            opened = self._open(stage)
            after = self._on(pool, opened.piece, states, batches, stage.end)
            for number in stage.flips:
                for index, feed in enumerate(feeds):
                    yield partial(self._run, opened, number, feed, states[index], after[index])
            states = after

    def _run(
        self, opened: _Opened, number: int, feed: int, before: Tensors, after: Tensors
    ) -> tuple[int, int, float, float | None, Tensors]:
        seen = opened.measure(number, before, after, self._reference.feeds[feed].label)
        nsr, kl = self._reference.nsr(feed, seen), self._reference.kl(feed, seen)
        return number, feed, nsr, kl, {name: seen[name] for name in self._scored}

    def _on(
        self,
        pool: Executor,
        part: _Part | None,
        states: Sequence[Tensors],
        batches: Sequence[Batch],
        end: int,
    ) -> list[Tensors]:
        """The states at `end`: what lives there, and the outputs so far."""
        needed = {*self._flow.live(end), *self._shown}

        def one(state: Tensors, batch: Batch) -> Tensors:
            values = {**state, **(part.run(state, batch.label) if part is not None else {})}
            return {name: array for name, array in values.items() if name in needed}

        return list(pool.map(one, states, batches))

    def _open(self, stage: _Stage) -> _Opened:
        flips: dict[int, _Part | None] = {}
        for number in stage.flips:
            flip = self._flips[number]
            with self._switches.flipped(flip.nodes, _KINDS[flip.part]):
                flips[number] = self._part(stage.start, stage.end) if flip.nodes else None
        graph_end = len(self._switches.model.graph)
        return _Opened(flips, self._part(stage.start, stage.end), self._part(stage.end, graph_end))

    def _part(self, start: int, end: int) -> _Part | None:
        """From one position to the other: to what lives there and the outputs made on the way."""
        wanted = dict.fromkeys([*self._flow.live(end), *self._shown])
        made = [name for name in wanted if start <= self._flow.made[name] < end]
        return _Part(part_of(self._switches.model, self._flow.live(start), made)) if made else None

    def _staged(self) -> Iterator[_Stage]:
        """As many stages as can be: a flip lies in one, and arrays alone are handed over."""
        end = len(self._switches.model.graph)
        spans = [
            self._switches.span(flip.nodes) if flip.nodes else (end - 1, end - 1) for flip in self._flips
        ]
        groups: list[tuple[int, list[int]]] = []
        reach = -1
        for number in sorted(range(len(spans)), key=spans.__getitem__):
            first, last = spans[number]
            if not groups:
                groups.append((first if self._flow.can_cut(first) else 0, []))
            elif first > reach and self._flow.can_cut(first):
                groups.append((first, []))
            groups[-1][1].append(number)
            reach = max(reach, last)
        ends = [start for start, _ in groups[1:]] + [end]
        for (start, numbers), stop in zip(groups, ends, strict=True):
            yield _Stage(start, stop, tuple(numbers))
