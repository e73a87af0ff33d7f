"""What a benchmark feeds: the shapes of the profile, and the shards' values where they have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibrators.shards import InputSpec, ShardSet
from trtbuild.batches import one_batch
from trtbuild.errors import InputError
from trtbuild.recipe import InputSection

FLOAT, INT = np.dtype(np.float32), np.dtype(np.int64)
PROFILE = InputSection(min=(1, 3), opt=(4, 3), max=(8, 3))
X = InputSpec("x", FLOAT, (None, 3))


def rows(count: int, width: int = 3) -> Any:
    return np.arange(count * width, dtype=np.float32).reshape(count, width)


def shards(
    folder: Path, inputs: tuple[InputSpec, ...], *files: dict[str, Any], may_batch: bool = True
) -> ShardSet:
    for number, arrays in enumerate(files):
        np.savez(folder / f"{number}.npz", **arrays)
    return ShardSet.open(folder, inputs, may_batch=may_batch)


@pytest.mark.parametrize(("size", "samples"), [(None, 4), (1, 1), (8, 8)])
def test_samples_of_the_shards_in_order(tmp_path: Path, size: int | None, samples: int) -> None:
    opened = shards(tmp_path, (X,), {"x": rows(3)}, {"x": rows(7) + 100})
    fed = one_batch((X,), {"x": PROFILE}, opened, True, size)
    wanted = np.concatenate([rows(3), rows(7) + 100])[:samples]
    assert np.array_equal(fed.feeds["x"], wanted)
    assert (fed.samples, fed.source) == (samples, f"samples of {tmp_path}")


def test_too_few_samples_are_repeated(tmp_path: Path) -> None:
    fed = one_batch((X,), {"x": PROFILE}, shards(tmp_path, (X,), {"x": rows(3)}), True, 7)
    assert np.array_equal(fed.feeds["x"], rows(3)[[0, 1, 2, 0, 1, 2, 0]])


def test_another_batch_keeps_the_other_axes_of_opt() -> None:
    wide = InputSection(min=(1, 2), opt=(4, 3), max=(8, 5))
    fed = one_batch((InputSpec("x", FLOAT, (None, None)),), {"x": wide}, None, True, 8)
    assert fed.feeds["x"].shape == (8, 3)


def test_zeros_without_shards() -> None:
    ids = InputSpec("ids", INT, (None, 2))
    profiles = {"x": PROFILE, "ids": InputSection(min=(1, 2), opt=(4, 2), max=(8, 2))}
    fed = one_batch((X, ids), profiles, None, True)
    assert {name: (array.shape, array.dtype) for name, array in fed.feeds.items()} == {
        "x": ((4, 3), FLOAT),
        "ids": ((4, 2), INT),
    }
    assert not any(array.any() for array in fed.feeds.values())
    assert fed.source == "zeros: there are no shards"


def test_zeros_where_the_samples_have_another_shape(tmp_path: Path) -> None:
    wide = InputSpec("x", FLOAT, (None, None))
    fed = one_batch((wide,), {"x": PROFILE}, shards(tmp_path, (wide,), {"x": rows(9, 5)}), True)
    assert fed.feeds["x"].shape == (4, 3)
    assert not fed.feeds["x"].any()
    assert fed.source == "zeros: the shards' 'x' has shape (4, 5), not (4, 3)"


def test_a_static_input_needs_no_profile(tmp_path: Path) -> None:
    fixed = InputSpec("x", FLOAT, (2, 3))
    fed = one_batch((fixed,), {}, shards(tmp_path, (fixed,), {"x": rows(5)}), True)
    assert np.array_equal(fed.feeds["x"], rows(2))
    assert fed.samples == 2


def test_axis_0_that_is_no_batch(tmp_path: Path) -> None:
    opened = shards(tmp_path, (X,), {"x": rows(4)}, may_batch=False)
    fed = one_batch((X,), {"x": PROFILE}, opened, False)
    assert np.array_equal(fed.feeds["x"], rows(4))
    assert fed.samples == 1
    with pytest.raises(InputError, match=r"a batch of 4: axis 0 .* is no batch"):
        one_batch((X,), {"x": PROFILE}, opened, False, 4)


@pytest.mark.parametrize("size", [0, 9])
def test_a_batch_outside_the_profile(size: int) -> None:
    with pytest.raises(
        InputError, match=rf"a batch of {size}: input 'x' takes 1 to 8 samples; change \[inputs.x\]"
    ):
        one_batch((X,), {"x": PROFILE}, None, True, size)


def test_another_batch_than_the_models_own() -> None:
    with pytest.raises(InputError, match="takes 2 to 2 samples"):
        one_batch((InputSpec("x", FLOAT, (2, 3)),), {}, None, True, 4)


def test_a_dynamic_input_without_a_profile() -> None:
    with pytest.raises(InputError, match=r"'x' has dynamic axes; give \[inputs.x\]"):
        one_batch((X,), {}, None, True)
