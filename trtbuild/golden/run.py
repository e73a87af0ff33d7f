"""Golden and candidate side by side, sample by sample."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from calibrators.shards import Batch, ShardSet
from trtbuild.errors import InputError
from trtbuild.golden.metrics import Comparison, Difference, Histogram, incomparable
from trtbuild.model.model import Model
from trtbuild.precision.map import PrecisionMap
from trtbuild.progress import track
from trtbuild.targets.base import Side
from trtbuild.targets.session import Tensors, infer, per_sample, real_rows


@dataclass(frozen=True)
class TensorDiff:
    """One tensor of the golden against the candidate's, and the node that makes it.

    `problem` says why there is no difference to show: the candidate lacks the tensor, or has
    another shape. Without `difference` a tensor was not compared, and the gate fails.
    """

    tensor: str
    node: str
    op_type: str
    precision: str
    difference: Difference | None
    problem: str | None
    histogram: Histogram | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON; without the histogram, which is large."""
        fields = {name: value for name, value in vars(self).items() if name != "histogram"}
        return {**fields, "difference": self.difference.to_dict() if self.difference else None}


@dataclass(frozen=True)
class BatchOutputs:
    """The outputs of one batch on both sides. Those in `rows_of` have a row per sample, `names` first;
    what fills up a fixed batch is cut off. With a batch of one every output is of that sample."""

    names: tuple[str, ...]
    rows_of: set[str] | None
    golden: Tensors
    candidate: Tensors

    def rows(self) -> Iterator[tuple[str, Tensors, Tensors]]:
        """Sample name, golden's and candidate's outputs, batch axis of 1 kept.

        Raises InputError when the samples of a fixed batch cannot be told apart in an output.
        """
        for index, name in enumerate(self.names):
            yield name, self._row(self.golden, index), self._row(self.candidate, index)

    def _row(self, outputs: Tensors, index: int) -> Tensors:
        if self.rows_of is None:
            return outputs
        for name, array in outputs.items():
            if name not in self.rows_of:
                raise InputError(
                    f"output {name!r} of shape {array.shape} has no row per sample: the metric cannot score "
                    "the samples of a fixed batch; export the model with a dynamic batch axis"
                )
        return {name: array[index : index + 1] for name, array in outputs.items()}


class Differ:
    """Accumulates the differences of a fixed list of tensors, sample by sample."""

    def __init__(self, tensors: Sequence[str]) -> None:
        self._comparisons = {tensor: Comparison() for tensor in tensors}
        self._problems: dict[str, str] = {}

    def update(self, sample: str, golden: Tensors, candidate: Tensors) -> None:
        for tensor, comparison in self._comparisons.items():
            problem = _problem(tensor, golden, candidate)
            if problem:
                self._problems.setdefault(tensor, f"{problem} (sample {sample})")
            else:
                comparison.update(golden[tensor], candidate[tensor])

    def leave_out(self, tensors: Iterable[str]) -> None:
        """Forget tensors of the list: they are not compared, and no failure."""
        for tensor in tensors:
            del self._comparisons[tensor]

    @property
    def complete(self) -> bool:
        """Whether every tensor could be compared so far."""
        return not self._problems

    def results(self, model: Model, precisions: PrecisionMap) -> list[TensorDiff]:
        """One entry per tensor, in the order given; none is left out."""
        makers = {value.name: node for node in model.graph for value in node.outputs}
        results = []
        for tensor, comparison in self._comparisons.items():
            node, problem = makers.get(tensor), self._problems.get(tensor)
            name, op_type = (str(node.name), node.op_type) if node else ("", "input")
            precision = precisions[name] if node else "fp32"
            difference = None if problem else comparison.result()
            histogram = None if problem else comparison.histogram()
            results.append(TensorDiff(tensor, name, op_type, precision, difference, problem, histogram))
        return results


def diff_layers(
    golden: Side, candidate: Side, groups: Sequence[Sequence[str]], shards: ShardSet, limit: int
) -> tuple[list[Differ], dict[str, str]]:
    """Compare these activations over the first `limit` samples, one at a time, a group after the other.

    Returns a Differ per group, and why tensors of the groups are in none: tensor -> reason. Those are the
    tensors that a side which shows unfused layers only does not have. Raises InputError when a sample
    cannot be run.
    """
    differs, fused = [], {}
    for number, group in enumerate(groups, 1):
        part = f" (part {number} of {len(groups)})" if len(groups) > 1 else ""
        differ = Differ(group)
        with golden.showing(group) as golden_runner, candidate.showing(group) as candidate_runner:
            batches, total = shards.batches(1, limit), min(limit, shards.samples)
            tracked = track(batches, f"comparing layers{part}, samples", total, _size)
            for index, batch in enumerate(tracked):
                sample = batch.names[0]
                expected = infer(golden_runner, batch.feeds, sample)
                seen = infer(candidate_runner, batch.feeds, sample)
                if index == 0:
                    gone = {**_fused(golden, expected, group), **_fused(candidate, seen, group)}
                    differ.leave_out(gone)
                    fused.update(gone)
                differ.update(sample, expected, seen)
        differs.append(differ)
    return differs, fused


def _fused(side: Side, shown: Tensors, group: Sequence[str]) -> dict[str, str]:
    """What a side that shows unfused layers only does not have, and so in no sample; a tensor that it
    showed once must be there always."""
    if side.shows != "unfused layers":
        return {}
    return {
        tensor: f"fused: in the engine of the {side.name} it exists only inside a layer"
        for tensor in group
        if tensor not in shown
    }


def run_outputs(
    golden: Side, candidate: Side, tensors: Sequence[str], shards: ShardSet
) -> Iterator[BatchOutputs]:
    """These outputs of every sample on both sides, with nothing else exposed: as the build ships.

    Raises InputError when a sample cannot be run.
    """
    with golden.shipped(tensors) as golden_runner, candidate.shipped(tensors) as candidate_runner:
        batches, rows_of = shards.batches(1), None
        for batch in track(batches, "comparing outputs, samples", shards.samples, _size):
            first = batch.names[0]
            expected = infer(golden_runner, batch.feeds, first)
            seen = infer(candidate_runner, batch.feeds, first)
            if shards.batched and rows_of is None and len(next(iter(batch.feeds.values()))) > 1:
                rows_of = per_sample(golden_runner, batch.feeds, expected, first)
            real = len(batch.names)
            expected, seen = (real_rows(side, rows_of or (), real) for side in (expected, seen))
            yield BatchOutputs(batch.names, rows_of, expected, seen)


def _size(batch: Batch) -> int:
    return len(batch.names)


def _problem(tensor: str, golden: Tensors, candidate: Tensors) -> str | None:
    if tensor not in golden:
        return "the golden does not have this tensor"
    if tensor not in candidate:
        return "the candidate does not have this tensor"
    return incomparable(golden[tensor], candidate[tensor])
