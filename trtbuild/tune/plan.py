"""The stages of a model in which nodes go the other way, and what runs of it for each of these.

Nothing before a node changes with it. What lives where a flip starts is computed once; from there a flip runs
to the end of its stage, and then what all flips of the stage have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import onnx_ir as ir

from calibrators.shards import Batch
from trtbuild.collect.memory import sizes_of
from trtbuild.errors import InputError, one_line
from trtbuild.ranges.judged import array_outputs
from trtbuild.ranges.stages import Flow, part_of
from trtbuild.targets.session import Tensors, open_session
from trtbuild.tune.reference import Reference
from trtbuild.tune.switches import KINDS, Base, Flip, Switches

STATE_BYTES = 1.5e9
"""What all feeds may take between two stages, about: else they take turns."""
STAGES = 12
"""Each costs a session from its end to the outputs; with fewer, the sessions of single flips are longer."""


class Seen(NamedTuple):
    """Of one flip and one feed, by their numbers. outputs: the model's, where they are scored."""

    flip: int
    feed: int
    nsr: float
    kl: float | None
    outputs: Tensors


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
    numbers of those that happen inside, and from where each runs."""

    start: int
    end: int
    flips: dict[int, int]


@dataclass(frozen=True)
class _Opened:
    """A stage that runs. flips: from where each starts to the stage's end. piece: all of the stage, as the
    base has it. rest: from there to the outputs. Each is None where it makes nothing that is asked for."""

    flips: dict[int, _Part | None]
    piece: _Part | None
    rest: _Part | None

    def measure(self, number: int, values: Tensors, label: str) -> Tensors:
        """The values at the outputs with this flip. values: the base's where the flip starts and where the
        stage ends, and the outputs made so far."""
        flip = self.flips[number]
        seen = {**values, **(flip.run(values, label) if flip is not None else {})}
        return {**seen, **(self.rest.run(seen, label) if self.rest is not None else {})}


class Plan:
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
        self._scored = array_outputs(model) if scored else []
        self._shown = tuple(dict.fromkeys([*reference.tensors, *self._scored]))
        self._stages = list(self._staged())

    def turns(self) -> Iterator[Sequence[int]]:
        """The numbers of the feeds, as many at a time as may be held, of a stage and of the next one, which
        is made ready meanwhile."""
        feeds = self._reference.feeds
        largest = max(feeds, key=lambda feed: sum(array.nbytes for array in feed.feeds.values()))
        made = {str(value.name) for node in self._model.graph for value in node.outputs}
        held = [self._held(stage) for stage in self._stages]
        named = sorted({name for names in held for name in names if name in made})
        sizes = sizes_of(self._model, largest, named, "tuning")
        most = max((sum(sizes.get(name, 0) for name in names) for names in held), default=0)
        count = max(1, int(STATE_BYTES // max(1, 2 * most)))
        for first in range(0, len(feeds), count):
            yield range(first, min(first + count, len(feeds)))

    def runs(self, pool: Executor, feeds: Sequence[int]) -> Iterator[Callable[[], Seen]]:
        """What to run on these feeds, flip by flip; each returns the flip, the feed, errors and outputs."""
        batches = [self._reference.feeds[feed] for feed in feeds]
        states = [dict(batch.feeds) for batch in batches]
        lead = self._part(0, self._stages[0].start, self._held(self._stages[0]))
        states = self._on(pool, lead, states, batches)
        for stage in self._stages:
            opened = self._open(stage)
            held = self._held(stage)
            states = [{name: array for name, array in state.items() if name in held} for state in states]
            states = self._on(pool, opened.piece, states, batches)
            for number in stage.flips:
                for index, feed in enumerate(feeds):
                    yield partial(self._run, opened, number, feed, states[index])

    def _run(self, opened: _Opened, number: int, feed: int, state: Tensors) -> Seen:
        seen = opened.measure(number, state, self._reference.feeds[feed].label)
        nsr, kl = self._reference.nsr(feed, seen), self._reference.kl(feed, seen)
        return Seen(number, feed, nsr, kl, {name: seen[name] for name in self._scored})

    def _on(
        self, pool: Executor, part: _Part | None, states: Sequence[Tensors], batches: Sequence[Batch]
    ) -> list[Tensors]:
        """The states, with what the part makes of them."""
        if part is None:
            return list(states)
        made = pool.map(part.run, states, (batch.label for batch in batches))
        return [{**state, **new} for state, new in zip(states, made, strict=True)]

    def _held(self, stage: _Stage) -> set[str]:
        """What is known while a stage is measured: what lives where it starts, where its flips do and where
        it ends, and the outputs."""
        cuts = {stage.start, *stage.flips.values(), stage.end}
        return {name for cut in cuts for name in self._flow.live(cut)} | set(self._shown)

    def _open(self, stage: _Stage) -> _Opened:
        graph_end = len(self._switches.model.graph)
        leaving = {*self._flow.live(stage.end), *self._shown}
        flips: dict[int, _Part | None] = {}
        for number, start in stage.flips.items():
            flip = self._flips[number]
            with self._switches.flipped(flip.nodes, KINDS[flip.part]):
                flips[number] = self._part(start, stage.end, leaving) if flip.nodes else None
        piece = self._part(stage.start, stage.end, self._held(stage))
        return _Opened(flips, piece, self._part(stage.end, graph_end, self._shown))

    def _part(self, start: int, end: int, wanted: Iterable[str]) -> _Part | None:
        """From one position to the other: to what is wanted of what is made there."""
        made = [name for name in sorted(wanted) if start <= self._flow.made[name] < end]
        return _Part(part_of(self._switches.model, self._flow.live(start), made)) if made else None

    def _staged(self) -> Iterator[_Stage]:
        """About STAGES of them: a flip lies in one, and arrays alone are handed over."""
        end = len(self._switches.model.graph)
        spans = [
            self._switches.span(flip.nodes) if flip.nodes else (end - 1, end - 1) for flip in self._flips
        ]
        size = -(-len({first for first, _ in spans}) // STAGES)
        stages: list[dict[int, int]] = []
        reach = start = 0
        for number in sorted(range(len(spans)), key=spans.__getitem__):
            first, last = spans[number]
            start = first if self._flow.can_cut(first) else start
            if not stages or (start > reach and len(set(stages[-1].values())) >= size):
                stages.append({})
            stages[-1][number] = start
            reach = max(reach, last)
        starts = [min(flips.values()) for flips in stages]
        for flips, start, stop in zip(stages, starts, [*starts[1:], end], strict=True):
            yield _Stage(start, stop, flips)
