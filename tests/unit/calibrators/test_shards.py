from __future__ import annotations

import gc
import os
import tempfile
import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from calibrators import shards as shards_module
from calibrators.errors import CalibratorError, ShardError
from calibrators.shards import InputSpec, ShardSet

F32 = np.dtype("float32")
X = [InputSpec("x", F32, (None, 3))]
X_FIXED = [InputSpec("x", F32, (4, 3))]
X_WIDE = [InputSpec("x", F32, (None, None))]


def samples(first: int, count: int, width: int = 3) -> np.ndarray:
    """Sample number i is a row of i's, so that a row says which sample it is."""
    return np.repeat(np.arange(first, first + count, dtype=np.float32)[:, None], width, axis=1)


def a_folder(folder: Path, *counts: int) -> Path:
    """Shards s0, s1, … of that many samples, in all three formats by turns."""
    first = 0
    for number, count in enumerate(counts):
        x = samples(first, count)
        stem = folder / f"s{number}"
        if number % 3 == 0:
            np.savez(stem.with_suffix(".npz"), x=x)
        elif number % 3 == 1:
            np.save(stem.with_suffix(".npy"), x)
        else:
            save_file({"x": x}, stem.with_suffix(".safetensors"))
        first += count
    return folder


class TestOpen:
    def test_takes_shards_by_name_and_ignores_other_files(self, tmp_path: Path):
        a_folder(tmp_path, 2, 3, 4)
        (tmp_path / "labels.json").write_text("{}")
        (tmp_path / "more").mkdir()
        np.save(tmp_path / "more" / "s9.npy", samples(0, 1))
        opened = ShardSet.open(tmp_path, X)
        assert [path.name for path in opened.files] == ["s0.npz", "s1.npy", "s2.safetensors"]
        assert (opened.samples, opened.batched, opened.inputs) == (9, True, tuple(X))

    def test_any_number_of_samples_also_where_the_model_fixes_its_batch(self, tmp_path: Path):
        assert ShardSet.open(a_folder(tmp_path, 1, 7), X_FIXED).samples == 8

    def test_reads_no_data(self, tmp_path: Path, monkeypatch):
        monkeypatch.setattr(shards_module, "read_arrays", None)
        assert ShardSet.open(a_folder(tmp_path, 2, 3, 4), X).samples == 9

    def test_upper_case_suffixes_are_shards_too(self, tmp_path: Path):
        np.save(tmp_path / "a.npy", samples(0, 2))
        (tmp_path / "a.npy").rename(tmp_path / "a.NPY")
        assert ShardSet.open(tmp_path, X).samples == 2


class TestOpenRefuses:
    def test_a_missing_folder(self, tmp_path: Path):
        with pytest.raises(ShardError, match="nowhere: expected a folder of shards: No such file"):
            ShardSet.open(tmp_path / "nowhere", X)

    def test_a_file_for_a_folder(self, tmp_path: Path):
        (tmp_path / "file").write_text("")
        with pytest.raises(ShardError, match="file: expected a folder of shards: Not a directory"):
            ShardSet.open(tmp_path / "file", X)

    def test_a_folder_without_shards(self, tmp_path: Path):
        (tmp_path / "image.png").write_text("")
        with pytest.raises(ShardError, match=r"no shards in it; expected files ending in \.npy"):
            ShardSet.open(tmp_path, X)

    def test_a_model_without_inputs(self, tmp_path: Path):
        with pytest.raises(ShardError, match="no inputs"):
            ShardSet.open(a_folder(tmp_path, 1), [])

    def test_two_shards_of_one_stem(self, tmp_path: Path):
        np.save(tmp_path / "a.npy", samples(0, 1))
        np.savez(tmp_path / "a.npz", x=samples(0, 1))
        with pytest.raises(ShardError, match=r"a\.npz: a\.npy has the same stem"):
            ShardSet.open(tmp_path, X)

    def test_an_npy_for_two_inputs(self, tmp_path: Path):
        np.save(tmp_path / "a.npy", samples(0, 1))
        with pytest.raises(ShardError, match=r"a\.npy holds one array, the model has 2 inputs; .*\.npz"):
            ShardSet.open(tmp_path, [*X, InputSpec("y", F32, (None,))])

    def test_a_link_to_nowhere(self, tmp_path: Path):
        (tmp_path / "a.npy").symlink_to(tmp_path / "gone.npy")
        with pytest.raises(ShardError, match=r"a\.npy cannot be read: No such file"):
            ShardSet.open(tmp_path, X)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
    def test_a_file_without_permission(self, tmp_path: Path):
        np.save(tmp_path / "a.npy", samples(0, 1))
        (tmp_path / "a.npy").chmod(0)
        with pytest.raises(ShardError, match=r"a\.npy cannot be read: Permission denied"):
            ShardSet.open(tmp_path, X)

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"z": samples(0, 2)}, r"missing input\(s\) 'x'; extra input\(s\) 'z'"),
            ({"x": samples(0, 2), "z": samples(0, 2)}, r"extra input\(s\) 'z'; expected exactly 'x'"),
            ({"x": samples(0, 2).astype("float64")}, "is float64, the model takes float32; convert"),
            ({"x": samples(0, 2)[0]}, "rank 1; the model takes rank 2"),
            ({"x": samples(0, 2, width=5)}, "axis 1 is 5"),
            ({"x": samples(0, 0)}, "no samples"),
            ({"x": np.array([None, 1])}, "pickled Python objects"),
        ],
    )
    def test_a_shard_that_does_not_feed_the_model(self, tmp_path: Path, arrays, message):
        a_folder(tmp_path, 2)
        np.savez(tmp_path / "wrong.npz", **arrays)
        with pytest.raises(ShardError, match=r"wrong\.npz.*" + message):
            ShardSet.open(tmp_path, X)

    @pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
    def test_a_damaged_shard(self, tmp_path: Path, suffix):
        (tmp_path / f"bad{suffix}").write_bytes(b"\x00 this is no shard")
        with pytest.raises(ShardError, match=rf"bad\{suffix} is damaged or no \{suffix} file"):
            ShardSet.open(tmp_path, X)


class TestBatches:
    def test_run_across_shards(self, tmp_path: Path):
        batches = list(ShardSet.open(a_folder(tmp_path, 3, 1, 4), X).batches(3))
        assert [batch.names for batch in batches] == [
            ("s0:0", "s0:1", "s0:2"),
            ("s1:0", "s2:0", "s2:1"),
            ("s2:2", "s2:3"),
        ]
        np.testing.assert_array_equal(np.concatenate([batch.feeds["x"] for batch in batches]), samples(0, 8))

    @settings(deadline=None, max_examples=60)
    @given(
        counts=st.lists(st.integers(1, 7), min_size=1, max_size=5),
        size=st.integers(1, 9),
        limit=st.none() | st.integers(1, 40),
        fixed=st.none() | st.integers(1, 6),
    )
    def test_every_sample_once_and_in_order_however_it_is_cut(self, counts, size, limit, fixed):
        with tempfile.TemporaryDirectory() as folder:
            opened = ShardSet.open(a_folder(Path(folder), *counts), [InputSpec("x", F32, (fixed, 3))])
            batches = list(opened.batches(size, limit))
        expected = [f"s{number}:{i}" for number, count in enumerate(counts) for i in range(count)][:limit]
        assert [name for batch in batches for name in batch.names] == expected
        rows = np.concatenate([batch.feeds["x"][: len(batch.names)] for batch in batches])
        np.testing.assert_array_equal(rows, samples(0, len(expected)))
        assert all(len(batch.names) == (fixed or size) for batch in batches[:-1])
        if fixed:
            assert all(batch.feeds["x"].shape == (fixed, 3) for batch in batches)
        else:
            assert all(batch.feeds["x"].shape == (len(batch.names), 3) for batch in batches)

    def test_a_fixed_batch_is_filled_by_repeating_its_start(self, tmp_path: Path):
        (first, last) = ShardSet.open(a_folder(tmp_path, 5), X_FIXED).batches(100)
        assert len(first.names) == 4
        assert last.names == ("s0:4",)
        np.testing.assert_array_equal(last.feeds["x"], np.full((4, 3), 4.0))
        (only,) = ShardSet.open(tmp_path, X_FIXED).batches(1, limit=3)
        np.testing.assert_array_equal(only.feeds["x"][:, 0], [0, 1, 2, 0])

    def test_samples_of_different_shapes_do_not_share_one(self, tmp_path: Path):
        for number, width in enumerate([3, 3, 5]):
            np.savez(tmp_path / f"s{number}.npz", x=samples(0, 2, width))
        batches = ShardSet.open(tmp_path, X_WIDE).batches(3)
        assert [batch.feeds["x"].shape for batch in batches] == [(3, 3), (1, 3), (2, 5)]

    def test_of_several_inputs(self, tmp_path: Path):
        inputs = [InputSpec("ids", np.dtype("int64"), (None, None)), InputSpec("x", F32, (None,))]
        for number in range(2):
            np.savez(tmp_path / f"s{number}.npz", ids=np.full((2, 4), number), x=np.float32([number, number]))
        (batch,) = ShardSet.open(tmp_path, inputs).batches(8)
        np.testing.assert_array_equal(batch.feeds["ids"][:, 0], [0, 0, 1, 1])
        np.testing.assert_array_equal(batch.feeds["x"], [0, 0, 1, 1])
        assert batch.feeds["ids"].dtype == np.int64

    def test_of_a_model_that_is_not_batched_are_one_file_each(self, tmp_path: Path):
        inputs = [InputSpec("x", F32, (1, 3)), InputSpec("h", F32, (2, 1)), InputSpec("rate", F32, ())]
        for number in range(2):
            np.savez(
                tmp_path / f"s{number}.npz",
                x=samples(number, 1),
                h=np.zeros((2, 1), np.float32),
                rate=np.float32(number),
            )
        opened = ShardSet.open(tmp_path, inputs)
        batches = list(opened.batches(8))
        assert (opened.batched, opened.samples) == (False, 2)
        assert [batch.names for batch in batches] == [("s0:0",), ("s1:0",)]
        assert batches[1].feeds["rate"].shape == ()
        assert batches[1].feeds["rate"] == 1
        assert [batch.names for batch in opened.batches(8, limit=1)] == [("s0:0",)]

    def test_a_scalar_npy_is_one_sample(self, tmp_path: Path):
        np.save(tmp_path / "a.npy", np.float32(2.5))
        (batch,) = ShardSet.open(tmp_path, [InputSpec("x", F32, ())]).batches(4)
        assert batch.names == ("a:0",)
        assert batch.feeds["x"] == 2.5

    def test_can_be_streamed_twice(self, tmp_path: Path):
        opened = ShardSet.open(a_folder(tmp_path, 3, 2), X)
        assert [b.names for b in opened.batches(2)] == [b.names for b in opened.batches(2)]

    def test_are_plain_arrays_in_c_order(self, tmp_path: Path):
        np.save(tmp_path / "a.npy", np.asfortranarray(samples(0, 4)))
        (batch,) = ShardSet.open(tmp_path, X).batches(4)
        assert type(batch.feeds["x"]) is np.ndarray
        assert batch.feeds["x"].flags.c_contiguous

    def test_hold_one_shard_at_a_time(self, tmp_path: Path, monkeypatch):
        """Every array handed out by an earlier read is gone by the time the next shard is read."""
        read = shards_module.read_arrays
        earlier: list[weakref.ref[np.ndarray]] = []

        def spy(path: Path, npy_name: str) -> dict[str, np.ndarray]:
            gc.collect()
            assert all(array() is None for array in earlier)
            arrays = read(path, npy_name)
            earlier.extend(weakref.ref(array) for array in arrays.values())
            return arrays

        monkeypatch.setattr(shards_module, "read_arrays", spy)
        for _ in ShardSet.open(a_folder(tmp_path, 3, 3, 3, 3), X).batches(4):
            pass
        assert len(earlier) == 4

    @pytest.mark.parametrize(("size", "limit"), [(0, None), (-1, None), (1, 0)])
    def test_of_no_size(self, tmp_path: Path, size, limit):
        with pytest.raises(CalibratorError, match="both must be at least 1"):
            ShardSet.open(a_folder(tmp_path, 1), X).batches(size, limit)


class TestBatchesRefuse:
    def test_nan_and_inf_with_file_input_sample_and_count(self, tmp_path: Path):
        x = samples(0, 5)
        x[3, 1], x[4, 0] = np.nan, np.inf
        np.save(tmp_path / "bad.npy", x)
        stream = ShardSet.open(tmp_path, X).batches(2)
        next(stream)
        with pytest.raises(ShardError, match=r"bad\.npy: input 'x' has 1 NaN or Inf, the first in sample 3"):
            next(stream)
        with pytest.raises(ShardError, match=r"input 'x' has 2 NaN or Inf, the first in sample 3"):
            next(ShardSet.open(tmp_path, X).batches(5))

    def test_nan_in_a_scalar(self, tmp_path: Path):
        np.save(tmp_path / "bad.npy", np.float32(np.nan))
        with pytest.raises(ShardError, match="1 NaN or Inf, the first in sample 0"):
            next(ShardSet.open(tmp_path, [InputSpec("x", F32, ())]).batches(1))

    @pytest.mark.parametrize("number", [0, 1, 2])
    def test_a_file_that_vanished(self, tmp_path: Path, number):
        opened = ShardSet.open(a_folder(tmp_path, 2, 2, 2), X)
        stream = opened.batches(1)
        opened.files[number].unlink()
        with pytest.raises(ShardError, match=rf"s{number}\.\w+ cannot be read: No such file"):
            list(stream)

    @pytest.mark.parametrize("number", [0, 1, 2])
    def test_a_file_that_changed_while_it_is_read(self, tmp_path: Path, number):
        opened = ShardSet.open(a_folder(tmp_path, 2, 2, 2), X)
        stream = opened.batches(1)
        for _ in range(2 * number + 1):
            next(stream)
        opened.files[number].write_bytes(b"")
        with pytest.raises(ShardError, match=rf"s{number}\.\w+ changed after it was checked"):
            next(stream)

    def test_a_file_of_the_same_size_but_another_time(self, tmp_path: Path):
        opened = ShardSet.open(a_folder(tmp_path, 2), X)
        os.utime(opened.files[0], ns=(1, 1))
        with pytest.raises(ShardError, match="changed after it was checked"):
            next(opened.batches(1))

    def test_data_that_is_damaged_behind_a_sound_header(self, tmp_path: Path):
        path = tmp_path / "bad.npz"
        np.savez(path, x=samples(0, 100))
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
        with pytest.raises(ShardError, match=r"bad\.npz is damaged.*CRC"):
            next(ShardSet.open(tmp_path, X).batches(1))


class TestFingerprint:
    def test_is_the_same_for_the_same_files_elsewhere(self, tmp_path: Path):
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            np.save(tmp_path / name / "a.npy", samples(0, 4))
        one, two = (ShardSet.open(tmp_path / name, X).fingerprint() for name in ("one", "two"))
        assert one == two
        assert len(bytes.fromhex(one)) == 32

    def test_changes_with_name_content_and_borders(self, tmp_path: Path):
        def fingerprint_of(name: str, **files: np.ndarray) -> str:
            (tmp_path / name).mkdir()
            for stem, array in files.items():
                np.save(tmp_path / name / f"{stem}.npy", array)
            return ShardSet.open(tmp_path / name, X).fingerprint()

        prints = [
            fingerprint_of("plain", a=samples(0, 4)),
            fingerprint_of("renamed", b=samples(0, 4)),
            fingerprint_of("other data", a=samples(1, 4)),
            fingerprint_of("split", a=samples(0, 2), b=samples(2, 2)),
        ]
        assert len(set(prints)) == len(prints)

    def test_is_computed_once(self, tmp_path: Path):
        opened = ShardSet.open(a_folder(tmp_path, 2), X)
        first = opened.fingerprint()
        opened.files[0].unlink()
        assert opened.fingerprint() == first

    def test_of_files_that_changed(self, tmp_path: Path):
        opened = ShardSet.open(a_folder(tmp_path, 2, 2), X)
        opened.files[1].write_bytes(b"")
        with pytest.raises(ShardError, match=r"s1\.npy changed after it was checked"):
            opened.fingerprint()
        opened.files[1].unlink()
        with pytest.raises(ShardError, match=r"s1\.npy cannot be read: No such file"):
            opened.fingerprint()


class TestDrawn:
    @staticmethod
    def numbers(shards: ShardSet, *args, **kwargs) -> list[list[int]]:
        return [batch.feeds["x"][:, 0].astype(int).tolist() for batch in shards.batches(*args, **kwargs)]

    @given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.data())
    @settings(max_examples=60, deadline=None)
    def test_so_many_in_order_each_once_with_its_own_name(self, counts: list[int], data):
        total = sum(counts)
        count, size = data.draw(st.integers(1, total)), data.draw(st.integers(1, 5))
        with tempfile.TemporaryDirectory() as folder:
            whole = ShardSet.open(a_folder(Path(folder), *counts), X)
            drawn = whole.drawn(count, seed=data.draw(st.integers(0, 9)))
            batches = list(drawn.batches(size))
            names = {name: i for i, name in enumerate(n for b in whole.batches(1) for n in b.names)}
        found = [int(row[0]) for batch in batches for row in batch.feeds["x"]]
        assert found == sorted(set(found))
        assert len(found) == count == drawn.samples
        assert [names[name] for batch in batches for name in batch.names] == found
        assert [len(batch.names) for batch in batches] == drawn.batch_sizes(size)
        assert all(len(batch.names) == size for batch in batches[:-1])

    def test_a_seed_draws_the_same_and_another_others(self, tmp_path: Path):
        whole = ShardSet.open(a_folder(tmp_path, 40, 40), X)
        first, again, other = (self.numbers(whole.drawn(20, seed), 1) for seed in (1, 1, 2))
        assert first == again != other

    def test_every_sample_is_as_likely(self, tmp_path: Path):
        whole = ShardSet.open(a_folder(tmp_path, 3, 2), X)
        drawn = [n for seed in range(400) for (n,) in self.numbers(whole.drawn(2, seed), 1)]
        assert all(110 < drawn.count(number) < 210 for number in range(5))  # 160, standard deviation 10

    def test_all_of_them_are_the_whole(self, tmp_path: Path):
        whole = ShardSet.open(a_folder(tmp_path, 3, 2), X)
        assert self.numbers(whole.drawn(5, 0), 2) == self.numbers(whole, 2)

    def test_limit_span_and_a_fixed_batch(self, tmp_path: Path):
        whole = ShardSet.open(a_folder(tmp_path, 9, 9), X)
        drawn = whole.drawn(7, 3)
        (every,) = self.numbers(drawn, 7)
        assert self.numbers(drawn, 2, limit=5) == [every[:2], every[2:4], every[4:5]]
        assert self.numbers(drawn, 2, span=(1, 3)) == [every[2:4], every[4:6]]
        fixed = ShardSet.open(tmp_path, X_FIXED).drawn(7, 3)
        assert self.numbers(fixed, 1) == [every[:4], [*every[4:], every[4]]]

    def test_files_without_one_are_left_out(self, tmp_path: Path):
        drawn = ShardSet.open(a_folder(tmp_path, 1, 50, 1), X).drawn(1, 0)
        assert [path.name for path in drawn.files] == ["s1.npy"]
        (alone,) = self.numbers(drawn.of_one(drawn.shards[0]).resolved(), 1)
        assert [alone] == self.numbers(drawn, 1)

    @pytest.mark.parametrize("count", [0, -1, 4])
    def test_more_than_there_are(self, tmp_path: Path, count: int):
        with pytest.raises(CalibratorError, match=f"{count} samples cannot be drawn from 3"):
            ShardSet.open(a_folder(tmp_path, 3), X).drawn(count, 0)
