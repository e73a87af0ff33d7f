"""Samples that a side cannot take are told before anything runs."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from trtbuild.errors import InputError
from trtbuild.golden.shapes import check_shapes
from trtbuild.recipe import InputSection


def side(**profiles):
    sections = {name: InputSection(min=low, opt=high, max=high) for name, (low, high) in profiles.items()}
    return SimpleNamespace(name="candidate", profiles=sections)


def ones(*shape):
    return np.ones(shape, np.float32)


@pytest.fixture
def shards(open_toy, shard_set):
    model = open_toy("toy (float[n,t,4] x) => (float[n,t,4] y) { y = Relu(x) }")
    return shard_set(model, {"x": ones(5, 2, 4)}, {"x": ones(3, 7, 4)})


def test_samples_within(shards):
    check_shapes(side(), shards)
    check_shapes(side(x=((1, 2, 4), (1, 7, 4))), shards)
    check_shapes(side(other=((9,), (9,))), shards)


@pytest.mark.parametrize(
    ("low", "high", "shape", "axis"),
    [
        ((2, 2, 4), (32, 7, 4), [1, 2, 4], 0),  # samples run one at a time
        ((1, 3, 4), (32, 7, 4), [1, 2, 4], 1),
        ((1, 2, 4), (32, 6, 4), [1, 7, 4], 1),
        ((1, 2, 5), (32, 7, 5), [1, 2, 4], 2),
    ],
)
def test_samples_outside(shards, low, high, shape, axis):
    with pytest.raises(InputError) as error:
        check_shapes(side(x=(low, high)), shards)
    assert str(error.value) == (
        f"candidate: samples are run one at a time, with 'x' of shape {shape}: axis {axis} is outside of the "
        f"profile, {list(low)} to {list(high)}; widen [inputs.x] in the recipe and build again"
    )


def test_a_batch_that_the_model_fixes(open_toy, shard_set):
    model = open_toy("toy (float[4,2] x) => (float[4,2] y) { y = Relu(x) }")
    shards = shard_set(model, {"x": ones(7, 2)})
    check_shapes(side(x=((4, 2), (4, 2))), shards)
    with pytest.raises(InputError, match=r"of shape \[4, 2\]: axis 0"):
        check_shapes(side(x=((1, 2), (1, 2))), shards)


def test_inputs_without_a_batch(open_toy, shard_set):
    model = open_toy("toy (float[a,4] x, float[3,4] z) => (float[3,4] y) { y = Add(x, z) }")
    shards = shard_set(model, {"x": ones(3, 4), "z": ones(3, 4)}, {"x": ones(1, 4), "z": ones(3, 4)})
    assert not shards.batched
    check_shapes(side(x=((1, 4), (3, 4))), shards)
    with pytest.raises(InputError, match=r"'x' of shape \[3, 4\]: axis 0"):
        check_shapes(side(x=((1, 4), (2, 4))), shards)
