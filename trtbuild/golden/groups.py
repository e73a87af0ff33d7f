"""How many activations are shown at once: groups that fit the memory which a side may use for them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from calibrators.shards import Batch, ShardSet
from trtbuild.groups import pack
from trtbuild.model.model import Model
from trtbuild.targets.base import Side
from trtbuild.targets.session import infer
from trtbuild.targets.sides import as_given


def groups_of(
    model: Model, tensors: Sequence[str], sides: Sequence[Side], shards: ShardSet
) -> list[tuple[str, ...]]:
    """The tensors, in order, in groups that each side can show at once; one group where none has a limit.

    A tensor larger than the limit has a group of its own. Sizes are those of the first sample, grown to the
    largest shapes that a side takes, since an engine reserves memory for these.
    """
    limits = [side.layer_bytes / _growth(side, shards) for side in sides if side.layer_bytes is not None]
    if not tensors or not limits:
        return [tuple(tensors)] if tensors else []
    return pack(tensors, sizes_of(model, shards), min(limits))


def sizes_of(model: Model, shards: ShardSet) -> dict[str, int]:
    """Bytes of the float activations of the first sample, of those that ONNX Runtime can run and show."""
    if not model.compared:
        return {}
    golden, batch = as_given(model), _first(shards)
    with golden.showing(model.compared) as active:
        shown = infer(active, batch.feeds, batch.names[0])
    return {name: array.nbytes for name, array in shown.items()}


def _growth(side: Side, shards: ShardSet) -> float:
    """How much larger than the first sample the largest that the side takes is, by its inputs."""
    feeds = _first(shards).feeds
    ratios = [
        math.prod(profile.max) / max(1, feeds[name].size)
        for name, profile in side.profiles.items()
        if name in feeds
    ]
    return max(ratios, default=1.0)


def _first(shards: ShardSet) -> Batch:
    return next(shards.batches(1, 1))
