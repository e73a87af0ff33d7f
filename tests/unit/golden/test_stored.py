"""Stored golden outputs: they replace a golden run exactly, or are refused with a reason."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import trtbuild
from tests.targets.engine_double import Engines
from trtbuild.errors import InputError, as_trtbuild_error
from trtbuild.golden import stored
from trtbuild.golden.metric_file import Metric
from trtbuild.golden.stored import open_stored, save
from trtbuild.model import files
from trtbuild.targets.session import infer

TOY = """toy (float[n,4] x) => (float[n,4] y, int64[n] c) {
    h = MatMul(x, w) y = Relu(h) c = ArgMax<axis = 1, keepdims = 0>(y)
}"""
RNG = np.random.default_rng(2)
W = RNG.standard_normal((4, 4)).astype(np.float32)
X = RNG.standard_normal((5, 4)).astype(np.float32)


@pytest.fixture
def case(open_toy, shard_set, case_of):
    model = open_toy(TOY, {"w": W})
    return case_of(model, shard_set(model, {"x": X[:2]}, {"x": X[2:]}), default="fp32")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "golden" / "golden.safetensors"


@pytest.fixture
def kept(case, path):
    """The file, stored."""
    path.parent.mkdir()
    save(path, case.model, case.golden, case.shards, {"onnxruntime": "1.2.3"})
    return path


def reopened(case, path):
    return open_stored(path, case.model, case.shards)


def test_a_check_against_it_is_the_check_against_the_golden(case, kept):
    metric = Metric(
        "sum",
        lambda outputs, label: float(outputs["y"].sum()),
        {f"{i}:{j}": 0 for i in (0, 1) for j in range(3)},
    )
    section = {"metric": metric, "max_drop": 0.5}
    side = reopened(case, kept)
    verdict, expected = case.check_sides(side, case.side(), **section), case.check(**section)
    assert verdict.passed
    assert verdict.outputs == expected.outputs
    assert verdict.metric == expected.metric
    assert expected.metric.golden != 0
    assert verdict.layers == ()
    assert verdict.not_checked == {"layers": "the golden is a stored one, which has outputs only"}
    (coverage,) = [check for check in verdict.checks if check.name == "every tensor compared"]
    assert coverage.seen == "2 of 2; outputs only (stored golden)"
    assert (
        side.caveat == "the golden's outputs are those stored in golden.safetensors; layers are not compared"
    )


def test_a_wrong_candidate_fails_against_it(case, kept):
    wrong = case.candidate.clone()
    next(node for node in wrong.graph if node.op_type == "Relu").op_type = "Neg"
    assert not case.check(wrong).passed
    assert not case.check_sides(reopened(case, kept), case.side(wrong)).passed
    swapped = case.candidate.clone()
    swapped.graph.outputs[:] = list(reversed(swapped.graph.outputs))
    verdict = case.check_sides(reopened(case, kept), case.side(swapped))
    assert [check.seen for check in verdict.checks if not check.passed] == ["c, y"]


def test_an_engine_against_it(case, kept):
    candidate = Engines().side("candidate", case.model, case.candidate)
    assert case.check_sides(reopened(case, kept), candidate).passed


def test_a_golden_engine_is_stored_too(case, path):
    path.parent.mkdir()
    golden = Engines().side("golden", case.model, files.read(case.model.path))
    save(path, case.model, golden, case.shards, {})
    side = reopened(case, path)
    assert side.whole
    assert side.outputs == ("y", "c")
    assert case.check_sides(side, case.side()).passed


def test_bits_are_kept(case, kept):
    with reopened(case, kept).shipped(["c", "y"]) as active, case.golden.shipped(["y", "c"]) as golden:
        for batch in case.shards.batches(1):
            found, expected = (infer(runner, batch.feeds, "a sample") for runner in (active, golden))
            assert list(found) == ["c", "y"]
            for name, array in expected.items():
                assert found[name].tobytes() == array.tobytes()
                assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)


def test_scalars_and_empty_outputs(open_toy, shard_set, case_of, path):
    text = """toy (float[n,4] x) => (float s, float[n,k] e, bool[n,4] b)
        <int64[1] zero = {0}, int64[1] one = {1}, float nil = {0}> {
        s = ReduceSum<keepdims = 0>(x) e = Slice(x, zero, zero, one) b = Greater(x, nil)
    }"""
    model = open_toy(text)
    case = case_of(model, shard_set(model, {"x": X}), default="fp32")
    path.parent.mkdir()
    save(path, model, case.golden, case.shards, {})
    with reopened(case, path).shipped(model.checked_outputs) as active:
        found = infer(active, {"x": X[:1]}, "0:0")
    assert {name: (array.shape, array.dtype.name) for name, array in found.items()} == {
        "s": ((), "float32"),
        "e": ((1, 0), "float32"),
        "b": ((1, 4), "bool"),
    }


def test_a_fixed_batch_keeps_its_rows(open_toy, shard_set, case_of, path):
    """Which outputs have a row per sample is found out by running the golden on moved samples."""
    model = open_toy("toy (float[4,4] x) => (float[4,4] y) { h = MatMul(x, w) y = Relu(h) }", {"w": W})
    x = RNG.standard_normal((7, 4)).astype(np.float32)
    case = case_of(model, shard_set(model, {"x": x}), default="fp32")
    path.parent.mkdir()
    save(path, model, case.golden, case.shards, {})
    seen = []
    metric = Metric(
        "kept", lambda outputs, label: float(not seen.append(outputs["y"])), {f"0:{i}": 0 for i in range(7)}
    )
    verdict = case.check_sides(reopened(case, path), case.side(), metric, max_drop=0.0)
    assert verdict.passed
    assert verdict.metric.samples == 7
    np.testing.assert_allclose(np.concatenate(seen[::2]), np.maximum(x @ W, 0), rtol=1e-5, atol=1e-6)


def test_a_model_that_onnx_runtime_runs_a_part_of(open_toy, shard_set, case_of, path):
    text = "toy (float[n,4] x) => (float[n,4] y) { h = MatMul(x, w) r = Relu(h) y = EfficientNMS_TRT(r) }"
    model = open_toy(text, {"w": W})
    case = case_of(model, shard_set(model, {"x": X}), default="fp32")
    path.parent.mkdir()
    save(path, model, case.golden, case.shards, {})
    verdict = case.check_sides(reopened(case, path), case.side())
    assert verdict.passed
    assert [diff.tensor for diff in verdict.outputs] == ["r"]
    assert list(verdict.not_checked) == ["EfficientNMS_TRT_y", "layers"]


def test_it_says_what_made_it(case, kept):
    with safetensors.safe_open(kept, framework="numpy") as file:
        document = json.loads(file.metadata()["trtbuild.golden"])
    assert document["made_by"] == {
        "side": "golden",
        "trtbuild": trtbuild.__version__,
        "onnxruntime": "1.2.3",
    }
    assert document["model"] == case.model.sha256
    assert (document["schema_version"], document["samples"]) == (stored.SCHEMA_VERSION, 5)


def test_an_output_that_cannot_be_stored(open_toy, shard_set, case_of, path):
    model = open_toy("toy (float[n,4] x) => (string[n,4] s) { s = Cast<to = 8>(x) }")
    case = case_of(model, shard_set(model, {"x": X}), default="fp32")
    path.parent.mkdir()
    with pytest.raises(InputError, match="output 's' of dtype object cannot be stored"):
        save(path, model, case.golden, case.shards, {})
    assert list(path.parent.iterdir()) == []


def test_a_golden_that_lacks_an_output(case, path):
    path.parent.mkdir()
    lacking = Engines(lost=["c"]).side("golden", case.model, case.candidate)
    with pytest.raises(InputError, match="the golden does not have output 'c'"):
        save(path, case.model, lacking, case.shards, {})
    assert list(path.parent.iterdir()) == []


def test_a_folder_that_is_not_there_is_told_before_the_golden_runs(case, path, monkeypatch):
    monkeypatch.setattr(stored, "_record", lambda *given: pytest.fail("ran"))
    with pytest.raises(FileNotFoundError) as error:
        save(path, case.model, case.golden, case.shards, {})
    assert str(path.parent) in str(as_trtbuild_error(error.value))


def test_a_full_disk_leaves_the_old_file(case, kept, monkeypatch):
    before = kept.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left") as error:
        save(kept, case.model, case.golden, case.shards, {})
    assert str(as_trtbuild_error(error.value)).startswith(f"{kept}: no space left")
    assert kept.read_bytes() == before
    assert list(kept.parent.iterdir()) == [kept]


def refused(case, path):
    with pytest.raises(InputError) as error:
        reopened(case, path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


class TestRefused:
    def test_no_file(self, case, tmp_path):
        assert "no such file of stored golden outputs" in refused(case, tmp_path / "gone")
        assert "no such file of stored golden outputs" in refused(case, tmp_path)

    def test_another_model(self, case, kept, open_toy):
        other = replace(case, model=open_toy(TOY, {"w": W + 1}))
        assert "was stored for another model" in refused(other, kept)

    def test_other_samples(self, case, kept):
        file = Path(case.shards.files[0])
        np.savez(file, x=X[:2] + 1)
        again = type(case.shards).open(file.parent, case.model.inputs)
        assert "was stored for other samples (5) than the 5" in refused(replace(case, shards=again), kept)

    def test_a_sample_less(self, case, kept):
        folder = Path(case.shards.files[0]).parent
        (folder / "1.npz").unlink()
        again = type(case.shards).open(folder, case.model.inputs)
        assert "was stored for other samples (5) than the 2" in refused(replace(case, shards=again), kept)

    @pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
    def test_truncated(self, case, kept, share):
        data = kept.read_bytes()
        kept.write_bytes(data[: int(len(data) * share)])
        assert "is damaged or no file of golden outputs" in refused(case, kept)

    def test_every_flipped_byte(self, case, kept):
        """In the header, in the document and in the tensors alike."""
        data = bytearray(kept.read_bytes())
        for index in [*range(0, len(data), 37), len(data) - 1]:
            data[index] ^= 0x04
            kept.write_bytes(data)
            refused(case, kept)
            data[index] ^= 0x04
        kept.write_bytes(data)
        reopened(case, kept)

    def test_no_safetensors_at_all(self, case, kept):
        kept.write_bytes(b"\x93NUMPY" * 100)
        assert "is damaged or no file of golden outputs" in refused(case, kept)

    def test_other_safetensors(self, case, kept):
        safetensors.numpy.save_file({"x": X}, kept)
        assert "holds no golden outputs" in refused(case, kept)
        safetensors.numpy.save_file({"x": X}, kept, {"trtbuild.golden": "[]"})
        assert "not readable" in refused(case, kept)
        safetensors.numpy.save_file({"x": X}, kept, {"trtbuild.golden": "{"})
        assert "not readable" in refused(case, kept)
        safetensors.numpy.save_file(
            {"x": X}, kept, {"trtbuild.golden": json.dumps({"schema_version": stored.SCHEMA_VERSION})}
        )
        assert "its SHA-256 differs" in refused(case, kept)

    def test_of_a_later_version(self, case, path, monkeypatch):
        path.parent.mkdir()
        monkeypatch.setattr(stored, "SCHEMA_VERSION", 2)
        save(path, case.model, case.golden, case.shards, {})
        monkeypatch.setattr(stored, "SCHEMA_VERSION", 1)
        assert "is of schema_version 2, this trtbuild reads 1" in refused(case, path)

    def test_a_tensor_taken_out(self, case, kept):
        with safetensors.safe_open(kept, framework="numpy") as file:
            metadata = file.metadata()
        arrays = safetensors.numpy.load_file(kept)
        del arrays["0:y"]
        safetensors.numpy.save_file(arrays, kept, metadata)
        assert "its SHA-256 differs" in refused(case, kept)

    def test_a_sample_that_is_not_in_it_is_named(self, case, kept):
        with reopened(case, kept).shipped(["y"]) as active:
            infer(active, {"x": X[3:4]}, "1:1")
            with pytest.raises(
                InputError, match=r"^golden: running 1:7 failed: .* has no outputs for this sample"
            ):
                infer(active, {"x": X[3:4] + 1}, "1:7")
            same_bytes = X[3:4].reshape(4, 1), X[3:4].view(np.int32)
            for feeds in ({"x": X[3:5]}, {"z": X[3:4]}, {}, *({"x": array} for array in same_bytes)):
                with pytest.raises(InputError, match="has no outputs for this sample"):
                    infer(active, feeds, "1:7")

    def test_an_output_that_is_not_in_it_fails_the_gate(self, case, kept):
        """As when it was stored by ONNX Runtime and an engine runs more."""
        side = reopened(case, kept)
        with side.shipped(["y", "h"]) as active:
            assert list(infer(active, {"x": X[:1]}, "0:0")) == ["y"]
