"""Tensors in groups that fit into memory together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


def pack(tensors: Sequence[str], sizes: Mapping[str, int], limit: float) -> list[tuple[str, ...]]:
    """Groups of at most `limit` bytes, in order. A tensor of unknown size counts as the largest known one;
    where none is known, each is a group."""
    unknown = max(sizes.values(), default=math.inf)
    groups: list[list[str]] = []
    room = -math.inf
    for tensor in tensors:
        size = sizes.get(tensor, unknown)
        if size > room:
            groups.append([])
            room = limit
        groups[-1].append(tensor)
        room -= size
    return [tuple(group) for group in groups]
