"""Whether the samples fit the shapes that a side takes: told before anything is built or run."""

from __future__ import annotations

from calibrators.shards import ShardSet
from trtbuild.errors import InputError
from trtbuild.targets.base import Side


def check_shapes(side: Side, shards: ShardSet) -> None:
    """Samples run one at a time. Raises InputError, naming the input, the shape and the profile, when some do
    not fit."""
    extents = shards.extents()
    for spec in shards.inputs:
        profile = side.profiles.get(spec.name)
        if profile is None:
            continue
        smallest, largest = extents[spec.name]
        if shards.batched:
            batch = spec.shape[0] or 1
            smallest, largest = (batch, *smallest[1:]), (batch, *largest[1:])
        for shape in (smallest, largest):
            axes = list(zip(profile.min, shape, profile.max, strict=True))
            outside = [axis for axis, (low, length, high) in enumerate(axes) if not low <= length <= high]
            if outside:
                raise InputError(
                    f"{side.name}: samples are run one at a time, with {spec.name!r} of shape {list(shape)}: "
                    f"axis {outside[0]} is outside of the profile, {list(profile.min)} to "
                    f"{list(profile.max)}; widen [inputs.{spec.name}] in the recipe and build again"
                )
