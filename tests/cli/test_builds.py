"""Keys and reuse, stale ranges, damaged files."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from trtbuild import calibrate as calibration

BUILD = "build", "toy", "--json"


def ranges(run, *options):
    return run("calibrate", "toy", "--json", *options).document["ranges"]


def test_the_same_build_again_is_reused_and_becomes_the_newest(run, toy):
    first = run(*BUILD).document
    second = run(*BUILD, "--pin", "Conv_c1").document
    assert first["key"] != second["key"]
    assert run("inspect", "toy", "--json").document["key"] == second["key"]
    again = run(*BUILD)
    assert again.code == 0
    assert "built before" in again.err
    assert again.document["created"] == first["created"]
    assert run("inspect", "toy", "--json").document["key"] == first["key"]
    assert run("validate", "toy", "--json").document["build"] == first["key"]


def test_an_output_of_a_reused_build(run, toy):
    run(*BUILD)
    result = run(*BUILD, "-o", "x.onnx")
    assert "built before" in result.err
    assert run("inspect", "x.onnx", "--json").document["key"] == result.document["key"]


def test_what_decides_the_bytes_decides_the_key(run, toy):
    options = [
        (),
        ("--pin", "Conv_c1"),
        ("--pin", "Conv_c1=fp16"),
        ("--set", "precision.default=fp32"),
        ("--set", "precision.default=fp16"),
        ("--set", "precision.fallback=fp16"),
        ("--set", "calibration.method=mse"),
    ]
    keys = [run(*BUILD, *option).document["key"] for option in options]
    assert len(set(keys)) == len(options)
    assert {path.name for path in (toy / "builds").iterdir()} == {*keys, "ranges"}


def test_what_only_judges_does_not_decide_the_key(run, toy):
    keys = {run(*BUILD, *option).document["key"] for option in [(), ("--set", "validation.max_drop=0.5")]}
    assert len(keys) == 1


def test_other_shards_give_other_ranges_and_another_build(run, toy, make_samples):
    before, key = ranges(run), run(*BUILD).document["key"]
    np.savez(toy / "shards" / "2.npz", x=10 * make_samples(3, 5))
    result = run(*BUILD)
    assert "calibrating" in result.err
    assert result.document["key"] != key
    after = result.document["ranges"]["ranges"]
    assert all(after[name]["amax"] > 3 * before[name]["amax"] for name in before)


def test_a_shard_of_the_same_size_and_time_with_other_values_is_not_mistaken(run, toy, make_samples):
    before = ranges(run)
    shard = toy / "shards" / "0.npz"
    times = shard.stat().st_atime_ns, shard.stat().st_mtime_ns
    np.savez(shard, x=make_samples(5, 77) * 20)
    os.utime(shard, ns=times)
    assert all(ranges(run)[name]["amax"] > 3 * before[name]["amax"] for name in before)


def test_another_method_gives_other_ranges(run, toy):
    before, after = ranges(run), ranges(run, "--set", "calibration.method=percentile:90")
    assert all(after[name]["amax"] < before[name]["amax"] for name in before)
    assert ranges(run) == before


def test_another_model_gives_other_ranges(run, toy, model_file):
    before, key = ranges(run), run(*BUILD).document["key"]
    model_file(toy / "model.onnx", "f = Flatten(x) y = MatMul(f, w)", {"w": (192, 3)})
    after = run(*BUILD).document
    assert after["key"] != key
    assert set(after["ranges"]["ranges"]) == {"f"} != set(before)


def test_a_build_of_another_model_is_not_validated(run, toy, model_file):
    run(*BUILD)
    model_file(toy / "model.onnx", "f = Flatten(x) y = MatMul(f, w)", {"w": (192, 3)})
    result = run("validate", "toy")
    assert result.code == 2
    assert "is not the model that" in result.errors[0]


def test_ranges_are_calibrated_once(run, toy, monkeypatch):
    first = run("calibrate", "toy", "--json").document
    monkeypatch.setattr(calibration, "calibrate", lambda *_: pytest.fail("calibrated again"))
    second = run("calibrate", "toy", "--json")
    assert "calibrated before" in second.err
    assert second.document["ranges"] == first["ranges"]
    assert run(*BUILD, "--pin", "Conv_c1").code == 0


def test_a_table_under_a_wrong_name_is_not_used(run, toy):
    """As after a careless copy: the key in the table decides, not the file's name."""
    right = run("calibrate", "toy", "--json").document
    wrong = run("calibrate", "toy", "--json", "--set", "calibration.method=percentile:50").document
    shutil.copy(wrong["path"], right["path"])
    assert ranges(run) == right["ranges"]


def test_a_table_that_lacks_a_tensor_is_not_used(run, toy):
    document = run("calibrate", "toy", "--json").document
    path = Path(document["path"])
    table = json.loads(path.read_text())
    del table["ranges"]["p1"]
    path.write_text(json.dumps(table))
    assert ranges(run) == document["ranges"]


@pytest.mark.parametrize("damage", [lambda text: text[: len(text) // 2], lambda text: "", lambda text: "[]"])
def test_a_damaged_table_is_named(run, toy, tree, damage):
    path = Path(run("calibrate", "toy", "--json").document["path"])
    path.write_text(damage(path.read_text()))
    before = tree()
    for command in ("calibrate", "build"):
        result = run(command, "toy")
        assert result.code == 2
        assert str(path) in result.errors[0]
        assert "delete it" in result.errors[0]
    assert tree() == before
    path.unlink()
    assert run("build", "toy").code == 0


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [flip, Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1])])
def test_a_damaged_artifact_is_refused(run, toy, damage):
    artifact = Path(run(*BUILD).document["path"])
    damage(artifact)
    for command in ("validate", "build"):
        result = run(command, "toy")
        assert result.code == 2
        assert str(artifact) in result.errors[0]
        assert f"delete {artifact.parent}" in result.errors[0]
    shutil.rmtree(artifact.parent)  # what it says helps
    assert run("build", "toy").code == 0
    assert run("validate", "toy").code == 0


def test_a_damaged_output_is_refused(run, toy):
    run(*BUILD, "-o", "x.onnx")
    flip(Path("x.onnx"))
    result = run("validate", "x.onnx")
    assert result.code == 2
    assert "x.onnx is missing or is not what was built" in result.errors[0]


@pytest.mark.parametrize(
    "damage",
    [
        lambda m: json.dumps(m)[:100],
        lambda m: "",
        lambda m: "[]",
        lambda m: "\x00",
        lambda m: json.dumps({**m, "schema_version": 2}),
        lambda m: json.dumps({"schema_version": 1}),
        lambda m: json.dumps({**m, "artifact": {}}),
        lambda m: json.dumps({**m, "artifact": {"file": 1}}),
        lambda m: json.dumps({**m, "precision": []}),
    ],
)
def test_a_damaged_manifest_is_refused(run, toy, damage):
    manifest = Path(run(*BUILD).document["path"]).with_name("manifest.json")
    manifest.write_text(damage(json.loads(manifest.read_text())))
    for command in ("validate", "inspect", "build"):
        result = run(command, "toy")
        assert result.code == 2, result.err
        assert str(manifest) in result.errors[0]
        assert f"delete {manifest.parent}" in result.errors[0]


@pytest.mark.parametrize(
    "damage",
    [
        lambda m: m["precision"].pop("nodes"),
        lambda m: m["precision"]["nodes"].update(x=3),
        lambda m: m["precision"].update(nodes=[1]),
        lambda m: m["profiles"].update(x={"min": 1}),
        lambda m: m["ranges"].pop("samples"),
    ],
)
def test_a_manifest_damaged_inside_is_refused(run, toy, damage):
    path = Path(run(*BUILD).document["path"]).with_name("manifest.json")
    manifest = json.loads(path.read_text())
    damage(manifest)
    path.write_text(json.dumps(manifest))
    result = run("validate", "toy")
    assert result.code == 2
    assert str(path) in result.errors[0]


def test_a_manifest_cannot_point_outside_its_folder(run, toy):
    path = Path(run(*BUILD).document["path"]).with_name("manifest.json")
    manifest = json.loads(path.read_text())
    manifest["artifact"]["file"] = "../../model.onnx"
    path.write_text(json.dumps(manifest))
    result = run("validate", "toy")
    assert result.code == 2
    assert "is not what was built" in result.errors[0]


def test_a_beginning_of_two_keys_is_ambiguous(run, toy):
    key = run(*BUILD).document["key"]
    for builds in (toy / "builds", Path("engines/other/builds")):
        shutil.copytree(toy / "builds" / key, builds / f"{key[:4]}ffff")
    result = run("inspect", key[:4])
    assert result.code == 2
    assert "begins 3 builds" in result.errors[0]
    assert "engines/other/builds" in result.errors[0]
    assert run("inspect", key).code == 0


def test_a_build_by_the_path_that_build_prints(run, toy):
    printed = run(*BUILD).document["path"]
    key = Path(printed).parent.name
    run(*BUILD, "--pin", "Conv_c1")
    for path in (printed, Path(printed).resolve(), Path(printed).with_name("manifest.json")):
        assert run("inspect", path, "--json").document["key"] == key
        assert run("validate", path, "--json").document["build"] == key


def test_ranges_and_golden_engines_are_no_builds(run, toy):
    """They lie beside the builds, under names that no key has."""
    key = run(*BUILD).document["key"]
    golden = toy / "builds" / "golden" / "0123456789abcdef.plan"
    golden.parent.mkdir()
    golden.write_bytes(b"a golden engine")
    (table,) = (toy / "builds" / "ranges").glob("*.json")
    for reference in ("golden", "ranges", "g", "0123", golden, golden.parent, table, table.parent):
        for command in ("inspect", "validate"):
            refused = run(command, reference)
            assert refused.code == 2, reference
            assert len(refused.errors) == 1
        assert run("validate", "toy", "--build", reference).code == 2
    assert run("validate", "toy", "--json").document["build"] == key


@pytest.mark.parametrize("reference", ["", "zzzz", "engines/toy/builds/zzzz", "engines/toy/builds"])
def test_no_such_build(run, toy, reference):
    run(*BUILD)
    for command in ("inspect", "validate"):
        result = run(command, reference)
        assert result.code == 2
        assert len(result.errors) == 1
    assert run("validate", "toy", "--build", reference).code == 2


def test_nothing_built_yet(run, toy):
    result = run("validate", "toy")
    assert result.code == 2
    assert "engines/toy/builds: no build yet; run `trtbuild build` first" in result.errors[0]


def test_the_budget_holds_for_build_too(run, toy, tree):
    before = tree()
    result = run("build", "toy", "--pin", "type:Conv", "--set", "precision.budget=0.5")
    assert result.code == 2
    assert "over the budget of 50.0%" in result.errors[0]
    assert tree() == before
