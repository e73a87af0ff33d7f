"""Optimization profiles: the shapes that each dynamic input may take, from the recipe or the shards."""

from __future__ import annotations

from collections.abc import Mapping

from calibrators.shards import InputSpec, ShardSet
from trtbuild.errors import InputError
from trtbuild.names import nearest
from trtbuild.recipe import InputSection


def profiles_of(
    inputs: tuple[InputSpec, ...], recipe: Mapping[str, InputSection], shards: ShardSet | None
) -> dict[str, InputSection]:
    """The profile of every dynamic input that the recipe or the shards speak of.

    What the recipe leaves open takes the shards' shapes: from a batch of one up to a whole shard.
    Raises InputError when the recipe names an unknown input, or shapes that the model cannot take.
    """
    by_name = {spec.name: spec for spec in inputs}
    for name, section in recipe.items():
        if name not in by_name:
            raise InputError(f"[inputs.{name}]: the model has no such input{nearest(name, by_name)}")
        _check(section, by_name[name])
    profiles = dict(recipe)
    if shards is not None:
        extents = shards.extents()
        for spec in inputs:
            if spec.name not in profiles and None in spec.shape:
                smallest, largest = extents[spec.name]
                profiles[spec.name] = _from_shards(spec, smallest, largest, shards.batched)
    return profiles


def _from_shards(
    spec: InputSpec, smallest: tuple[int, ...], largest: tuple[int, ...], batched: bool
) -> InputSection:
    if batched and spec.shape[0] is not None:
        smallest, largest = (spec.shape[0], *smallest[1:]), (spec.shape[0], *largest[1:])
    elif batched:
        smallest = (1, *smallest[1:])
    return InputSection(min=smallest, opt=largest, max=largest)


def _check(section: InputSection, spec: InputSpec) -> None:
    for key in ("min", "opt", "max"):
        shape: tuple[int, ...] = getattr(section, key)
        fits = len(shape) == len(spec.shape) and all(
            fixed in (None, length) for fixed, length in zip(spec.shape, shape, strict=False)
        )
        if not fits:
            wanted = tuple("?" if length is None else length for length in spec.shape)
            raise InputError(
                f"[inputs.{spec.name}] {key} = {list(shape)} does not fit the model's shape {wanted}"
            )
