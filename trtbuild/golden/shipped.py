"""The outputs of every sample on some sides, as a build ships, and which of their rows is which sample's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from calibrators.shards import Batch, ShardSet
from trtbuild.errors import InputError
from trtbuild.progress import track
from trtbuild.targets.base import Side
from trtbuild.targets.session import Tensors, infer, per_sample, real_rows


@dataclass(frozen=True)
class BatchOutputs:
    """The outputs of one batch on each side. Those in `rows_of` have a row per sample, `names` first;
    what fills up a fixed batch is cut off. With a batch of one every output is of that sample."""

    names: tuple[str, ...]
    rows_of: set[str] | None
    sides: tuple[Tensors, ...]

    def rows(self) -> Iterator[tuple[str, list[Tensors]]]:
        """Sample name, its outputs on each side, batch axis of 1 kept.

        Raises InputError when the samples of a fixed batch cannot be told apart in an output.
        """
        for index, name in enumerate(self.names):
            yield name, [self._row(outputs, index) for outputs in self.sides]

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


def run_outputs(
    sides: Sequence[Side], tensors: Sequence[str], shards: ShardSet, doing: str
) -> Iterator[BatchOutputs]:
    """These outputs of every sample on each side, with nothing else exposed: as the build ships.

    doing: what the progress shown is called. Raises InputError when a sample cannot be run.
    """
    with ExitStack() as stack:
        runners = [stack.enter_context(side.shipped(tensors)) for side in sides]
        rows_of = None
        for batch in track(shards.batches(1), f"{doing}, samples", shards.samples, _size):
            first, real = batch.names[0], len(batch.names)
            outputs = [infer(runner, batch.feeds, first) for runner in runners]
            if shards.batched and rows_of is None and len(next(iter(batch.feeds.values()))) > 1:
                rows_of = per_sample(runners[0], batch.feeds, outputs[0], first)
            yield BatchOutputs(
                batch.names, rows_of, tuple(real_rows(found, rows_of or (), real) for found in outputs)
            )


def _size(batch: Batch) -> int:
    return len(batch.names)
