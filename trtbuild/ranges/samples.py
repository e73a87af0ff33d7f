"""Which samples choose the ranges, and which judge the choice."""

from __future__ import annotations

from typing import NamedTuple

from calibrators.shards import ShardSet
from trtbuild.targets.session import Tensors

FEWEST = 4
_USED = 24  # samples: eight that choose, sixteen that are held back


class Split(NamedTuple):
    """Feeds of one sample each; of as many as the model's batch where that is fixed."""

    choosing: list[Tensors]
    held_back: list[Tensors]


def split(shards: ShardSet) -> Split:
    """A third of up to 24 samples, spread evenly over the set, and the other two; the same ones every time.

    Both are empty where there are too few: under 4 samples, or a single batch of a fixed size.
    """
    batch = shards.fixed_batch or 1
    feeds = -(-shards.samples // batch)
    if shards.samples < FEWEST or feeds < 2:
        return Split([], [])
    wanted = min(max(_USED // batch, 2), feeds)
    positions = {(2 * index + 1) * feeds // (2 * wanted): index for index in range(wanted)}
    chosen = Split([], [])
    for position, item in enumerate(shards.batches(1)):
        if position in positions:
            chooses = positions[position] % 3 == 1
            (chosen.choosing if chooses else chosen.held_back).append(item.feeds)
    return chosen
