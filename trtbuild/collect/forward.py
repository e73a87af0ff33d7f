"""Samples through the float model: the activations of one batch after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from calibrators.shards import Batch, ShardSet
from trtbuild.model.model import Model
from trtbuild.rewrite.cut import with_outputs
from trtbuild.targets.base import Runner
from trtbuild.targets.session import Loadable, Tensors, infer, per_sample, real_rows, runner


@dataclass(frozen=True)
class Forward:
    """What to run on which samples. `model` shows the tensors that it computes; None where all `tensors` are
    inputs. `batch`: samples that run at a time."""

    model: Loadable | None
    shards: ShardSet
    tensors: tuple[str, ...]
    batch: int

    def run(
        self, span: tuple[int, int] | None = None, threads: int | None = None
    ) -> Iterator[tuple[Batch, Tensors]]:
        """Each batch (of the span only, if one is given) and the tensors of it.

        Rows that only fill up a fixed batch are cut off, where they are known to be rows: they repeat real
        samples, so keeping one in doubt clips nothing. Nobody else holds on to what is yielded.
        Raises InputError when a sample cannot be run, BuildError when ONNX Runtime refuses the model.
        """
        batches = self.shards.batches(self.batch, span=span)
        if self.model is None:
            own = self.tensors if self.shards.batched else ()
            for item in batches:
                yield item, real_rows(item.feeds, own, len(item.names))
            return
        with runner(self.model, "calibration", threads) as active:
            for item in batches:
                yield item, _run(active, item, self.shards.batched)


def forward(model: Model, shards: ShardSet, tensors: Sequence[str], batch: int) -> Forward:
    """The passes that show `tensors`: inputs of the model or float activations."""
    inputs = {spec.name for spec in model.inputs}
    produced = [tensor for tensor in tensors if tensor not in inputs]
    # Not cut where it need not be: that the last nodes run too says that the samples are fit for the model.
    shown = with_outputs(model.normalised, produced, cut=bool(model.unrunnable)) if produced else None
    return Forward(shown, shards, tuple(tensors), batch)


def activations(
    model: Model, shards: ShardSet, tensors: Sequence[str], batch: int
) -> Iterator[tuple[Batch, Tensors]]:
    """Each batch of up to `batch` samples, with `tensors` of it. Raises as `Forward.run` does."""
    return forward(model, shards, tensors, batch).run()


def _run(active: Runner, item: Batch, batched: bool) -> Tensors:
    outputs, real = infer(active, item.feeds, item.label), len(item.names)
    filled_up = batched and len(next(iter(item.feeds.values()))) > real
    rows = per_sample(active, item.feeds, outputs, item.label) if filled_up else set()
    rows_of = {*item.feeds, *rows} if filled_up else ()
    return real_rows({**item.feeds, **outputs}, rows_of, real)
