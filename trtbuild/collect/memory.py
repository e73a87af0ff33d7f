"""How many tensors, and of how many samples, are held at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from calibrators.shards import Batch, Shard, ShardSet
from trtbuild.collect.forward import Forward, forward
from trtbuild.groups import pack
from trtbuild.model.model import Model
from trtbuild.rewrite.cut import SHAPE, with_shapes
from trtbuild.targets.session import infer, runner

FLOAT_BITS = 32  # where the model does not tell


def passes(
    model: Model, shards: ShardSet, tensors: Sequence[str], batch: int, limit: float
) -> Iterator[Forward]:
    """Passes over the samples that together show all `tensors`, each holding at most `limit` bytes of
    activations: first by fewer samples at a time, then, where those of one sample do not fit, by groups of
    tensors. A tensor that is too large alone is held alone.

    Raises InputError when the largest sample cannot be run, BuildError when ONNX Runtime refuses the model.
    """
    sizes = sizes_of(model, largest_sample(shards), tensors, "calibration")
    for group in pack(tensors, sizes, limit):
        size = sum(sizes[tensor] for tensor in group)
        yield forward(model, shards, group, max(1, min(batch, int(limit // max(size, 1)))))


def largest_sample(shards: ShardSet) -> Batch:
    """The one whose inputs have most elements, alone, or in a batch that the model fixes."""
    largest = max(shards.shards, key=_volume)
    return next(shards.of_one(largest).batches(1, limit=1))


def sizes_of(model: Model, batch: Batch, tensors: Sequence[str], name: str) -> dict[str, int]:
    """Bytes of each tensor where this batch is run: inputs of the model, or float activations that ONNX
    Runtime can compute. They are not held meanwhile. `name`: what runs it is called, in errors.

    Raises InputError when the batch cannot be run, BuildError when ONNX Runtime refuses the model.
    """
    sizes = {name: array.nbytes for name, array in batch.feeds.items()}
    produced = [tensor for tensor in tensors if tensor not in sizes]
    if not produced:
        return sizes
    shown = with_shapes(model.normalised, produced, cut=bool(model.unrunnable))
    dtypes = {value.name: value.dtype for node in model.graph for value in node.outputs}
    with runner(shown, name) as active:
        shapes = infer(active, batch.feeds, batch.label)
    for tensor in produced:
        bits = dtype.bitwidth if (dtype := dtypes.get(tensor)) else FLOAT_BITS
        sizes[tensor] = math.prod(shapes[tensor + SHAPE].tolist()) * bits // 8
    return sizes


def _volume(shard: Shard) -> int:
    return sum(math.prod(shape) for shape in shard.shapes)
