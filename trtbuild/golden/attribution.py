"""Whose error a layer's is: what it adds itself, what it hands on, and what is rounding.

Layers are run apart: every activation that is compared is cut, so that one pass computes each layer from
the golden's activations, or from the candidate's, and not from what the layer before it made of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from calibrators.shards import Batch, ShardSet
from trtbuild.collect.counting import cores
from trtbuild.errors import BuildError, InputError
from trtbuild.golden.metrics import Comparison, Difference, incomparable
from trtbuild.progress import say, track
from trtbuild.targets.base import Dissection, LayerRunner, Runner, Side
from trtbuild.targets.session import Tensors, infer

R = TypeVar("R", bound=Runner)
Dtypes = Mapping[str, np.dtype[Any]]
OWN, INHERITED, NOISE = "own errors", "inherited errors", "noise floors"
NOT_TOLD = "note: the {} of these layers are not told: {}"


@dataclass(frozen=True)
class Attribution:
    """Of one activation, beside its `difference` (the candidate's against the golden's, each side running
    on what it made itself).

    own: what the candidate's layers that make it compute from the *golden's* activations, against the
    golden's: what they add. inherited: what the golden's layers that make it compute from the *candidate's*
    activations, against the golden's: what they only hand on. noise: what the candidate makes of the same
    input at another optimisation level, against the candidate's: a difference within some 6 dB of it is
    chance. Rounding flips int8 steps, which layers behind amplify: on ocr-rec with pins 16 of 403 layers were
    that near, over 8 samples; run otherwise, their SQNR changed by up to 9 dB, all others' by less than 0.8.
    Few samples may show none: without pins 166 layers had no noise over 2 samples, 54 over 16.

    None where it cannot be told: a side lacks the activation or has it in another shape or dtype, its layers
    cannot be run apart, or running them so failed (which is said).
    """

    own: Difference | None
    inherited: Difference | None
    noise: Difference | None


def attribute(
    golden: Side, candidate: Side, groups: Sequence[Sequence[str]], shards: ShardSet, samples: int
) -> dict[str, Attribution]:
    """Of every activation in `groups`, over the first `samples` samples, one at a time.

    groups: activations that are compared at once; what a group's layers read of others is held beside them.
    The layers of an activation are all nodes between it and what is cut: the activations of all groups that
    have one shape and one dtype on both sides, in the first sample.
    Raises InputError when a side as a whole cannot run a sample.
    """
    found = {tensor: Attribution(None, None, None) for group in groups for tensor in group}
    if golden.dissection is None or candidate.dissection is None:
        return found
    sides = _Sides(golden, golden.dissection, candidate, candidate.dissection)
    cut = _cut(sides, groups, shards)
    for number, group in enumerate(groups, 1):
        part = f" (part {number} of {len(groups)})" if len(groups) > 1 else ""
        what, total = f"own and inherited errors{part}, samples", min(samples, shards.samples)
        found |= _of_group(sides, group, cut, track(shards.batches(1, samples), what, total, _size))
    return found


@dataclass(frozen=True)
class _Sides:
    golden: Side
    golden_parts: Dissection
    candidate: Side
    candidate_parts: Dissection


def _cut(sides: _Sides, groups: Sequence[Sequence[str]], shards: ShardSet) -> Dtypes:
    """Activation -> dtype, of those that can be fed to either side in place of its own."""
    batch = next(shards.batches(1, 1))
    cut: dict[str, np.dtype[Any]] = {}
    for group in groups:
        with sides.golden.showing(group) as golden, sides.candidate.showing(group) as candidate:
            expected = infer(golden, batch.feeds, batch.names[0])
            seen = infer(candidate, batch.feeds, batch.names[0])
        for tensor in group:
            if _comparable(tensor, expected, seen):
                cut[tensor] = expected[tensor].dtype
    return cut


def _of_group(
    sides: _Sides, group: Sequence[str], cut: Dtypes, batches: Iterable[Batch]
) -> dict[str, Attribution]:
    tensors = [tensor for tensor in group if tensor in cut]
    with ExitStack() as stack:
        adds = _opened(stack, OWN, sides.candidate_parts.layerwise(tensors, cut))
        hands_on = _opened(stack, INHERITED, sides.golden_parts.layerwise(tensors, cut))
        otherwise = _opened(stack, NOISE, sides.candidate_parts.otherwise(tensors))
        golden = stack.enter_context(sides.golden.showing(_with_reads(group, adds)))
        candidate = stack.enter_context(sides.candidate.showing(_with_reads(group, hands_on)))
        pool = stack.enter_context(ThreadPoolExecutor(cores()))
        own = _Figure(OWN, tensors, adds, pool)
        inherited = _Figure(INHERITED, tensors, hands_on, pool)
        noise = _Figure(NOISE, tensors, otherwise, pool)
        for batch in batches:
            sample = batch.names[0]
            expected = infer(golden, batch.feeds, sample)
            seen = infer(candidate, batch.feeds, sample)
            own.add({**expected, **batch.feeds}, expected, sample)
            inherited.add({**seen, **batch.feeds}, expected, sample)
            noise.add(batch.feeds, seen, sample)
    figures = (own, inherited, noise)
    return {tensor: Attribution(*(figure.of(tensor) for figure in figures)) for tensor in tensors}


class _Figure:
    """One figure of each activation, summed up over samples; there is none once a sample could not be run."""

    def __init__(self, what: str, tensors: Sequence[str], runner: Runner | None, pool: Executor) -> None:
        self._what, self._runner, self._pool = what, runner, pool
        self._comparisons = {tensor: Comparison() for tensor in tensors} if runner else {}

    def add(self, feeds: Tensors, reference: Tensors, sample: str) -> None:
        """What a sample makes of these feeds, against the reference."""
        if self._runner is None:
            return
        try:
            seen = infer(self._runner, feeds, sample)
        except InputError as error:
            say(NOT_TOLD.format(self._what, error))
            self._runner, self._comparisons = None, {}
            return

        def one(tensor: str) -> bool:
            comparable = _comparable(tensor, reference, seen)
            if comparable:
                self._comparisons[tensor].update(reference[tensor], seen[tensor])
            return comparable

        comparable = list(self._pool.map(one, self._comparisons))
        for tensor, good in zip(list(self._comparisons), comparable, strict=True):
            if not good:
                del self._comparisons[tensor]

    def of(self, tensor: str) -> Difference | None:
        comparison = self._comparisons.get(tensor)
        return comparison.result() if comparison else None


def _opened(stack: ExitStack, what: str, runner: AbstractContextManager[R]) -> R | None:
    """The runner; None, and said, where ONNX Runtime refuses the model: a diagnosis stops no check."""
    try:
        return stack.enter_context(runner)
    except BuildError as error:
        say(NOT_TOLD.format(what, error))
        return None


def _with_reads(group: Sequence[str], runner: LayerRunner | None) -> list[str]:
    return list(dict.fromkeys([*group, *(runner.reads if runner else ())]))


def _comparable(tensor: str, one: Tensors, other: Tensors) -> bool:
    return tensor in one and tensor in other and incomparable(one[tensor], other[tensor]) is None


def _size(batch: Batch) -> int:
    return len(batch.names)
