"""Of the ranges that the methods propose for a tensor, the one that harms the outputs least."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibrators.scale import scale_of
from calibrators.table import Range
from trtbuild.model.model import Model
from trtbuild.progress import track
from trtbuild.ranges.error import clearly_less, error, typical
from trtbuild.ranges.probe import SCALE, probe
from trtbuild.ranges.stages import ON, Stage, stages
from trtbuild.ranges.whole import Ranges
from trtbuild.targets.base import Runner
from trtbuild.targets.session import Tensors, infer, runner

Candidates = Mapping[str, Sequence[Range]]


@dataclass(frozen=True)
class Choice:
    """range: other than min-max. gain: by how much less it harms the outputs, above 0."""

    range: Range
    gain: float


def choose(
    model: Model,
    feeds: Sequence[Tensors],
    reference: Sequence[Tensors],
    candidates: Candidates,
    minmax: Ranges,
) -> dict[str, Choice]:
    """The tensors for which another candidate than the first one, min-max, makes the errors clearly less.

    One tensor after the other, in the order in which the explicit model reads them: those before have what
    was chosen for them, those after still what `minmax` says. A tensor that only implicit mode quantizes is
    judged beside these and left in float again: all of them in int8 would drown the one that is judged.

    feeds: the samples to judge by. reference: the float model's outputs for each, those to compare.
    minmax: of all tensors, those included that the recipe gives a method of their own.
    """
    judged = track(
        _judged(model, feeds, reference, candidates, minmax),
        "choosing ranges, tensors",
        len(candidates),
        lambda _: 1,
    )
    return {tensor: choice for tensor, choice in judged if choice is not None}


def _judged(
    model: Model,
    feeds: Sequence[Tensors],
    reference: Sequence[Tensors],
    candidates: Candidates,
    minmax: Ranges,
) -> Iterator[tuple[str, Choice | None]]:
    whole = probe(model, minmax)
    scales = {tensor + SCALE: _scale(minmax[tensor].amax) for tensor in whole.scales}
    states = list(feeds)
    for stage in stages(whole, candidates.keys(), list(reference[0]), model.unrunnable):
        states = [{name: state[name] for name in stage.inputs if name in state} for state in states]
        if stage.rest is not None:
            with runner(stage.rest, "choosing ranges") as active:
                harm = _Harm(active, stage, states, reference, scales)
                now = None  # the errors with all scales as they are
                for tensor in stage.tensors:
                    switched = tensor in stage.switched
                    errors = harm.of_each(tensor, candidates[tensor], None if switched else now)
                    better = [0, *(i for i, seen in enumerate(errors) if clearly_less(seen, errors[0]))]
                    best = min(better, key=lambda index: typical(errors[index]))
                    if not switched:
                        scales[tensor + SCALE] = _scale(candidates[tensor][best].amax)
                        now = errors[best]
                    gain = typical(errors[0]) - typical(errors[best])
                    yield tensor, Choice(candidates[tensor][best], gain) if best else None
        if stage.piece is not None:
            with runner(stage.piece, "choosing ranges") as active:
                states = [{**state, **_run(active, stage.piece, {**state, **scales})} for state in states]


@dataclass(frozen=True)
class _Harm:
    """A stage that runs: what a tensor with some range does to the outputs that are still to come. scales: of
    the others, as far as they are decided now."""

    active: Runner
    stage: Stage
    states: Sequence[Tensors]
    reference: Sequence[Tensors]
    scales: Tensors

    def of_each(
        self, tensor: str, candidates: Sequence[Range], first: list[float] | None
    ) -> list[list[float]]:
        """The error on each sample with each of the ranges. first: those with the first, where they are
        known."""
        measured = candidates if first is None else candidates[1:]
        errors = [self._of(tensor, candidate.amax) for candidate in measured]
        return errors if first is None else [first, *errors]

    def _of(self, tensor: str, amax: float) -> list[float]:
        assert self.stage.rest is not None
        switches = {name + ON: np.asarray(name == tensor) for name in self.stage.switched}
        unread = {name + SCALE: _scale(0) for name in self.stage.switched}
        given = {**self.scales, **switches, **unread, tensor + SCALE: _scale(amax)}
        return [
            error(_run(self.active, self.stage.rest, {**state, **given}), expected)
            for state, expected in zip(self.states, self.reference, strict=True)
        ]


def _scale(amax: float) -> NDArray[np.float32]:
    return np.asarray(scale_of(amax))


def _run(active: Runner, part: ir.Model, values: Tensors) -> Tensors:
    names = [str(value.name) for value in part.graph.inputs]
    return infer(active, {name: values[name] for name in names}, "a sample")
