from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from calibrators.errors import CalibratorError, ShardError
from calibrators.feed import Feed

F32, F16, F64 = np.dtype("float32"), np.dtype("float16"), np.dtype("float64")
I32, I64, BOOL = np.dtype("int32"), np.dtype("int64"), np.dtype("bool")


def rows(first: int, count: int, *axes: int, dtype: np.dtype = F32) -> np.ndarray:
    """Sample number i is full of i's, so that a row says which sample it is."""
    each = np.arange(first, first + count).reshape(count, *[1] * len(axes))
    return np.broadcast_to(each, (count, *axes)).astype(dtype)


def first_values(feed: Feed, name: str = "x") -> list[list[float]]:
    return [arrays[name].reshape(len(arrays[name]), -1)[:, 0].tolist() for arrays in feed]


class TestBatches:
    def test_are_the_samples_in_order_across_files(self, shard_set):
        feed = Feed(shard_set({"x": rows(0, 3, 2, 5)}, {"x": rows(3, 1, 2, 5)}), {"x": (2, 2, 5)}, {"x": F32})
        assert (feed.batch, feed.batches, feed.samples, feed.repeated) == (2, 2, 4, 0)
        seen = list(feed)
        assert_array_equal(np.concatenate([arrays["x"] for arrays in seen]), rows(0, 4, 2, 5))
        assert all(
            a["x"].flags.c_contiguous and a["x"].shape == (2, 2, 5) and a["x"].dtype == F32 for a in seen
        )

    @pytest.mark.parametrize(
        ("counts", "batch", "expected", "repeated"),
        [
            ((3, 4), 4, [[0, 1, 2, 3], [4, 5, 6, 0]], 1),
            ((5,), 4, [[0, 1, 2, 3], [4, 0, 1, 2]], 3),
            ((3,), 8, [[0, 1, 2, 0, 1, 2, 0, 1]], 5),
            ((1,), 3, [[0, 0, 0]], 2),
            ((2, 2), 1, [[0], [1], [2], [3]], 0),
        ],
    )
    def test_the_last_is_filled_from_the_start_of_the_set(self, shard_set, counts, batch, expected, repeated):
        starts = np.cumsum([0, *counts[:-1]])
        shards = shard_set(*({"x": rows(s, n, 2)} for s, n in zip(starts, counts, strict=True)))
        feed = Feed(shards, {"x": (batch, 2)}, {"x": F32})
        assert first_values(feed) == expected
        assert (feed.batches, feed.repeated) == (len(expected), repeated)

    def test_a_batch_that_the_model_fixes_is_filled_the_same_way(self, shard_set):
        shards = shard_set({"x": rows(0, 6, 2)}, shapes={"x": (4, 2)})
        assert first_values(Feed(shards, {"x": (4, 2)}, {"x": F32})) == [[0, 1, 2, 3], [4, 5, 0, 1]]

    def test_all_inputs_are_filled_alike(self, shard_set):
        shards = shard_set({"x": rows(0, 3, 2), "ids": rows(0, 3, 7, dtype=I64)})
        feed = Feed(shards, {"x": (2, 2), "ids": (2, 7)}, {"x": F32, "ids": I32})
        assert first_values(feed, "x") == first_values(feed, "ids") == [[0, 1], [2, 0]]

    def test_files_that_are_one_sample_each(self, shard_set):
        shapes = {"points": (None, 3), "count": ()}
        clouds = [{"points": rows(i, 1, 3).repeat(4, 0), "count": np.int64(i)} for i in range(3)]
        clouds = [{name: np.asarray(value) for name, value in cloud.items()} for cloud in clouds]
        feed = Feed(
            shard_set(*clouds, shapes=shapes), {"points": (4, 3), "count": ()}, {"points": F32, "count": I32}
        )
        assert (feed.batch, feed.batches, feed.samples, feed.repeated) == (1, 3, 3, 0)
        seen = list(feed)
        assert [int(arrays["count"]) for arrays in seen] == [0, 1, 2]
        assert all(arrays["points"].shape == (4, 3) and arrays["count"].shape == () for arrays in seen)
        assert [arrays["points"][0, 0] for arrays in seen] == [0, 1, 2]

    def test_an_input_may_be_empty(self, shard_set):
        shapes = {"x": (None, 3), "past": (None, None, 4)}
        shards = shard_set({"x": rows(0, 2, 3), "past": np.zeros((2, 0, 4), F32)}, shapes=shapes)
        feed = Feed(shards, {"x": (2, 3), "past": (2, 0, 4)}, {"x": F32, "past": F32})
        assert next(iter(feed))["past"].shape == (2, 0, 4)

    def test_come_again(self, shard_set):
        feed = Feed(shard_set({"x": rows(0, 3, 2)}), {"x": (2, 2)}, {"x": F32})
        assert first_values(feed) == first_values(feed) == [[0, 1], [2, 0]]

    def test_names_of_samples(self, shard_set):
        shards = shard_set({"x": rows(0, 2, 2)}, {"x": rows(2, 3, 2)})
        feed = Feed(shards, {"x": (2, 2)}, {"x": F32})
        assert [feed.sample_name(i).split()[0] for i in range(5)] == ["s0:0", "s0:1", "s1:0", "s1:1", "s1:2"]
        assert feed.sample_name(4).endswith("s1.npz)")
        with pytest.raises(IndexError):
            feed.sample_name(5)


class TestConversion:
    @pytest.mark.parametrize(
        ("values", "dtype"),
        [
            (np.array([[1], [-3]], I64), I32),
            (np.array([[2**31 - 1], [-(2**31)]], I64), I32),
            (np.array([[0.1], [65504]], F16), F32),
            (np.array([[0.1], [1e38]], F64), F32),  # rounded, which is what a float is there for
            (np.array([[0], [255]], np.uint8), F32),
            (np.array([[True], [False]]), BOOL),
            (np.array([[2**40], [1]], I64), I64),
        ],
    )
    def test_keeps_what_fits(self, shard_set, values, dtype):
        (arrays,) = Feed(shard_set({"x": values}), {"x": (2, 1)}, {"x": dtype})
        assert arrays["x"].dtype == dtype
        assert_array_equal(arrays["x"], values.astype(dtype))

    @pytest.mark.parametrize(
        ("values", "dtype", "shown"),
        [
            (np.array([[1], [2**31]], I64), I32, "2147483648"),
            (np.array([[1], [-(2**31) - 1]], I64), I32, "-2147483649"),
            (np.array([[1], [1e39]], F64), F32, r"1e\+39"),
            (np.array([[1], [2**24 + 1]], I64), F32, "16777217"),
            (np.array([[1], [2**63 - 1]], I64), F32, "9223372036854775807"),
            (np.array([[1], [0.5]], F32), I32, "0.5"),
            (np.array([[1], [2]], np.uint8), BOOL, "2"),
        ],
    )
    def test_names_the_sample_that_does_not_fit(self, shard_set, values, dtype, shown):
        shards = shard_set({"x": values[:1]}, {"x": values})
        feed = Feed(shards, {"x": (3, 1)}, {"x": dtype})
        with pytest.raises(
            ShardError, match=f"sample s1:1: input 'x' has {shown}, and TensorRT reads {dtype}"
        ):
            list(feed)

    def test_names_the_file_that_does_not_fit(self, shard_set):
        shards = shard_set({"n": np.array(1, I64)}, {"n": np.array(2**31, I64)}, shapes={"n": ()})
        with pytest.raises(ShardError, match="sample s1:0: input 'n' has 2147483648"):
            list(Feed(shards, {"n": ()}, {"n": I32}))


class TestRefuses:
    def test_samples_of_another_shape_before_any_is_read(self, shard_set, tmp_path: Path):
        shards = shard_set(
            {"x": rows(0, 2, 3, 8)},
            {"x": rows(2, 2, 3, 9)},
            {"x": rows(4, 2, 3, 7)},
            shapes={"x": (None, 3, None)},
        )
        for file in (tmp_path / "shards").iterdir():
            file.write_bytes(b"")
        with pytest.raises(ShardError) as error:
            Feed(shards, {"x": (4, 3, 8)}, {"x": F32})
        assert str(error.value).startswith(
            f"{tmp_path / 'shards' / 's1.npz'}: its samples of 'x' are (3, 9), not (3, 8) as in the "
            "profile's OPT shapes (and 1 more such files); "
        )

    def test_files_of_another_shape(self, shard_set):
        shards = shard_set({"x": rows(0, 4, 3)}, {"x": rows(0, 5, 3)}, may_batch=False)
        with pytest.raises(ShardError, match=r"s1\.npz: its samples of 'x' are \(5, 3\), not \(4, 3\)"):
            Feed(shards, {"x": (4, 3)}, {"x": F32})

    @pytest.mark.parametrize(
        ("opt", "dtypes", "message"),
        [
            ({}, {"x": F32}, r"OPT shapes for \[\]; expected exactly \['x'\]"),
            ({"x": (2, 3), "y": (2,)}, {"x": F32}, r"OPT shapes for \['x', 'y'\]"),
            ({"x": (2, 3)}, {}, r"dtypes for \[\]"),
            ({"x": (2, 3, 1)}, {"x": F32}, r"OPT shape \(2, 3, 1\) does not fit the model's \(None, 3\)"),
            ({"x": (2, 4)}, {"x": F32}, r"OPT shape \(2, 4\) does not fit"),
            ({"x": (-1, 3)}, {"x": F32}, r"OPT shape \(-1, 3\) does not fit"),
            ({"x": (0, 3)}, {"x": F32}, "OPT batch lengths 'x' 0"),
            ({"x": (2, 3)}, {"x": F16}, "TensorRT reads no calibration samples as float16"),
            ({"x": (2, 3)}, {"x": F64}, "expected one of float32, int32, int64, bool"),
        ],
    )
    def test_what_does_not_fit_the_inputs(self, shard_set, opt, dtypes, message):
        with pytest.raises(CalibratorError, match=message):
            Feed(shard_set({"x": rows(0, 2, 3)}), opt, dtypes)

    def test_batches_of_two_lengths(self, shard_set):
        shards = shard_set({"x": rows(0, 2, 3), "y": rows(0, 2, 3)})
        with pytest.raises(
            CalibratorError, match=r"OPT batch lengths 'x' 2, 'y' 4: .*make axis 0 of opt the same"
        ):
            Feed(shards, {"x": (2, 3), "y": (4, 3)}, {"x": F32, "y": F32})
