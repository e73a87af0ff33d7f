"""Every value of every tensor, counted: streaming, in groups that fit memory, on workers, resumable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from calibrators.histogram import Histogram
from calibrators.shards import ShardSet
from trtbuild.collect.checkpoint import Checkpoint, Origin
from trtbuild.collect.counting import counter
from trtbuild.collect.forward import Forward
from trtbuild.collect.memory import passes
from trtbuild.collect.spans import Span, cut, missing
from trtbuild.collect.workers import count_spans
from trtbuild.model.model import Model
from trtbuild.progress import say, track

SPANS_PER_WORKER = 4
LONGEST_SPAN = 256  # batches: what is lost with a worker


@dataclass(frozen=True)
class Options:
    """How to run. memory: bytes of activations that a process holds at once. workers: processes, or with a
    cluster ("dask://host:port", "ray://host:port") how many it is expected to have. checkpoints: a folder to
    keep counts in meanwhile, and to go on from; the caller deletes it."""

    memory: float = 1 << 29
    workers: int = 1
    cluster: str | None = None
    checkpoints: Path | None = None


ON_THIS_MACHINE = Options()


def collect(
    model: Model,
    shards: ShardSet,
    tensors: Sequence[str],
    batch: int,
    options: Options = ON_THIS_MACHINE,
) -> dict[str, Histogram]:
    """The histogram of each of `tensors` over all samples, run up to `batch` at a time.

    Neither workers nor interruptions change a bit of the counts.

    Raises InputError when a sample cannot be run or makes NaN or Inf, MachineError for a worker that is
    killed and a cluster that does not answer.
    """
    plan = list(passes(model, shards, tensors, batch, options.memory))
    if len(plan) > 1:
        say(f"{len(tensors)} tensors in {len(plan)} passes over the samples, as memory allows")
    histograms: dict[str, Histogram] = {}
    counted = _counted(model, plan, options, histograms)
    for _ in track(counted, "calibrating, samples", shards.samples * len(plan), int):
        pass
    return {tensor: histograms[tensor] for tensor in tensors}


def _counted(
    model: Model,
    plan: Sequence[Forward],
    options: Options,
    histograms: dict[str, Histogram],
) -> Iterator[int]:
    """Fill in `histograms`, pass after pass; yield how many samples were run."""
    elsewhere = options.workers > 1 or options.cluster is not None
    for forward in plan:
        checkpoint = _checkpoint(model, forward, options.checkpoints)
        sizes = forward.shards.batch_sizes(forward.batch)
        for begun in checkpoint.done:
            yield sum(sizes[slice(*begun)])
        left = list(missing(checkpoint.done, len(sizes)))
        steps = (
            _elsewhere(forward, left, checkpoint, options) if elsewhere else _here(forward, left, checkpoint)
        )
        for span in steps:
            yield sum(sizes[slice(*span)])
        if forward is not plan[-1]:
            checkpoint.finish()
        histograms.update(checkpoint.histograms)


def _here(forward: Forward, spans: Iterable[Span], checkpoint: Checkpoint) -> Iterator[Span]:
    with counter() as counting:
        for start, stop in spans:
            for index, (batch, activations) in enumerate(forward.run((start, stop)), start):
                counting.count(batch, activations, checkpoint.histograms)
                checkpoint.add((index, index + 1))
                yield index, index + 1


def _elsewhere(
    forward: Forward, spans: Sequence[Span], checkpoint: Checkpoint, options: Options
) -> Iterator[Span]:
    batches = sum(stop - start for start, stop in spans)
    length = min(LONGEST_SPAN, max(1, batches // (options.workers * SPANS_PER_WORKER)))
    for span, counts in count_spans(forward, cut(spans, length), options.workers, options.cluster):
        checkpoint.add(span, counts)
        yield span


def _checkpoint(model: Model, forward: Forward, folder: Path | None) -> Checkpoint:
    import onnxruntime

    how = {"tensors": forward.tensors, "batch": forward.batch, "onnxruntime": onnxruntime.__version__}
    origin = Origin(model.sha256, forward.shards.fingerprint(), json.dumps([forward.shards.batched, how]))
    name = hashlib.sha256(origin.passes.encode()).hexdigest()[:16]
    return Checkpoint(folder and folder / f"{name}.npz", origin, forward.tensors)
