"""`calibrate`: how the ranges are chosen, and where they differ from another table."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ONNXRUNTIME = ("calibrate", "toy", "--target", "onnxruntime")


@pytest.fixture
def other(run, toy):
    """Another table of the toy, in which p1 is clipped."""
    clipped = "--set", "calibration.tensors.p1=percentile:50"
    assert run(*ONNXRUNTIME, *clipped, "-o", "other.json").code == 0
    return Path("other.json")


class TestCompare:
    def test_where_two_tables_differ(self, run, other):
        result = run(*ONNXRUNTIME, "--compare", other, "--json")
        assert result.code == 0
        document, theirs = result.document, json.loads(other.read_text())["ranges"]
        found = document["comparison"]
        assert next(iter(found["tensors"])) == "p1"
        assert found["tensors"].keys() == theirs.keys() == document["ranges"].keys()
        for name, pair in found["tensors"].items():
            assert (pair["amax"], pair["other"]) == (
                document["ranges"][name]["amax"],
                theirs[name]["amax"],
            )
        assert found["tensors"]["p1"]["ratio"] > 1
        assert (found["equal"], found["only_here"], found["only_there"]) == (len(theirs) - 1, [], [])

    def test_as_text(self, run, other):
        result = run(*ONNXRUNTIME, "--compare", other)
        assert result.code == 0
        assert "1 of 3 ranges differ" in result.out
        assert len(re.findall(r"│ p1 +│ +[\d.]+ │ +[\d.]+ │ +[\d.]+ │", result.out)) == 1
        assert "│ x " not in result.out, "equal ones are not listed"
        assert result.out.splitlines()[-1].endswith(".json.cache")

    def test_with_itself_through_a_cache_of_any_version(self, run, toy):
        run(*ONNXRUNTIME, "-o", "t.json", "--cache-for", "8.5.1")
        result = run(*ONNXRUNTIME, "--compare", "t.json.cache")
        assert result.code == 0
        assert "all 3 ranges that both have are equal" in result.out

    def test_with_a_build(self, run, toy):
        assert run("build", "toy", "--target", "onnxruntime", "-o", "x.onnx").code == 0
        document = run(*ONNXRUNTIME, "--compare", "x.onnx.json", "--json").document
        assert document["comparison"]["equal"] == 3

    def test_tensors_that_only_one_has(self, run, other):
        table = json.loads(other.read_text())
        table["ranges"]["gone"] = table["ranges"].pop("x")
        other.write_text(json.dumps(table))
        found = run(*ONNXRUNTIME, "--compare", other, "--json").document["comparison"]
        assert (found["only_here"], found["only_there"]) == (["x"], ["gone"])
        text = run(*ONNXRUNTIME, "--compare", other).out
        assert "only here: x\nonly there: gone" in text

    def test_a_table_of_another_model(self, run, toy):
        Path("cache").write_text("TRT-8501-EntropyCalibration2\nother: 3c010204\n")
        result = run(*ONNXRUNTIME, "--compare", "cache")
        assert (result.code, result.out) == (2, "")
        assert result.errors == [
            "error: --compare cache: none of its 1 tensors is among the 3 here: it is of another model; "
            "give a table of this one"
        ]

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (None, "No such file or directory; expected a range table (JSON), a build's manifest"),
            ("{}", "schema_version None: expected 1"),
            ("TRT-8501-EntropyCalibration2\n", "holds no ranges"),
            ("TRT-8501-EntropyCalibration2\nx: z\n", "line 2"),
        ],
    )
    def test_what_is_no_table_is_said_before_anything_is_run(self, run, toy, tree, content, words):
        if content is not None:
            Path("file").write_text(content)
        before = tree()
        result = run(*ONNXRUNTIME, "--compare", "file")
        assert (result.code, result.out) == (2, "")
        assert len(result.errors) == 1
        assert "--compare file" in result.errors[0]
        assert words in result.errors[0]
        assert "calibrating" not in result.err
        assert tree() == before


class TestAuto:
    def test_a_bare_model_has_its_ranges_chosen(self, run, toy):
        bare = "calibrate", toy / "model.onnx", "--calib", toy / "shards", "--target", "onnxruntime"
        result = run(*bare, "-o", "t.json", "--json")
        assert result.code == 0
        assert re.search(
            r"auto: \d of 3 tensors clip; error at the outputs on 7 held-back samples", result.err
        )
        assert json.loads(result.document["key"]["method"]) == [["", "auto"]]
        named = run(*bare, "-o", "u.json", "--set", "calibration.method=minmax", "--json")
        assert {entry["method"] for entry in named.document["ranges"].values()} == {"minmax"}
        assert "auto" not in named.err

    def test_it_is_chosen_once(self, run, toy):
        auto = (*ONNXRUNTIME, "--set", "calibration.method=auto", "--json")
        first, second = run(*auto), run(*auto)
        assert first.document == second.document
        assert "calibrated before" in second.err
        assert "auto:" not in second.err

    def test_every_float_tensor_for_implicit_mode(self, run, toy):
        result = run("calibrate", "toy", "--mode", "implicit", "--set", "calibration.method=auto", "--json")
        assert result.code == 0, result.err
        assert len(result.document["ranges"]) > 3
        assert "TensorRT find the ranges" not in result.err, "the table is ours"

    @pytest.mark.parametrize(
        ("override", "own"),
        [("method=minmax", True), ("method=auto", False), ("types.MaxPool=mse", False), ("types={}", True)],
    )
    def test_whether_tensorrt_would_find_them_itself(self, run, toy, override, own):
        result = run("calibrate", "toy", "--mode", "implicit", "--set", f"calibration.{override}")
        assert result.code == 0, result.err
        assert ("has TensorRT find the ranges" in result.err) is own

    def test_types(self, run, toy, recipe):
        recipe("[calibration.types]\nMaxPool = 'mse'\n")
        ranges = run(*ONNXRUNTIME, "--json").document["ranges"]
        assert {name: entry["method"] for name, entry in ranges.items()} == {
            "x": "minmax",
            "p1": "mse",
            "f": "minmax",
        }
        recipe("[calibration.types]\nMaxPol = 'mse'\n")
        result = run(*ONNXRUNTIME)
        assert result.code == 2
        assert "[calibration.types] 'MaxPol' makes no calibrated tensor; nearest: MaxPool" in result.errors[0]
