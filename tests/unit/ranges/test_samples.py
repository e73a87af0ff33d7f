"""Which samples choose and which judge."""

import numpy as np
import pytest

from trtbuild.ranges.samples import split


def numbers(feeds):
    return [int(value) for item in feeds for value in np.unique(item["x"])]


@pytest.fixture
def model(open_toy):
    return open_toy("toy (float[n,2] x) => (float[n,2] y) { y = Relu(x) }")


def numbered(count, first=0):
    return {"x": np.repeat(np.arange(first, first + count, dtype=np.float32)[:, None], 2, axis=1)}


@pytest.mark.parametrize(("count", "choosing", "held"), [(4, 1, 3), (5, 2, 3), (24, 8, 16), (500, 8, 16)])
def test_a_third_chooses(model, write_shards, count, choosing, held):
    found = split(write_shards(model, numbered(count)))
    assert (len(found.choosing), len(found.held_back)) == (choosing, held)
    assert not set(numbers(found.choosing)) & set(numbers(found.held_back))
    assert all(item["x"].shape == (1, 2) for item in (*found.choosing, *found.held_back))


def test_they_are_spread_over_the_set(model, write_shards):
    found = split(write_shards(model, *(numbered(30, 30 * shard) for shard in range(10))))
    everyone = sorted(numbers(found.choosing) + numbers(found.held_back))
    assert len(everyone) == 24
    assert max(np.diff([0, *everyone, 299])) <= 13  # evenly: 300 / 24 = 12.5
    for part in found:
        assert min(numbers(part)) < 40
        assert max(numbers(part)) > 260


def test_the_same_samples_every_time_however_they_are_filed(model, write_shards):
    whole = split(write_shards(model, numbered(100)))
    filed = split(write_shards(model, numbered(7), numbered(92, 7), numbered(1, 99)))
    assert [numbers(part) for part in whole] == [numbers(part) for part in filed]


@pytest.mark.parametrize("count", [1, 3])
def test_too_few(model, write_shards, count):
    assert split(write_shards(model, numbered(count))) == ([], [])


def test_a_fixed_batch(open_toy, write_shards):
    model = open_toy("toy (float[4,2] x) => (float[4,2] y) { y = Relu(x) }")
    found = split(write_shards(model, numbered(64)))
    assert all(item["x"].shape == (4, 2) for item in (*found.choosing, *found.held_back))
    assert (len(numbers(found.choosing)), len(numbers(found.held_back))) == (8, 16)
    assert split(write_shards(model, numbered(4))) == ([], []), "one batch cannot choose and judge"


@pytest.mark.parametrize("points", ["n", 3])
def test_a_file_is_a_sample_where_there_is_no_batch(open_toy, write_shards, points):
    model = open_toy(f"toy (float[{points},2] x) => (float[{points},2] y) {{ y = Relu(x) }}")
    feeds = [{"x": np.full((3, 2), number, np.float32)} for number in range(6)]
    found = split(write_shards(model, *feeds, may_batch=False))
    assert (len(found.choosing), len(found.held_back)) == (2, 4)
    assert all(item["x"].shape == (3, 2) for item in (*found.choosing, *found.held_back))
