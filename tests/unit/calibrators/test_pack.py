"""Arrays cut into samples, and samples written as shards."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibrators import write
from calibrators.errors import CalibratorError, ShardError
from calibrators.pack import Sample, samples_in
from calibrators.shards import InputSpec, ShardSet
from calibrators.write import SOURCES, write_shards

F32, I64 = np.dtype("float32"), np.dtype("int64")
X = [InputSpec("x", F32, (None, 3))]
TWO = [InputSpec("x", F32, (None, 3)), InputSpec("ids", I64, (None,))]


def cut(arrays, inputs, batched=True):
    return [
        (sample.source, {name: array.tolist() for name, array in sample.arrays.items()})
        for sample in samples_in("a.npz", arrays, inputs, batched)
    ]


def some(count: int, width: int = 3, first: int = 0) -> Iterator[Sample]:
    for index in range(first, first + count):
        yield Sample(f"from {index}", {"x": np.full(width, index, np.float32)})


def test_a_batch_is_cut_along_axis_0():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert cut({"x": x}, X) == [("a.npz:0", {"x": [0, 1, 2]}), ("a.npz:1", {"x": [3, 4, 5]})]


def test_without_the_batch_axis_it_is_one_sample():
    assert cut({"x": np.ones(3, np.float32)}, X) == [("a.npz", {"x": [1, 1, 1]})]
    assert cut({"x": np.ones((1, 3), np.float32)}, X) == [("a.npz", {"x": [1, 1, 1]})]
    assert cut({"x": np.ones(3, np.float32), "ids": np.array(7)}, TWO) == [
        ("a.npz", {"x": [1] * 3, "ids": 7})
    ]


def test_a_model_without_a_batch_axis_takes_the_arrays_as_they_are():
    arrays = {"x": np.ones((2, 3), np.float32), "ids": np.array([1, 2, 3])}
    assert cut(arrays, TWO, batched=False) == [("a.npz", {"x": [[1] * 3] * 2, "ids": [1, 2, 3]})]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.ones((2, 3))}, "a.npz: input 'x' is float64, the model takes float32"),
        ({"x": np.ones(3)}, "input 'x' is float64"),
        ({"x": np.ones((2, 4), np.float32)}, "axis 1 is 4"),
        ({"x": np.ones(4, np.float32)}, "axis 1 is 4"),
        ({"x": np.ones((1, 2, 3), np.float32)}, "rank 3; the model takes rank 2"),
        ({"y": np.ones((1, 3), np.float32)}, r"missing input\(s\) 'x'"),
        ({"x": np.ones((0, 3), np.float32)}, "no samples in it"),
        ({"x": np.array([[1, 2, 3], [1, np.nan, 3]], np.float32)}, "a.npz:1: input 'x' has 1 NaN or Inf"),
        ({"x": np.array([-np.inf, np.nan, 3], np.float32)}, "a.npz: input 'x' has 2 NaN or Inf"),
    ],
)
def test_what_the_model_does_not_take(arrays, words):
    with pytest.raises(ShardError, match=words):
        list(samples_in("a.npz", arrays, X, True))


def test_inputs_that_disagree_on_the_batch_axis():
    with pytest.raises(ShardError, match="'x' has shape \\(3,\\), rank 1"):
        list(samples_in("a", {"x": np.ones(3, np.float32), "ids": np.array([1])}, TWO, True))
    with pytest.raises(ShardError, match="disagree on the number of samples: 'x' 2, 'ids' 1"):
        list(samples_in("a", {"x": np.ones((2, 3), np.float32), "ids": np.array([1])}, TWO, True))


@pytest.mark.parametrize("dtype", [np.dtype(object), np.dtype("V2"), np.dtype("U3")])
def test_a_dtype_that_no_shard_can_hold(dtype):
    with pytest.raises(ShardError, match=r"no \.npz shard can hold that"):
        list(samples_in("a", {"x": np.zeros((1, 3), dtype)}, [InputSpec("x", dtype, (None, 3))], True))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=12), st.integers(1, 5))
def test_what_is_written_is_what_is_read(tmp_path_factory, widths, per_shard):
    """Whatever the shapes: the same samples in the same order, in no more files than need be."""
    folder = tmp_path_factory.mktemp("pack") / "out"
    samples = [Sample(str(i), {"x": np.full(width, i, np.float32)}) for i, width in enumerate(widths)]
    written = write_shards(folder, samples, per_shard, batched=True)
    opened = ShardSet.open(folder, [InputSpec("x", F32, (None, None))])
    read = [batch.feeds["x"] for batch in opened.batches(1)]
    assert [(array.shape, array[0, 0]) for array in read] == [((1, w), i) for i, w in enumerate(widths)]
    assert (written.samples, written.shards) == (len(widths), len(opened.files))
    assert max(shard.samples for shard in opened.shards) <= per_shard
    assert written.bytes == sum(path.stat().st_size for path in opened.files)


def test_shards_are_full_and_say_where_samples_are_from(tmp_path: Path):
    write_shards(tmp_path / "out", some(5), 2, batched=True)
    opened = ShardSet.open(tmp_path / "out", X)
    assert [shard.samples for shard in opened.shards] == [2, 2, 1]
    names = [name for batch in opened.batches(8) for name in batch.names]
    sources = json.loads((tmp_path / "out" / SOURCES).read_text())
    assert [sources[name] for name in names] == [f"from {i}" for i in range(5)]


def test_without_a_batch_axis_each_sample_is_a_file(tmp_path: Path):
    samples = [Sample(str(i), {"x": np.ones((2, 3), F32), "file": np.array([i])}) for i in range(3)]
    assert write_shards(tmp_path / "out", samples, 64, batched=False).shards == 3
    inputs = [InputSpec("x", F32, (None, 3)), InputSpec("file", I64, (1,))]
    feeds = [batch.feeds for batch in ShardSet.open(tmp_path / "out", inputs, may_batch=False).batches(8)]
    assert [feed["file"].tolist() for feed in feeds] == [[0], [1], [2]]  # np.savez could not write that name
    assert feeds[0]["x"].shape == (2, 3)


def test_the_same_samples_give_the_same_bytes(tmp_path: Path):
    for name in ("a", "b"):
        write_shards(tmp_path / name, some(5), 2, batched=True)
    a, b = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("a", "b"))
    assert a == b


def test_no_more_than_a_shard_is_held(tmp_path: Path):
    """When the last of a shard is asked for, all before it are on disk."""
    seen = []

    def watched():
        for sample in some(7):
            seen.append(len(list(tmp_path.glob(".unfinished-*/*.npz"))))
            yield sample

    write_shards(tmp_path / "out", watched(), 2, batched=True)
    assert seen == [0, 0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ShardError("bad sample"), MemoryError])
def test_what_fails_on_the_way_leaves_nothing(tmp_path: Path, error):
    def failing():
        yield from some(5)
        raise error

    with pytest.raises(error if isinstance(error, type) else type(error)):
        write_shards(tmp_path / "out", failing(), 2, batched=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["shard", "rename"])
def test_a_full_disk_names_the_folder(tmp_path: Path, monkeypatch, where):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    if where == "shard":
        monkeypatch.setattr(write.npy, "write_array", full)
    else:
        monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(ShardError, match="out cannot be written: No space left on device") as caught:
        write_shards(tmp_path / "out", some(5), 2, batched=True)
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_filled(tmp_path: Path):
    (tmp_path / "out").mkdir()
    write_shards(tmp_path / "out", some(1), 2, batched=True)
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_where_nothing_can_be_written(tmp_path: Path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    for name, words in {
        "full": "is not empty",
        "file": "is no folder",
        "link": "is no folder",
        "no/where": "there is no folder .*no; make it first",
    }.items():
        with pytest.raises(ShardError, match=words):
            write_shards(tmp_path / name, some(1), 2, batched=True)


def test_no_samples_and_no_size(tmp_path: Path):
    with pytest.raises(ShardError, match="there were no samples to write"):
        write_shards(tmp_path / "out", [], 2, batched=True)
    with pytest.raises(CalibratorError, match="expected at least 1"):
        write_shards(tmp_path / "out", some(1), 0, batched=True)
    assert list(tmp_path.iterdir()) == []
