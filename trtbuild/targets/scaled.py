"""A side that runs an equalized model, seen with the magnitudes that the model file has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trtbuild.model.model import Model
from trtbuild.model.scaling import Scaled
from trtbuild.targets.base import Dissection, LayerRunner, Runner, Side
from trtbuild.targets.wrapped import WrappedSide


def as_in_file(side: Side, model: Model) -> Side:
    """`side`, which runs `model`; where that is equalized, its activations are divided by their factors."""
    return _ScaledSide(side, model.scaled) if model.scaled else side


class _ScaledSide(WrappedSide):
    """Shows activations as in the model file. Outputs of the model are never scaled."""

    def __init__(self, side: Side, scaled: Scaled) -> None:
        super().__init__(side)
        self.dissection = self.dissection and _ScaledParts(self.dissection, scaled)
        self._scaled = scaled

    @contextmanager
    def showing(self, tensors: Sequence[str]) -> Iterator[Runner]:
        with self._side.showing(tensors) as active:
            yield _Divided(active, self._scaled)


class _ScaledParts:
    """Layers take and give activations as in the model file."""

    def __init__(self, parts: Dissection, scaled: Scaled) -> None:
        self._parts, self._scaled = parts, scaled

    @contextmanager
    def layerwise(self, tensors: Sequence[str], fed: Mapping[str, np.dtype[Any]]) -> Iterator[LayerRunner]:
        with self._parts.layerwise(tensors, fed) as active:
            yield _Layers(active, self._scaled)

    @contextmanager
    def otherwise(self, tensors: Sequence[str]) -> Iterator[Runner]:
        with self._parts.otherwise(tensors) as active:
            yield _Divided(active, self._scaled)


class _Divided:
    """A runner whose scaled activations are divided by their factors."""

    def __init__(self, active: Runner, scaled: Scaled) -> None:
        self.name, self._active, self._scaled = active.name, active, scaled

    def infer(self, feed_dict: dict[str, Any], check_inputs: bool = False) -> Mapping[str, Any]:
        shown = self._active.infer(feed_dict, check_inputs=check_inputs)
        return {name: self._divided(name, array) for name, array in shown.items()}

    def _divided(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        scaling = self._scaled.get(name)
        return array if scaling is None else np.asarray(array / scaling.array, array.dtype)


class _Layers(_Divided):
    """Of layers apart: what they are fed is multiplied first."""

    def __init__(self, active: LayerRunner, scaled: Scaled) -> None:
        super().__init__(active, scaled)
        self.reads = active.reads

    def infer(self, feed_dict: dict[str, Any], check_inputs: bool = False) -> Mapping[str, Any]:
        feeds = {
            name: np.asarray(array * self._scaled[name].array, array.dtype) if name in self._scaled else array
            for name, array in feed_dict.items()
        }
        return super().infer(feeds, check_inputs)
