"""Every command on the toy engine: by name, by folder, and as a bare model; as text and as JSON."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from trtbuild import __version__

NEEDED = {"x", "p1", "f"}


def test_pins_text(run, toy):
    result = run("pins", "toy", "--pin", "type:MatMul", "--pin", "type:Relu")
    assert result.code == 0
    assert "MatMul_m" in result.out
    assert "rule type:MatMul" in result.out
    assert "0 (no effect)" in result.out
    assert "pinned 1 of 3 nodes (33.3%)" in result.out
    assert result.err == ""


def test_pins_json(run, toy):
    document = run("pins", "toy", "--pin", "Conv_c1", "--json").document
    assert document["engine"] == "toy"
    assert document["pinned"] == ["Conv_c1"]
    assert document["lowerable"] == 3
    assert document["nodes"]["Conv_c1"]["precision"] == "fp32"
    assert document["nodes"]["Conv_c2"]["precision"] == "int8"
    assert document["rules"] == [{"rule": "Conv_c1", "matched": 1, "effective": 1}]


def test_pins_writes_nothing(run, toy, tree):
    before = tree()
    assert run("pins", "toy").code == 0
    assert tree() == before


def test_pins_over_budget_shows_the_table_and_fails(run, toy):
    over = "pins", "toy", "--pin", "Conv_c1", "--set", "precision.budget=0.2"
    text = run(*over)
    assert text.code == 2
    assert "Conv_c1" in text.out
    assert len(text.errors) == 1
    assert "33.3%" in text.errors[0]
    document = run(*over, "--json").document
    assert document["pinned"] == ["Conv_c1"]
    assert document["exit_code"] == 2
    assert "over the budget" in document["error"]


def test_calibrate_stores_the_table_and_the_cache(run, toy):
    result = run("calibrate", "toy", "--json")
    assert result.code == 0
    document = result.document
    assert set(document["ranges"]) == NEEDED
    assert document["samples"] == 11
    assert json.loads(Path(document["path"]).read_text())["ranges"] == document["ranges"]
    header, *lines = Path(document["cache"]).read_text().splitlines()
    assert header == "TRT-100300-EntropyCalibration2"
    assert {line.rpartition(":")[0] for line in lines} == NEEDED
    assert "calibrating, samples: 11" in result.err


def test_calibrate_text(run, toy):
    result = run("calibrate", "toy")
    assert result.code == 0
    for name in NEEDED:
        assert re.search(rf"│ {name} +│ minmax │ +[\d.]+ │", result.out)
    assert result.out.splitlines()[-1].endswith(".json.cache")


def test_calibrate_to_a_file(run, toy):
    result = run("calibrate", "toy", "-o", "ranges.json", "--cache-for", "8.5.10", "--json")
    assert result.code == 0
    assert result.document["path"] == "ranges.json"
    assert set(json.loads(Path("ranges.json").read_text())["ranges"]) == NEEDED
    assert Path("ranges.json.cache").read_text().startswith("TRT-8510-EntropyCalibration2\n")


def test_build_text(run, toy):
    result = run("build", "toy", "--pin", "Conv_c1")
    assert result.code == 0
    assert "layers by precision: 7 fp32, 2 int8" in result.out
    assert "pins: 1 held of 1 asked, 33.3% of 3 nodes" in result.out
    assert "target auto: onnxruntime" in result.err


def test_build_json(run, toy):
    result = run("build", "toy", "--json")
    assert result.code == 0
    document = result.document
    artifact = Path(document["path"])
    assert artifact.is_file()
    assert artifact.parent == toy / "builds" / document["key"]
    assert json.loads((artifact.parent / "manifest.json").read_text())["key"] == document["key"]
    assert document["target"]["target"] == "onnxruntime"
    assert document["audit"]["histogram"] == {"fp32": 6, "int8": 3}
    assert set(document["ranges"]["ranges"]) == NEEDED
    assert document["trtbuild"] == __version__


def test_only_auto_says_which_target_it_took(run, toy):
    assert "target auto" not in run("build", "toy", "--target", "onnxruntime").err


def test_a_path_is_never_wrapped(run, toy, tmp_path):
    deep = tmp_path / ("d" * 200)
    deep.mkdir()
    output = deep / "x.onnx"
    assert str(output) in run("build", "toy", "-o", output).out.splitlines()


def test_build_to_a_file(run, toy):
    result = run("build", "toy", "-o", "x.onnx", "--json")
    assert result.code == 0
    assert result.document["path"] == "x.onnx"
    onnx.checker.check_model("x.onnx")
    manifest = json.loads(Path("x.onnx.json").read_text())
    assert manifest["artifact"]["file"] == "x.onnx"
    stored = toy / "builds" / manifest["key"]
    assert (stored / "model.onnx").read_bytes() == Path("x.onnx").read_bytes()
    assert {path.name for path in Path().iterdir()} == {"engines", "tmp", "x.onnx", "x.onnx.json"}


def test_validate_text(run, toy):
    run("build", "toy")
    result = run("validate", "toy")
    assert result.code == 0
    assert "passed" in result.out.splitlines()[-1]
    assert "metric metric.py:top1" in result.out
    assert "comparing layers, samples: 7" in result.err
    assert "comparing outputs, samples: 7" in result.err


def test_validate_json(run, toy):
    key = run("build", "toy", "--json").document["key"]
    result = run("validate", "toy", "--json")
    assert result.code == 0
    document = result.document
    assert document["build"] == key
    assert document["passed"] is True
    assert document["metric"]["golden"] == 1
    assert document["metric"]["samples"] == 7
    assert "".join(layer["tensor"] for layer in document["layers"]) == "c1r1p1c2r2gfmy"
    assert all(layer["difference"]["count"] for layer in document["layers"])
    stored = json.loads((toy / "builds" / key / "verdict.json").read_text())
    assert stored["checks"] == document["checks"]
    assert stored["schema_version"] == 1


def test_the_gate_says_no(run, toy):
    run("build", "toy")
    strict = "validate", "toy", "--set", "validation.outputs.sqnr_db=300"
    text = run(*strict)
    assert text.code == 1
    assert "FAILED" in text.out
    assert text.out.splitlines()[-1].strip() == "failed"
    result = run(*strict, "--json")
    assert result.code == 1
    assert result.document["passed"] is False
    (failed,) = [check for check in result.document["checks"] if not check["passed"]]
    assert failed["name"] == "y SQNR, dB"
    assert failed["wanted"] == ">= 300"


def test_a_build_in_fp32_is_the_golden(run, toy):
    run("build", "toy", "--set", "precision.default=fp32")
    document = run("validate", "toy", "--json").document
    assert document["passed"]
    for layer in document["layers"]:
        assert layer["difference"]["max_abs"] == 0
        assert layer["difference"]["sqnr_db"] is None  # infinite
        assert layer["difference"]["cosine"] == pytest.approx(1)
    assert not any((toy / "builds").glob("ranges/*"))


def test_inspect(run, toy):
    built = run("build", "toy", "--pin", "Conv_c2", "--json").document
    result = run("inspect", "toy", "--json")
    assert result.code == 0
    assert result.err == ""
    assert result.document["key"] == built["key"]
    assert result.document["pinned"] == ["Conv_c2"]
    precisions = {layer["name"]: layer["precision"] for layer in result.document["layers"]}
    assert precisions["Conv_c1"] == "int8"
    assert precisions["Conv_c2"] == "fp32"
    text = run("inspect", "toy").out
    assert re.search(r"Conv_c2 +│ Conv +│ fp32 +│ held", text)
    assert "layers by precision: 7 fp32, 2 int8" in text


def test_doctor(run, toy):
    text = run("doctor")
    assert text.code == 0
    assert "onnxruntime" in text.out
    document = run("doctor", "--json").document
    (here,) = [target for target in document["targets"] if target["target"] == "onnxruntime"]
    assert (here["builds"], here["runs"], here["missing"]) == (True, True, None)
    assert document["packages"]["onnxruntime"]


@pytest.mark.parametrize(
    "reference",
    ["toy", "engines/toy", "engines/toy/", "absolute", "inside"],
)
def test_an_engine_by_name_and_by_folder(run, toy, reference, monkeypatch):
    if reference == "absolute":
        reference = toy.resolve()
    if reference == "inside":
        monkeypatch.chdir(toy)
        reference = "."
    assert run("pins", reference, "--json").document["engine"] == "toy"
    built = run("build", reference, "--json")
    assert built.code == 0
    assert run("validate", reference, "--json").document["build"] == built.document["key"]


def test_an_engine_goes_before_a_key_that_begins_like_its_name(run, toy, monkeypatch):
    key = run("build", "toy", "--json").document["key"]
    name = key[:2]
    other = toy.with_name(name)
    other.mkdir()
    for part in toy.iterdir():
        if part.name != "builds":
            (other / part.name).symlink_to(part.resolve())
    result = run("validate", name)
    assert result.code == 2
    assert f"engines/{name}/builds: no build yet" in result.errors[0]


def names_of(built, toy):
    folder = toy / "builds" / built["key"]
    return {
        "folder": folder,
        "absolute folder": folder.resolve(),
        "key": built["key"],
        "beginning": built["key"][:5],
        "output": "out.onnx",
    }


@pytest.mark.parametrize("how", ["folder", "absolute folder", "key", "beginning", "output"])
def test_a_build_by_its_names(run, toy, how):
    built = run("build", "toy", "-o", "out.onnx", "--json").document
    run("build", "toy", "--pin", "Conv_c1")  # a newer one
    reference = names_of(built, toy)[how]
    assert run("inspect", reference, "--json").document["key"] == built["key"]
    result = run("validate", reference, "--json")
    assert result.code == 0
    assert result.document["build"] == built["key"]
    stored = toy / "builds" / built["key"] / "verdict.json"
    assert stored.is_file() == (how != "output")


@pytest.mark.parametrize("how", ["folder", "absolute folder", "key", "beginning", "output"])
def test_validate_another_build_of_an_engine(run, toy, how):
    built = run("build", "toy", "-o", "out.onnx", "--json").document
    newer = run("build", "toy", "--pin", "Conv_c1", "--json").document
    result = run("validate", "toy", "--build", names_of(built, toy)[how], "--json")
    assert result.document["build"] == built["key"] != newer["key"]


def test_a_build_is_not_asked_for_another_build(run, toy):
    key = run("build", "toy", "--json").document["key"]
    result = run("validate", key, "--build", key)
    assert result.code == 2
    assert "is a build itself" in result.errors[0]


def test_inspect_needs_no_engine(run, toy, tmp_path):
    run("build", "toy", "-o", "out.onnx")
    toy.rename(tmp_path / "gone")
    assert run("inspect", "out.onnx").code == 0
    result = run("validate", "out.onnx")
    assert result.code == 2
    assert "was built from" in result.errors[0]
    assert "engines/toy, which is not here" in result.errors[0]


def test_a_moved_engine_keeps_its_builds(run, toy, tmp_path):
    key = run("build", "toy", "--json").document["key"]
    moved = tmp_path / "moved"
    toy.rename(moved)
    result = run("validate", moved / "builds" / key, "--json")
    assert result.code == 0
    assert (moved / "builds" / key / "verdict.json").is_file()


class TestBareModel:
    @pytest.fixture(autouse=True)
    def bare(self, toy):
        for name in ("model.onnx", "shards", "validation"):
            (toy / name).rename(name)
        (toy / "recipe.toml").unlink()

    def test_pins(self, run):
        assert run("pins", "model.onnx", "--pin", "last:1", "--json").document["engine"] == "model"

    def test_calibrate(self, run):
        result = run("calibrate", "model.onnx", "--calib", "shards", "-o", "t.json", "--json")
        assert result.code == 0
        assert set(result.document["ranges"]) == NEEDED
        assert Path("t.json.cache").is_file()

    def test_build_inspect_validate(self, run, tree):
        before = set(tree())
        build = "build", "model.onnx", "--calib", "shards", "-o", "x.onnx"
        result = run(*build, "--pin", "Conv_c1", "--json")
        assert result.code == 0
        assert set(tree()) - before == {"x.onnx", "x.onnx.json"}
        assert result.document["profiles"]["x"] == {
            "min": [1, 3, 8, 8],
            "opt": [6, 3, 8, 8],
            "max": [6, 3, 8, 8],
        }
        assert result.document["artifact"]["file"] == "x.onnx"
        assert run("inspect", "x.onnx", "--json").document["pinned"] == ["Conv_c1"]
        verdict = run("validate", "x.onnx", "--samples", "validation", "--json")
        assert verdict.code == 0
        assert [check["name"] for check in verdict.document["checks"]][-2:] == ["y cosine", "y SQNR, dB"]
        assert verdict.document["checks"][-2]["wanted"] == ">= 0.99"

    def test_pinned_and_unpinned_have_different_keys(self, run):
        build = "build", "model.onnx", "--calib", "shards", "--json", "-o"
        keys = {
            run(*build, "a.onnx").document["key"],
            run(*build, "b.onnx", "--pin", "Conv_c1").document["key"],
        }
        assert len(keys) == 2

    def test_fp32_needs_no_shards(self, run):
        assert run("build", "model.onnx", "--set", "precision.default=fp32", "-o", "x.onnx").code == 0

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["build", "model.onnx", "-o", "x.onnx"], "--calib"),
            (["build", "model.onnx", "--calib", "shards"], "-o"),
            (["calibrate", "model.onnx", "--calib", "shards"], "-o"),
            (["calibrate", "model.onnx", "--calib", "shards", "-o", "model.onnx"], "overwrite the model"),
            (["build", "model.onnx", "--calib", "shards", "-o", "./model.onnx"], "overwrite the model"),
            (["build", "model.onnx", "--calib", "nowhere", "-o", "x.onnx"], "nowhere"),
            (
                [
                    "build",
                    "model.onnx",
                    "--calib",
                    "nowhere",
                    "--set",
                    "precision.default=fp32",
                    "-o",
                    "x.onnx",
                ],
                "nowhere",
            ),
            (["validate", "model.onnx"], "model.onnx is no build; name a file that"),
            (["inspect", "model.onnx"], "model.onnx is no build; name a file that"),
        ],
    )
    def test_what_is_missing_is_said_before_the_work(self, run, tree, arguments, words):
        before = tree()
        result = run(*arguments)
        assert result.code == 2
        assert words in result.errors[0]
        assert "calibrating" not in result.err
        assert tree() == before

    def test_validate_wants_samples(self, run):
        run("build", "model.onnx", "--calib", "shards", "-o", "x.onnx")
        result = run("validate", "x.onnx")
        assert result.code == 2
        assert "--samples" in result.errors[0]


def test_set_overrides_the_recipe(run, toy):
    document = run("calibrate", "toy", "--set", "calibration.method=percentile", "--json").document
    assert {entry["method"] for entry in document["ranges"].values()} == {"percentile:99.99"}


def test_calib_goes_before_the_recipe(run, toy, make_samples):
    Path("others").mkdir()
    np.savez("others/0.npz", x=make_samples(2, 99))
    assert run("calibrate", "toy", "--calib", "others", "--json").document["samples"] == 2


def test_samples_go_before_the_recipe(run, toy, make_samples):
    run("build", "toy")
    Path("others").mkdir()
    np.savez("others/0.npz", x=make_samples(2, 99))
    assert run("validate", "toy", "--samples", "others", "--json").document["metric"]["samples"] == 2


def test_help_and_version(run, toy):
    assert run("--version").out.startswith("trtbuild, version")
    for command in ("", "pins", "calibrate", "build", "validate", "inspect", "doctor"):
        result = run(*filter(None, [command]), "--help")
        assert result.code == 0
        assert "Usage: trtbuild" in result.out


def test_no_command_shows_the_help_on_stderr(run, toy):
    result = run()
    assert (result.code, result.out) == (2, "")
    assert "Commands:\n" in result.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["pins"], "Missing argument 'ENGINE'; see 'trtbuild pins --help'"),
        (["pins", "toy", "--jsn"], "--json"),
        (["build", "toy", "-o"], "requires an argument"),
        (["calibrate", "toy", "--cache-for", "ten"], "major.minor.patch"),
    ],
)
def test_usage_errors(run, toy, tree, arguments, words):
    before = tree()
    result = run(*arguments)
    assert (result.code, result.out) == (2, "")
    assert len(result.errors) == len(result.err.splitlines()) == 1
    assert words in result.errors[0]
    assert tree() == before


def test_a_metric_that_prints_does_not_spoil_the_json(run, toy):
    (toy / "metric.py").write_text(
        "print('loading')\ndef top1(outputs, label):\n    print('hello')\n    return 1\n"
    )
    run("build", "toy")
    result = run("validate", "toy", "--json")
    assert result.document["passed"]
    assert "hello" in result.err


def test_a_metric_may_be_a_dataclass_with_text_annotations(run, toy):
    (toy / "metric.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Score:\n    value: float\n"
        "def top1(outputs, label):\n    return Score(1).value\n"
    )
    run("build", "toy")
    assert run("validate", "toy").code == 0
