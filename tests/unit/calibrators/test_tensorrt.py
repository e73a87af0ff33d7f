"""The calibrator against a double of TensorRT that reads what is behind the addresses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from calibrators.errors import CalibratorError, DeviceError, ShardError, TableError
from calibrators.table import Range, TableKey
from calibrators.tensorrt import shard_calibrator
from tests.unit.calibrators.tensorrt_double import (
    BINDING,
    Builder,
    IInt8EntropyCalibrator2,
    IInt8MinMaxCalibrator,
)

F32, I32, I64 = np.dtype("float32"), np.dtype("int32"), np.dtype("int64")
KEY = TableKey("model", "shards", "tensorrt-entropy")


def pixels(first: int, count: int) -> np.ndarray:
    """Samples of shape (3, 4); every value of the set differs from every other."""
    return np.arange(first * 12, (first + count) * 12, dtype=F32).reshape(count, 3, 4)


@pytest.fixture
def calibrator(shard_set, host_memory):
    """Five samples in three files, two to a batch."""
    shards = shard_set({"x": pixels(0, 2)}, {"x": pixels(2, 2)}, {"x": pixels(4, 1)})
    return shard_calibrator(BINDING, "entropy", shards, {"x": (2, 3, 4)}, {"x": F32}, memory=host_memory)


@pytest.fixture
def builder() -> Builder:
    return Builder({"x": ("float32", (2, 3, 4))})


class TestServes:
    @pytest.mark.parametrize(
        ("algorithm", "base"), [("entropy", IInt8EntropyCalibrator2), ("minmax", IInt8MinMaxCalibrator)]
    )
    def test_the_bytes_of_the_samples(self, shard_set, host_memory, builder, algorithm, base):
        shards = shard_set({"x": pixels(0, 3)}, {"x": pixels(3, 2)})
        made = shard_calibrator(BINDING, algorithm, shards, {"x": (2, 3, 4)}, {"x": F32}, memory=host_memory)
        assert isinstance(made, base)
        assert builder.build_serialized_network(made)
        made.check()
        assert builder.batch_size == 2
        assert_array_equal(
            np.concatenate([batch["x"] for batch in builder.batches]),
            np.concatenate([pixels(0, 5), pixels(0, 1)]),
        )

    def test_all_inputs_in_the_order_that_is_asked_for(self, shard_set, host_memory):
        ids = np.arange(20, dtype=I64).reshape(4, 5) - 10
        shards = shard_set({"x": pixels(0, 4), "ids": ids, "half": pixels(0, 4).astype(np.float16)})
        opt = {"x": (2, 3, 4), "ids": (2, 5), "half": (2, 3, 4)}
        builder = Builder(
            {"ids": ("int32", opt["ids"]), "half": ("float32", opt["half"]), "x": ("float32", opt["x"])}
        )
        made = shard_calibrator(
            BINDING, "entropy", shards, opt, {"x": F32, "ids": I32, "half": F32}, memory=host_memory
        )
        builder.build_serialized_network(made)
        made.check()
        assert not builder.past_the_list
        for name, expected in (("ids", ids), ("x", pixels(0, 4)), ("half", pixels(0, 4))):
            assert_array_equal(np.concatenate([batch[name] for batch in builder.batches]), expected)

    def test_fewer_inputs_where_tensorrt_has_dropped_one(self, shard_set, host_memory, builder):
        shards = shard_set({"x": pixels(0, 2), "unused": pixels(0, 2)})
        opt = {"x": (2, 3, 4), "unused": (2, 3, 4)}
        made = shard_calibrator(BINDING, "minmax", shards, opt, dict.fromkeys(opt, F32), memory=host_memory)
        builder.build_serialized_network(made)
        made.check()
        assert_array_equal(builder.batches[0]["x"], pixels(0, 2))

    def test_files_that_are_one_sample_each(self, shard_set, host_memory):
        shards = shard_set({"x": pixels(0, 4)}, {"x": pixels(4, 4)}, may_batch=False)
        made = shard_calibrator(BINDING, "minmax", shards, {"x": (4, 3, 4)}, {"x": F32}, memory=host_memory)
        builder = Builder({"x": ("float32", (4, 3, 4))})
        builder.build_serialized_network(made)
        made.check()
        assert builder.batch_size == 1
        assert_array_equal(np.concatenate([batch["x"] for batch in builder.batches]), pixels(0, 8))

    def test_another_build_from_the_start_again(self, calibrator, builder):
        builder.build_serialized_network(calibrator)
        again = Builder(builder.inputs)
        again.build_serialized_network(calibrator)
        calibrator.check()
        assert_array_equal([b["x"] for b in again.batches], [b["x"] for b in builder.batches])

    def test_tells_how_many_samples_it_has_served(self, shard_set, host_memory, builder):
        told: list[int] = []
        made = shard_calibrator(
            BINDING,
            "entropy",
            shard_set({"x": pixels(0, 5)}),
            {"x": (2, 3, 4)},
            {"x": F32},
            progress=told.append,
            memory=host_memory,
        )
        builder.build_serialized_network(made)
        assert told == [2, 4, 5]

    def test_frees_the_memory_once_after_the_build(self, calibrator, builder, host_memory):
        with calibrator:
            builder.build_serialized_network(calibrator)
            assert host_memory.closed == 0
        assert host_memory.closed == 1


class TestTable:
    def test_is_what_tensorrt_wrote(self, calibrator, builder):
        builder.build_serialized_network(calibrator)
        table = calibrator.table(KEY)
        assert table.ranges == {"x": Range(127 * float(np.float32(59 / 127)), "tensorrt-entropy")}
        assert (table.key, table.samples) == (KEY, 5)
        assert calibrator.cache().startswith("TRT-8501-EntropyCalibration2\nx: ")

    def test_of_min_max(self, shard_set, host_memory, builder):
        made = shard_calibrator(
            BINDING,
            "minmax",
            shard_set({"x": pixels(0, 2)}),
            {"x": (2, 3, 4)},
            {"x": F32},
            memory=host_memory,
        )
        builder.build_serialized_network(made)
        assert made.table().ranges["x"].method == "tensorrt-minmax"
        assert made.table().key is None

    def test_a_scale_of_zero_as_tensorrt_writes_it(self, calibrator, builder):
        builder.cache = lambda header, _: (
            f"{header}\nx: 3c010a14\n(Unnamed Layer* 3) [Constant]_output: 0\n".encode()
        )
        builder.build_serialized_network(calibrator)
        assert calibrator.table().ranges["(Unnamed Layer* 3) [Constant]_output"].amax == 0

    def test_of_a_failed_calibration_there_is_none(self, calibrator, builder):
        builder.stop_after = 1
        builder.build_serialized_network(calibrator)
        for result in (calibrator.table, calibrator.cache):
            with pytest.raises(CalibratorError, match="took 1 of 3"):
                result()

    def test_an_infinite_range_names_the_tensor(self, calibrator, builder):
        builder.cache = lambda header, _: f"{header}\nx: 3c010a14\nmask: 7f800000\n".encode()
        builder.build_serialized_network(calibrator)
        with pytest.raises(TableError, match="line 3: tensor 'mask'"):
            calibrator.table()

    def test_a_cache_that_is_no_text(self, calibrator, builder):
        builder.cache = lambda *_: b"TRT-\xff\n"
        builder.build_serialized_network(calibrator)
        with pytest.raises(CalibratorError, match="is no text: 'utf-8'"):
            calibrator.table()


class TestWhatTensorRTSwallows:
    """Every build here succeeds, as the real one does; only `check` tells."""

    def test_a_broken_sample(self, shard_set, host_memory, builder, capfd):
        broken = pixels(2, 2)
        broken[1, 0, 0] = np.nan
        shards = shard_set({"x": pixels(0, 2)}, {"x": broken}, {"x": pixels(4, 1)})
        made = shard_calibrator(BINDING, "entropy", shards, {"x": (2, 3, 4)}, {"x": F32}, memory=host_memory)
        assert builder.build_serialized_network(made)
        assert len(builder.batches) == 1
        with pytest.raises(ShardError, match=r"s1\.npz: input 'x' has 1 NaN or Inf, the first in sample 1"):
            made.check()
        assert "Exception caught" not in capfd.readouterr().err  # nothing reaches the binding

    def test_a_file_that_vanished(self, calibrator, builder, tmp_path: Path):
        (tmp_path / "shards" / "s1.npz").unlink()
        assert builder.build_serialized_network(calibrator)
        with pytest.raises(ShardError, match=r"s1\.npz cannot be read"):
            calibrator.check()

    def test_a_value_that_does_not_fit(self, shard_set, host_memory):
        shards = shard_set({"x": np.array([[1], [2**31]], I64)})
        made = shard_calibrator(BINDING, "entropy", shards, {"x": (1, 1)}, {"x": I32}, memory=host_memory)
        builder = Builder({"x": ("int32", (1, 1))})
        assert builder.build_serialized_network(made)
        with pytest.raises(ShardError, match="sample s0:1: input 'x' has 2147483648"):
            made.check()

    @pytest.mark.parametrize(
        "raised", [KeyboardInterrupt(), SystemExit(3), MemoryError("host"), TypeError("bug")]
    )
    def test_whatever_is_raised_comes_back_as_it_was(self, shard_set, host_memory, builder, raised):
        def progress(done: int) -> None:
            if done == 4:
                raise raised

        made = shard_calibrator(
            BINDING,
            "entropy",
            shard_set({"x": pixels(0, 8)}),
            {"x": (2, 3, 4)},
            {"x": F32},
            progress=progress,
            memory=host_memory,
        )
        assert builder.build_serialized_network(made)
        assert len(builder.batches) == 1
        assert made.error is raised
        with pytest.raises(type(raised)) as error:
            made.check()
        assert error.value is raised
        assert made.get_batch(["x"]) is None  # and no sample after it

    def test_full_gpu_memory(self, calibrator, builder, host_memory, monkeypatch):
        def fill(_: object) -> None:
            raise DeviceError("the GPU has no room")

        monkeypatch.setattr(host_memory, "fill", fill)
        assert builder.build_serialized_network(calibrator)
        with pytest.raises(DeviceError, match="no room"):
            calibrator.check()

    @pytest.mark.parametrize(
        ("names", "shown"),
        [
            (["y"], r"\['y'\], the shards have \['x'\]"),
            (["x", "y"], r"\['x', 'y'\], the shards have"),
            (["x", "x"], r"\['x', 'x'\], the shards have"),
        ],
    )
    def test_names_that_the_shards_do_not_have(self, calibrator, builder, names, shown):
        builder.names = names
        assert builder.build_serialized_network(calibrator)
        assert builder.batches == []
        with pytest.raises(CalibratorError, match=f"TensorRT asks for the inputs {shown}"):
            calibrator.check()

    def test_no_names_at_all(self, calibrator):
        assert calibrator.get_batch([]) is None
        with pytest.raises(CalibratorError, match=r"asks for the inputs \[\]"):
            calibrator.check()

    def test_a_cache_that_cannot_be_kept(self, calibrator, builder):
        builder.build_serialized_network(calibrator)
        calibrator.write_calibration_cache(object())
        with pytest.raises(TypeError):
            calibrator.check()


class TestWhatTensorRTDoesNot:
    def test_asks_for_no_batch(self, calibrator, builder):
        builder.calibrates = False
        builder.build_serialized_network(calibrator)
        with pytest.raises(CalibratorError, match=r"asked for no calibration batch: .*int8 is off"):
            calibrator.check()

    @pytest.mark.parametrize(("batches", "sample", "file"), [(1, "s1:0", "s1.npz"), (2, "s2:0", "s2.npz")])
    def test_takes_too_few(self, calibrator, builder, batches, sample, file):
        builder.stop_after = batches
        builder.build_serialized_network(calibrator)
        with pytest.raises(CalibratorError, match=rf"took {batches} of 3 .* take is {sample} \(.*{file}\)"):
            calibrator.check()

    def test_takes_too_few_in_a_second_build(self, calibrator, builder):
        builder.build_serialized_network(calibrator)
        Builder(builder.inputs, stop_after=1).build_serialized_network(calibrator)
        with pytest.raises(CalibratorError, match="took 1 of 3"):
            calibrator.check()

    @pytest.mark.parametrize("written", [None, b""])
    def test_writes_no_cache(self, calibrator, builder, written):
        builder.cache = lambda *_: written
        builder.build_serialized_network(calibrator)
        with pytest.raises(CalibratorError, match="wrote no ranges"):
            calibrator.check()

    def test_writes_none_in_a_second_build(self, calibrator, builder):
        builder.build_serialized_network(calibrator)
        again = Builder(builder.inputs, cache=lambda *_: None)
        again.build_serialized_network(calibrator)
        with pytest.raises(CalibratorError, match="wrote no ranges"):
            calibrator.check()


class TestBeforeTheBuild:
    def test_samples_of_another_shape(self, shard_set, host_memory):
        shards = shard_set({"x": pixels(0, 2)}, {"x": pixels(2, 2)[:, :, :3]}, shapes={"x": (None, 3, None)})
        with pytest.raises(ShardError, match=r"s1\.npz: its samples of 'x' are \(3, 3\), not \(3, 4\)"):
            shard_calibrator(BINDING, "entropy", shards, {"x": (2, 3, 4)}, {"x": F32}, memory=host_memory)

    def test_tensorrt_without_calibrators(self, shard_set, host_memory):
        shards = shard_set({"x": pixels(0, 2)})
        binding = SimpleNamespace(__version__="11.0.0.114")
        with pytest.raises(
            CalibratorError, match=r"TensorRT 11\.0\.0\.114 has no IInt8MinMaxCalibrator: .*explicit"
        ):
            shard_calibrator(binding, "minmax", shards, {"x": (2, 3, 4)}, {"x": F32}, memory=host_memory)


def test_importing_it_loads_neither_tensorrt_nor_pycuda():
    script = "import sys, calibrators.tensorrt; print({'tensorrt', 'pycuda'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
