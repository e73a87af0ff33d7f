"""How activations are cut into groups, by what they take."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from trtbuild.collect.memory import largest_sample, sizes_of
from trtbuild.golden.groups import groups_of
from trtbuild.groups import pack
from trtbuild.recipe import InputSection

MUCH = 1e12
SIZES = {"a": 4, "b": 4, "c": 3, "d": 9, "e": 1}


@pytest.mark.parametrize(
    ("limit", "groups"),
    [
        (100, ["abcde"]),
        (21, ["abcde"]),
        (20, ["abcd", "e"]),
        (8, ["ab", "c", "d", "e"]),
        (11, ["abc", "de"]),
        (10, ["ab", "c", "de"]),
        (1, ["a", "b", "c", "d", "e"]),
    ],
)
def test_groups_are_full_but_not_over_the_limit(limit, groups):
    assert ["".join(group) for group in pack("abcde", SIZES, limit)] == groups


def test_one_of_unknown_size_counts_as_the_largest():
    assert pack(["a", "x", "c"], SIZES, 13) == [("a", "x"), ("c",)]
    assert pack(["a", "x", "c"], SIZES, 12) == [("a",), ("x", "c")]


def test_where_no_size_is_known_each_is_a_group():
    assert pack(["a", "b"], {}, 1e12) == [("a",), ("b",)]


def side(layer_bytes=None, profiles=None):
    return SimpleNamespace(layer_bytes=layer_bytes, profiles=profiles or {})


@pytest.fixture
def model(open_toy):
    text = "toy (float[n,4] x) => (float[n,4] y) { h = MatMul(x, w) r = Concat<axis = 1>(h, h) y = Relu(h) }"
    return open_toy(text, {"w": np.eye(4, dtype=np.float32)})


@pytest.fixture
def shards(model, shard_set):
    return shard_set(model, {"x": np.ones((3, 4), np.float32)})


def test_sizes_are_those_of_the_largest_sample(open_toy, shard_set):
    text = "toy (float[n,s,4] x) => (float[n,s,4] y) { h = MatMul(x, w) y = Relu(h) }"
    model = open_toy(text, {"w": np.eye(4, dtype=np.float32)})
    lengths = ({"x": np.ones((5, length, 4), np.float32)} for length in (1, 3, 2))
    batch = largest_sample(shard_set(model, *lengths))
    assert batch.names == ("1:0",)
    assert sizes_of(model, batch, ["h", "x", "y"], "some") == {"h": 48, "x": 48, "y": 48}


def test_the_smallest_limit_counts(model, shards):
    names = ["h", "y"]
    assert groups_of(model, names, [side(), side()], shards, 32) == [("h", "y")]
    assert groups_of(model, names, [side(), side()], shards, 31) == [("h",), ("y",)]
    assert groups_of(model, names, [side(), side(32)], shards, MUCH) == [("h", "y")]
    assert groups_of(model, names, [side(32), side(31)], shards, MUCH) == [("h",), ("y",)]
    assert groups_of(model, [], [side(1)], shards, MUCH) == []


def test_a_side_reserves_memory_for_the_largest_shapes(model, shards):
    profile = {"x": InputSection(min=(1, 4), opt=(8, 4), max=(8, 4))}
    assert groups_of(model, ["h", "y"], [side(255, profile)], shards, MUCH) == [("h",), ("y",)]
    assert groups_of(model, ["h", "y"], [side(256, profile)], shards, MUCH) == [("h", "y")]


def test_a_model_that_onnx_runtime_can_run_a_part_of(open_toy, shard_set):
    text = "toy (float[n,4] x) => (float[n,4] y) { h = MatMul(x, w) p = EfficientNMS_TRT(h) y = Relu(p) }"
    model = open_toy(text, {"w": np.eye(4, dtype=np.float32)})
    shards = shard_set(model, {"x": np.ones((3, 4), np.float32)})
    assert groups_of(model, ["h", "p", "y"], [side(32)], shards, MUCH) == [("h", "p"), ("y",)]


def test_a_model_that_onnx_runtime_cannot_run(open_toy, shard_set):
    model = open_toy("toy (float[n,4] x) => (float[n,4] y) { y = EfficientNMS_TRT(x) }")
    shards = shard_set(model, {"x": np.ones((3, 4), np.float32)})
    assert groups_of(model, ["y"], [side(1)], shards, MUCH) == [("y",)]
