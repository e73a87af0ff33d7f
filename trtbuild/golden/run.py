"""Golden and candidate side by side, batch by batch, through Polygraphy's runners.

The golden is the model file as it was given, never the normalised one: a bug of the normaliser
must show as a difference, not stand on both sides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from calibrators.shards import Batch, ShardSet
from trtbuild.errors import InputError
from trtbuild.golden.metrics import Comparison, Difference
from trtbuild.model import files
from trtbuild.model.model import Model
from trtbuild.precision.map import PrecisionMap
from trtbuild.progress import track
from trtbuild.rewrite.cut import with_outputs
from trtbuild.targets.session import Tensors, infer, per_sample, real_rows, runner


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

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "difference": self.difference.to_dict() if self.difference else None}


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
            results.append(TensorDiff(tensor, name, op_type, precision, difference, problem))
        return results


def diff_layers(
    model: Model, candidate: ir.Model, precisions: PrecisionMap, shards: ShardSet, limit: int
) -> list[TensorDiff]:
    """Compare every float activation over the first `limit` samples, one at a time.

    Raises InputError when a sample cannot be run.
    """
    differ = Differ(model.compared)
    total = min(limit, shards.samples)
    with _side_by_side(model, candidate, model.compared) as (golden_runner, candidate_runner):
        for batch in track(shards.batches(1, limit), "comparing layers, samples", total, _size):
            sample = batch.names[0]
            golden = infer(golden_runner, batch.feeds, sample)
            differ.update(sample, golden, infer(candidate_runner, batch.feeds, sample))
    return differ.results(model, precisions)


def run_outputs(model: Model, candidate: ir.Model, shards: ShardSet) -> Iterator[BatchOutputs]:
    """The checked outputs of every sample on both sides, with nothing else exposed: as the build ships.

    Raises InputError when a sample cannot be run.
    """
    with _side_by_side(model, candidate, model.checked_outputs) as (golden_runner, candidate_runner):
        batches, rows_of = shards.batches(1), None
        for batch in track(batches, "comparing outputs, samples", shards.samples, _size):
            first = batch.names[0]
            golden = infer(golden_runner, batch.feeds, first)
            seen = infer(candidate_runner, batch.feeds, first)
            if shards.batched and rows_of is None and len(next(iter(batch.feeds.values()))) > 1:
                rows_of = per_sample(golden_runner, batch.feeds, golden, first)
            real = len(batch.names)
            golden, seen = (real_rows(side, rows_of or (), real) for side in (golden, seen))
            yield BatchOutputs(batch.names, rows_of, golden, seen)


@contextmanager
def _side_by_side(model: Model, candidate: ir.Model, outputs: Sequence[str]) -> Iterator[tuple[Any, Any]]:
    cut = bool(model.unrunnable)
    golden = with_outputs(_as_given(model), outputs, cut)
    with (
        runner(golden, "golden") as golden_runner,
        runner(with_outputs(candidate, outputs, cut), "candidate") as candidate_runner,
    ):
        yield golden_runner, candidate_runner


def _as_given(model: Model) -> ir.Model:
    """The model file, nodes unnamed: ONNX Runtime refuses repeated names, which mean nothing to it."""
    given = files.read(model.path)
    for node in given.graph:
        node.name = None
    return given


def _size(batch: Batch) -> int:
    return len(batch.names)


def _problem(tensor: str, golden: Tensors, candidate: Tensors) -> str | None:
    if tensor not in golden:
        return "the golden does not have this tensor"
    if tensor not in candidate:
        return "the candidate does not have this tensor"
    if golden[tensor].shape != candidate[tensor].shape:
        return f"shape {candidate[tensor].shape} where the golden has {golden[tensor].shape}"
    if golden[tensor].dtype != candidate[tensor].dtype:
        return f"dtype {candidate[tensor].dtype} where the golden has {golden[tensor].dtype}"
    if golden[tensor].dtype.kind in "OSUc":
        return f"values of dtype {golden[tensor].dtype} cannot be compared as numbers"
    return None
