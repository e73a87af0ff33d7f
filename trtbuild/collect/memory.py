"""How many tensors, and of how many samples, are held at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from calibrators.shards import Shard, ShardSet
from trtbuild.collect.forward import Forward, forward
from trtbuild.groups import pack
from trtbuild.model.model import Model
from trtbuild.rewrite.cut import SHAPE, with_shapes
from trtbuild.targets.session import infer, runner


def passes(
    model: Model, shards: ShardSet, tensors: Sequence[str], batch: int, limit: float
) -> Iterator[Forward]:
    """Passes over the samples that together show all `tensors`, each holding at most `limit` bytes of
    activations: first by fewer samples at a time, then, where those of one sample do not fit, by groups of
    tensors. A tensor that is too large alone is held alone.

    Raises InputError when the largest sample cannot be run, BuildError when ONNX Runtime refuses the model.
    """
    sizes = _sizes(model, shards, tensors)
    for group in pack(tensors, sizes, limit):
        size = sum(sizes[tensor] for tensor in group)
        yield forward(model, shards, group, max(1, min(batch, int(limit // max(size, 1)))))


def _sizes(model: Model, shards: ShardSet, tensors: Sequence[str]) -> dict[str, int]:
    """Bytes of each tensor where the largest sample is run alone, or in a batch that the model fixes."""
    largest = max(shards.shards, key=_volume)
    batch = next(shards.of_one(largest).batches(1, limit=1))
    sizes = {name: array.nbytes for name, array in batch.feeds.items()}
    produced = [tensor for tensor in tensors if tensor not in sizes]
    if not produced:
        return sizes
    shown = with_shapes(model.normalised, produced, cut=bool(model.unrunnable))
    bits = {value.name: value.dtype.bitwidth for node in model.graph for value in node.outputs if value.dtype}
    with runner(shown, "calibration") as active:
        shapes = infer(active, batch.feeds, batch.names[0])
    return sizes | {
        tensor: math.prod(shapes[tensor + SHAPE].tolist()) * bits[tensor] // 8 for tensor in produced
    }


def _volume(shard: Shard) -> int:
    return sum(math.prod(shape) for shape in shard.shapes)
