"""The outputs of golden and candidate on every sample, as the build ships, and the task metric on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from calibrators.shards import Batch, ShardSet
from trtbuild.errors import InputError
from trtbuild.golden.differ import Differ
from trtbuild.golden.gate import MetricScores
from trtbuild.golden.metric_file import Metric
from trtbuild.progress import track
from trtbuild.targets.base import Side
from trtbuild.targets.session import Tensors, infer, per_sample, real_rows


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


def diff_outputs(
    golden: Side,
    candidate: Side,
    tensors: Sequence[str],
    shards: ShardSet,
    metric: Metric | None,
    max_drop: float,
) -> tuple[Differ, MetricScores | None]:
    """One pass over all samples. No score for a candidate that lacks an output: coverage fails it."""
    differ = Differ(tensors)
    golden_scores, candidate_scores = [], []
    for batch in run_outputs(golden, candidate, tensors, shards):
        differ.update(batch.names[0], batch.golden, batch.candidate)
        if metric is not None and differ.complete:
            for sample, expected, seen in batch.rows():
                golden_scores.append(metric(expected, sample))
                candidate_scores.append(metric(seen, sample))
    scores = None
    if metric is not None and differ.complete:
        count = len(golden_scores)
        scores = MetricScores(
            metric.name, count, sum(golden_scores) / count, sum(candidate_scores) / count, max_drop
        )
    return differ, scores


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
