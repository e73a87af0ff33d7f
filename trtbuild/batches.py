"""The one batch that a benchmark feeds: at the shapes of the profile, from the shards if they fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrators.inputs import InputSpec, sample_axis
from calibrators.shards import ShardSet
from trtbuild.errors import InputError
from trtbuild.recipe import InputSection

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Fed:
    """`feeds`: input name -> array. `samples`: how many are in it. `source`: where the values are from."""

    feeds: dict[str, NDArray[Any]]
    samples: int
    source: str


def one_batch(
    inputs: tuple[InputSpec, ...],
    profiles: Mapping[str, InputSection],
    shards: ShardSet | None,
    batched: bool,
    size: int | None = None,
) -> Fed:
    """A batch at the profiles' OPT shapes, or with `size` samples: of the shards, repeated if they are too
    few, or zeros where there are none of that shape.

    batched: whether axis 0 counts samples where it looks as if it did.
    Raises InputError for a size outside a profile, and for a dynamic input without one.
    """
    counts = batched and sample_axis(inputs)[0]
    if size is not None and not counts:
        raise InputError(f"a batch of {size}: axis 0 of this model's inputs is no batch")
    shapes = {spec.name: _shape(spec, profiles.get(spec.name), size) for spec in inputs}
    samples = next(iter(shapes.values()))[0] if counts else 1
    if shards is None:
        return Fed(_zeros(inputs, shapes), samples, "zeros: there are no shards")
    found = next(shards.batches(samples, limit=samples))
    rows = np.arange(samples) % len(found.names)
    feeds = {name: array[rows] if counts else array for name, array in found.feeds.items()}
    for name, shape in shapes.items():
        if feeds[name].shape != shape:
            why = f"the shards' {name!r} has shape {feeds[name].shape}, not {shape}"
            return Fed(_zeros(inputs, shapes), samples, f"zeros: {why}")
    return Fed(feeds, samples, f"samples of {shards.files[0].parent}")


def _shape(spec: InputSpec, profile: InputSection | None, size: int | None) -> Shape:
    if profile is None:
        fixed = tuple(length for length in spec.shape if length is not None)
        if len(fixed) < len(spec.shape):
            raise InputError(
                f"input {spec.name!r} has dynamic axes; give [inputs.{spec.name}] min, opt and max"
            )
        profile = InputSection(min=fixed, opt=fixed, max=fixed)
    if size is None:
        return profile.opt
    if not profile.min[0] <= size <= profile.max[0]:
        raise InputError(
            f"a batch of {size}: input {spec.name!r} takes {profile.min[0]} to {profile.max[0]} samples; "
            f"change [inputs.{spec.name}] max in the recipe"
        )
    return (size, *profile.opt[1:])


def _zeros(inputs: tuple[InputSpec, ...], shapes: Mapping[str, Shape]) -> dict[str, NDArray[Any]]:
    return {spec.name: np.zeros(shapes[spec.name], spec.dtype) for spec in inputs}
