"""Profiles come from the recipe, what it leaves open from the shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from calibrators.shards import InputSpec, ShardSet
from trtbuild.errors import InputError
from trtbuild.profiles import profiles_of
from trtbuild.recipe import InputSection

FLOAT = np.dtype(np.float32)


def spec(name: str, *shape: int | None) -> InputSpec:
    return InputSpec(name, FLOAT, shape)


def shards(folder: Path, inputs: tuple[InputSpec, ...], *shapes: dict[str, tuple[int, ...]]) -> ShardSet:
    for number, arrays in enumerate(shapes):
        np.savez(folder / f"{number}.npz", **{name: np.zeros(shape, FLOAT) for name, shape in arrays.items()})
    return ShardSet.open(folder, inputs)


def section(low: tuple[int, ...], middle: tuple[int, ...], high: tuple[int, ...]) -> InputSection:
    return InputSection(min=low, opt=middle, max=high)


def test_the_recipe_goes_first(tmp_path: Path) -> None:
    inputs = (spec("x", None, 3),)
    own = section((1, 3), (4, 3), (8, 3))
    assert profiles_of(inputs, {"x": own}, shards(tmp_path, inputs, {"x": (5, 3)})) == {"x": own}


def test_shards_give_one_sample_up_to_a_whole_shard(tmp_path: Path) -> None:
    inputs = (spec("x", None, 3, None),)
    found = profiles_of(inputs, {}, shards(tmp_path, inputs, {"x": (5, 3, 40)}, {"x": (2, 3, 60)}))
    assert found == {"x": section((1, 3, 40), (5, 3, 60), (5, 3, 60))}


def test_a_fixed_batch_stays(tmp_path: Path) -> None:
    inputs = (spec("x", 4, None),)
    found = profiles_of(inputs, {}, shards(tmp_path, inputs, {"x": (8, 40)}, {"x": (8, 60)}))
    assert found == {"x": section((4, 40), (4, 60), (4, 60))}


def test_without_a_batch_axis_the_shapes_are_taken_as_they_are(tmp_path: Path) -> None:
    inputs = (spec("x", 2, None), spec("y", 3))
    found = profiles_of(
        inputs, {}, shards(tmp_path, inputs, {"x": (2, 7), "y": (3,)}, {"x": (2, 9), "y": (3,)})
    )
    assert found == {"x": section((2, 7), (2, 9), (2, 9))}


def test_static_inputs_need_no_profile(tmp_path: Path) -> None:
    inputs = (spec("x", None, 3), spec("y", 1, 2))
    assert set(profiles_of(inputs, {}, shards(tmp_path, inputs, {"x": (1, 3), "y": (1, 2)}))) == {"x"}


def test_without_shards_only_the_recipe_speaks() -> None:
    assert profiles_of((spec("x", None, 3),), {}, None) == {}


@pytest.mark.parametrize(
    "shapes",
    [
        section((1, 4), (1, 4), (1, 4)),
        section((1,), (1,), (1,)),
        section((1, 3, 1), (1, 3, 1), (1, 3, 1)),
        section((1, 3), (1, 3), (1, 5)),
    ],
)
def test_shapes_that_the_model_cannot_take(shapes: InputSection) -> None:
    with pytest.raises(InputError, match=r"\[inputs\.x\] (min|opt|max) = .* does not fit .*\('\?', 3\)"):
        profiles_of((spec("x", None, 3),), {"x": shapes}, None)


def test_an_unknown_input_is_named_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"\[inputs\.imgae\].*nearest: image"):
        profiles_of((spec("image", None),), {"imgae": section((1,), (1,), (1,))}, None)
