"""Every value is counted once, whatever the batches, the memory, the order and the workers."""

import itertools
import os

import numpy as np
import pytest

from calibrators.errors import ShardError
from calibrators.histogram import Histogram
from calibrators.shards import ShardSet
from tests.unit.collect.conftest import TENSORS, TEXT, WEIGHTS
from trtbuild.collect import forward as forward_module
from trtbuild.collect.collect import Options, collect
from trtbuild.collect.memory import passes
from trtbuild.errors import InputError


@pytest.mark.parametrize("batch", [1, 2, 5, 64])
def test_every_value_is_counted_once(model, shards, expected, batch):
    assert collect(model, shards, TENSORS, batch) == expected


@pytest.mark.parametrize("memory", [1, 200, 500, 2000, 1e9])
def test_memory_changes_how_but_not_what_is_counted(model, shards, expected, memory):
    assert collect(model, shards, TENSORS, 8, Options(memory=memory)) == expected


def test_shuffled_shards_give_the_same_counts(model, arrays, write_shards, expected):
    assert collect(model, write_shards(model, arrays[::-1]), TENSORS, 4) == expected
    singles = [array[index : index + 1] for array in arrays for index in range(len(array))]
    order = np.random.default_rng(3).permutation(len(singles))
    assert collect(model, write_shards(model, [singles[i] for i in order]), TENSORS, 4) == expected


def test_passes_hold_no_more_than_memory_allows(model, shards):
    """x, r and g take 3 * 4 floats each in the largest sample: 48 bytes."""

    def plan(memory, batch=8):
        return [(step.tensors, step.batch) for step in passes(model, shards, TENSORS, batch, memory)]

    assert plan(1e9) == [(TENSORS, 8)]
    assert plan(3 * 48 * 8) == [(TENSORS, 8)]
    assert plan(3 * 48 * 3 + 1) == [(TENSORS, 3)]
    assert plan(2 * 48) == [(("x", "r"), 1), (("g",), 2)]
    assert plan(1) == [(("x",), 1), (("r",), 1), (("g",), 1)]


def test_the_largest_sample_decides_whatever_its_place(model, arrays, write_shards):
    plans = [
        [(step.tensors, step.batch) for step in passes(model, write_shards(model, order), TENSORS, 8, 300)]
        for order in (arrays, arrays[::-1])
    ]
    assert plans[0] == plans[1] == [(TENSORS, 2)]


def test_no_more_samples_run_at_a_time_than_memory_allows(model, shards, monkeypatch):
    sizes, honest = [], forward_module.infer

    def spy(active, feeds, samples):
        sizes.append(len(feeds["x"]))
        return honest(active, feeds, samples)

    monkeypatch.setattr(forward_module, "infer", spy)
    collect(model, shards, TENSORS, 8, Options(memory=3 * 48 * 3 + 1))
    assert sizes == [3, 3, 3, 3, 3, 3, 3]  # 12 of one shape, 9 of the other


def test_inputs_alone_need_no_model(model, shards, expected, monkeypatch):
    monkeypatch.setattr(forward_module, "runner", None)
    assert collect(model, shards, ["x"], 8) == {"x": expected["x"]}


def test_rows_that_fill_up_a_fixed_batch_are_not_counted(open_toy, arrays, write_shards, expected):
    model = open_toy(TEXT.format(n=4), WEIGHTS)
    assert collect(model, write_shards(model, arrays), TENSORS, 8) == expected


def test_without_a_batch_axis_each_file_is_one_sample(open_toy, arrays, write_shards, expected):
    model = open_toy(TEXT.format(n="n"), WEIGHTS)
    folder = write_shards(model, arrays).files[0].parent
    clouds = ShardSet.open(folder, model.inputs, may_batch=False)
    assert clouds.samples == len(arrays)
    assert collect(model, clouds, TENSORS, 8) == expected


@pytest.mark.parametrize("workers", [1, 2])
def test_samples_that_make_no_numbers_are_named(open_toy, write_shards, workers):
    model = open_toy("toy (float[n,4] x) => (float[n,4] y) { l = Log(x) y = MatMul(l, w1) }", WEIGHTS)
    x = np.ones((6, 4), np.float32)
    x[2, 1] = 0  # log(0) is -Inf
    shards = write_shards(model, [x])
    with pytest.raises(InputError, match="tensor 'l' has 1 NaN or Inf in 0000:2 to 0000:3: no range"):
        collect(model, shards, ["l"], 2, Options(workers=workers))


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_count_the_same_to_the_bit(model, shards, workers):
    one = collect(model, shards, TENSORS, 2)
    many = collect(model, shards, TENSORS, 2, Options(workers=workers))
    assert many == one
    assert sum(histogram.count for histogram in many.values()) == 3 * 4 * (12 * 3 + 9 * 2)


def test_workers_take_groups_too(model, shards, expected):
    assert collect(model, shards, TENSORS, 8, Options(memory=100, workers=2)) == expected


@pytest.mark.parametrize("workers", [1, 2])
def test_a_model_above_protobufs_limit_works(model, shards, expected, monkeypatch, workers):
    monkeypatch.setattr("trtbuild.model.files.PROTOBUF_LIMIT", 1)
    assert collect(model, shards, TENSORS, 8, Options(workers=workers)) == expected


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda path: path.unlink(), "cannot be read: No such file"),
        (lambda path: os.utime(path, (0, 0)), "changed after it was checked"),
        (lambda path: path.write_bytes(path.read_bytes()[:-4]), "changed after it was checked"),
    ],
    ids=["vanishes", "is written again", "is cut off"],
)
def test_a_shard_that_changes_meanwhile_is_an_error(model, shards, monkeypatch, harm, said, workers):
    shards.fingerprint()  # before: as when a build looks for a stored table
    honest = Histogram.update
    calls = itertools.count()

    def update(self, x):
        if next(calls) == 0:
            harm(shards.files[-1])
        honest(self, x)

    if workers == 1:
        monkeypatch.setattr(Histogram, "update", update)
    else:
        harm(shards.files[-1])  # processes: it changed after it was opened
    with pytest.raises(ShardError, match=said):
        collect(model, shards, TENSORS, 2, Options(workers=workers))
