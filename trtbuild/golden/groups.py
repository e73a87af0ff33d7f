"""How many activations are shown at once: groups that fit the memory which they may take."""

from __future__ import annotations

import math
from collections.abc import Sequence

from calibrators.shards import Batch, ShardSet
from trtbuild.collect.memory import largest_sample, sizes_of
from trtbuild.groups import pack
from trtbuild.model.model import Model
from trtbuild.targets.base import Side


def groups_of(
    model: Model, tensors: Sequence[str], sides: Sequence[Side], shards: ShardSet, memory: float
) -> list[tuple[str, ...]]:
    """The tensors, in order, in groups: each takes at most `memory` bytes here, and on a side that has a
    limit of its own at most that.

    A tensor larger than the limit has a group of its own. Sizes are those of the largest sample; where a
    side has its limit they are grown to the largest shapes that it takes: an engine reserves memory for them.
    """
    if not tensors:
        return []
    batch = largest_sample(shards)
    own = (side.layer_bytes / _growth(side, batch) for side in sides if side.layer_bytes is not None)
    known = set(model.compared)
    sizes = sizes_of(model, batch, [tensor for tensor in tensors if tensor in known], "golden")
    return pack(tensors, sizes, min([memory, *own]))


def _growth(side: Side, batch: Batch) -> float:
    """How much larger than the sample the largest that the side takes is, by its inputs."""
    ratios = [
        math.prod(profile.max) / max(1, batch.feeds[name].size)
        for name, profile in side.profiles.items()
        if name in batch.feeds
    ]
    return max(ratios, default=1.0)
