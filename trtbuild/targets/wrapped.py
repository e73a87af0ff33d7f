"""A side that is another one but for what it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

from trtbuild.recipe import InputSection
from trtbuild.targets.base import Dissection, Runner, Shows, Side


class WrappedSide:
    """What ships is run as `side` does; whoever extends this says what `showing` has."""

    def __init__(self, side: Side) -> None:
        self.name, self.caveat, self.whole = side.name, side.caveat, side.whole
        self.shows: Shows = side.shows
        self.layer_bytes = side.layer_bytes
        self.profiles: Mapping[str, InputSection] = side.profiles
        self.dissection: Dissection | None = side.dissection
        self._side = side

    @property
    def outputs(self) -> tuple[str, ...]:
        return self._side.outputs

    def shipped(self, tensors: Sequence[str]) -> AbstractContextManager[Runner]:
        return self._side.shipped(tensors)
