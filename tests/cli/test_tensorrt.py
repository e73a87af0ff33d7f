"""The commands on target tensorrt: real parsing, a double of the builder, ONNX Runtime for the engines."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from tests.targets.engine_double import Engines
from trtbuild.model import files
from trtbuild.rewrite.cut import with_outputs
from trtbuild.targets.trt import watching

Run = Callable[..., Any]
NODES = [
    "Conv_c1",
    "Relu_r1",
    "MaxPool_p1",
    "Conv_c2",
    "Relu_r2",
    "GlobalAveragePool_g",
    "MatMul_m",
    "Softmax_y",
]


@pytest.fixture
def trt(tensorrt: Callable[..., Any], toy: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Install a version of the double; its engines run as the float model does."""
    opened: list[str] = []

    def open_engine(_: Any, plan: bytes, name: str, debug: Collection[str] = ()) -> Any:
        opened.append(name)
        shown = [t["name"] for t in json.loads(plan[4:])["tensors"] if t["mode"] == "OUTPUT"]
        model = ir.load(toy / "model.onnx")
        return Engines(unfused=tuple(debug)).open(files.serialize(with_outputs(model, shown)), name, debug)

    def install(version: str = "10.3.0", **behaviour: Any) -> Any:
        double = tensorrt(version, **behaviour)
        double.opened = opened
        monkeypatch.setattr(watching, "open_engine", open_engine)
        return double

    return install


@pytest.mark.parametrize("version", ["8.5.1.7", "8.6.1", "10.3.0", "10.13.0"])
def test_build_and_validate(version: str, trt: Callable[..., Any], toy: Path, run: Run) -> None:
    double = trt(version)
    built = run("build", "toy", "--target", "tensorrt", "--pin", "type:Softmax", "--pin", "Conv_c1", "--json")
    assert built.code == 0, built.err
    document = built.document
    assert (document["target"]["target"], document["target"]["mode"]) == ("tensorrt", "implicit")
    assert document["target"]["tensorrt"] == version
    assert document["precision"]["pinned"] == ["Conv_c1", "Softmax_y"]
    assert (document["audit"]["held"], document["audit"]["lost"]) == (2, [])
    assert document["audit"]["reformats"] > 0
    assert document["calibration"]["algorithm"] == "minmax"  # the recipe's method, so TensorRT's own
    assert {entry["method"] for entry in document["ranges"]["ranges"].values()} == {"tensorrt-minmax"}
    checked = run("validate", "toy", "--json")
    assert checked.code == 0, checked.err
    verdict = checked.document
    assert {diff["tensor"] for diff in verdict["layers"]} == {
        "c1",
        "r1",
        "p1",
        "c2",
        "r2",
        "g",
        "f",
        "m",
        "y",
    }
    assert verdict["metric"]["samples"] == 7
    assert any("golden" in name for name in double.opened)
    assert "candidate" in double.opened
    assert len(list((toy / "builds" / "golden").glob("*.plan"))) == 1


def test_the_same_build_is_not_built_twice(trt: Callable[..., Any], toy: Path, run: Run) -> None:
    double = trt()
    first = run("build", "toy", "--target", "tensorrt", "--json").document
    served = len(double._behaviour.batches)
    assert served
    again = run("build", "toy", "--target", "tensorrt", "--json")
    assert again.document["key"] == first["key"]
    assert "built before" in again.err
    other = run("build", "toy", "--target", "tensorrt", "--pin", "Conv_c1", "--json")
    assert other.document["key"] != first["key"]
    assert "calibrated before" in other.err
    assert len(double._behaviour.batches) == served, "other pins need no other ranges"
    assert other.document["ranges"] == first["ranges"]


def test_our_own_ranges_cover_every_float_tensor(trt: Callable[..., Any], toy: Path, run: Run) -> None:
    double = trt("8.5.1.7")
    built = run(
        "build", "toy", "--target", "tensorrt", "--set", "calibration.method=percentile:99.9", "--json"
    )
    assert double._behaviour.batches == []
    assert built.document["calibration"] is None
    assert set(built.document["ranges"]["ranges"]) == {"x", "c1", "r1", "p1", "c2", "r2", "g", "f", "m", "y"}
    assert built.document["target"]["without_range"] == []
    simulated = run(
        "build", "toy", "--target", "onnxruntime", "--set", "calibration.method=percentile:99.9", "--json"
    )
    assert set(simulated.document["ranges"]["ranges"]) == {"x", "p1", "f"}
    assert "calibrated before" in simulated.err, "the smaller table is part of the larger one"


def test_a_cache_in_the_store_covers_what_its_table_covers(toy: Path, run: Run) -> None:
    """A calibration for another target takes part of the table; the cache beside it stays whole."""
    whole = run("calibrate", "toy", "--mode", "implicit", "--json")
    assert "--mode implicit" not in whole.err
    cache = Path(whole.document["cache"])
    text = cache.read_text()
    assert len(text.splitlines()) == 1 + 10
    part = run("calibrate", "toy", "--target", "onnxruntime", "--json")
    assert set(part.document["ranges"]) == {"x", "p1", "f"}
    assert part.document["cache"] == str(cache)
    assert cache.read_text() == text
    assert "note: these 3 tensors are what explicit int8 nodes read" in part.err


def test_ranges_from_elsewhere(trt: Callable[..., Any], toy: Path, run: Run, tmp_path: Path) -> None:
    """What a Jetson gets: no shards, a table."""
    double = trt("8.6.1")
    calibrated = run("calibrate", "toy", "--target", "tensorrt", "-o", tmp_path / "ranges.json")
    assert calibrated.code == 0, calibrated.err
    (toy / "shards").rename(tmp_path / "gone")
    profile = ["--set", "inputs.x={min=[1,3,8,8],opt=[4,3,8,8],max=[8,3,8,8]}"]
    options = ["build", "toy", "--target", "tensorrt", *profile, "--json"]
    built = run(*options, "--ranges", tmp_path / "ranges.json")
    assert built.code == 0, built.err
    assert double._behaviour.batches == []
    cache = tmp_path / "ranges.json.cache"  # of TensorRT 10.3, where this is 8.6
    refused = run(*options, "--ranges", cache)
    assert refused.code == 2
    assert "is of TRT-100300-EntropyCalibration2, this machine wants TRT-8601-" in refused.errors[0]
    cache.write_text(cache.read_text().replace("TRT-100300-", "TRT-8601-"))
    same = run(*options, "--ranges", cache)
    assert same.code == 0, same.err
    assert same.document["layers"] == built.document["layers"]


def test_the_ranges_that_another_build_found(
    trt: Callable[..., Any], toy: Path, run: Run, tmp_path: Path
) -> None:
    double = trt("10.3.0")
    built = run("build", "toy", "--target", "tensorrt", "-o", tmp_path / "x.plan", "--json").document
    served = len(double._behaviour.batches)
    (toy / "shards").rename(tmp_path / "gone")
    double = trt("8.6.1")
    profile = ["--set", "inputs.x={min=[1,3,8,8],opt=[4,3,8,8],max=[8,3,8,8]}"]
    options = [
        "build",
        "toy",
        "--target",
        "tensorrt",
        *profile,
        "--ranges",
        tmp_path / "x.plan.json",
        "--json",
    ]
    there = run(*options)
    assert there.code == 0, there.err
    assert served
    assert double._behaviour.batches == []
    assert there.document["ranges"] == built["ranges"]
    manifest = json.loads((tmp_path / "x.plan.json").read_text())
    (tmp_path / "x.plan.json").write_text(json.dumps({**manifest, "ranges": None}))
    assert "manifest of a build without ranges" in run(*options).errors[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("TRT-100300-EntropyCalibration2\nother: 3c010204\n", "was calibrated for another model"),
        ("TRT-100300-EntropyCalibration2\nx: zzzz\n", "expected 'tensor: "),
        ("{}", "schema_version None"),
        ("", "no whole JSON text"),
    ],
)
def test_ranges_that_cannot_be_used(
    text: str, message: str, trt: Callable[..., Any], run: Run, tmp_path: Path
) -> None:
    trt()
    (tmp_path / "ranges").write_text(text)
    refused = run("build", "toy", "--target", "tensorrt", "--ranges", tmp_path / "ranges")
    assert refused.code == 2
    assert len(refused.errors) == 1
    assert message in refused.errors[0]


def test_ranges_of_another_model(
    trt: Callable[..., Any], run: Run, tmp_path: Path, toy: Path, model_file: Callable[..., Path]
) -> None:
    trt()
    run("calibrate", "toy", "--target", "tensorrt", "-o", tmp_path / "ranges.json")
    body = "y = MatMul(x, w)"
    model_file(toy / "model.onnx", body, {"w": (8, 3)}, "float[n,8] x", "float[n,3] y")
    refused = run("build", "toy", "--target", "tensorrt", "--ranges", tmp_path / "ranges.json")
    assert refused.code == 2
    assert "was calibrated for another model" in refused.errors[0]


def test_a_lost_pin_fails_the_build_unless_it_may(trt: Callable[..., Any], toy: Path, run: Run) -> None:
    trt(loses_pins={"Conv_c2"})
    options = ["build", "toy", "--target", "tensorrt", "--pin", "Conv_c2"]
    refused = run(*options)
    assert refused.code == 1
    assert "1 pins did not hold in what was built, nothing was kept: Conv_c2 (asked fp32" in refused.errors[0]
    allow = ["--set", "precision.allow_lost_pins=true"]
    allowed = run(*options, *allow, "--json")
    assert allowed.code == 0
    assert [pin["node"] for pin in allowed.document["audit"]["lost"]] == ["Conv_c2"]
    assert "note: 1 pins did not hold" in allowed.err
    again = run(*options)  # the build is there now, and is refused all the same
    assert again.code == 1
    assert run(*options, *allow).code == 0


def test_pins_by_tensorrt_type(trt: Callable[..., Any], run: Run) -> None:
    trt()
    shown = run("pins", "toy", "--target", "tensorrt", "--pin", "trt-type:POOLING", "--json")
    assert shown.document["pinned"] == ["MaxPool_p1"]
    built = run("build", "toy", "--target", "tensorrt", "--pin", "trt-type:POOLING", "--json")
    assert (built.document["audit"]["held"], built.document["audit"]["lost"]) == (1, [])
    wrong = run("pins", "toy", "--target", "tensorrt", "--pin", "trt-type:POLING")
    assert wrong.code == 2
    assert "POOLING" in wrong.errors[0]


def test_pins_show_what_they_would_do_without_tensorrt(toy: Path, run: Run) -> None:
    options = ["pins", "toy", "--pin", "type:Softmax", "--pin", "Conv_c1"]
    implicit = run(*options, "--target", "tensorrt", "--json").document
    assert (implicit["target"], implicit["implicit"]) == ("tensorrt", True)
    assert implicit["pinned"] == ["Conv_c1", "Softmax_y"]
    text = run(*options, "--target", "tensorrt").out
    assert "precision per node: toy, target tensorrt, implicit mode" in text
    assert "implicit mode: TensorRT may lower these too" in text
    assert "pinned 1 of 3 nodes (33.3%), and 1 that the default does not lower" in text
    explicit = run(*options, "--target", "onnxruntime", "--json").document
    assert (explicit["target"], explicit["implicit"]) == ("onnxruntime", False)
    assert explicit["pinned"] == ["Conv_c1"]
    text = run(*options, "--target", "onnxruntime").out
    assert "precision per node: toy, target onnxruntime" in text
    assert "implicit" not in text
    assert text.endswith("pinned 1 of 3 nodes (33.3%)\n")


def test_a_rule_by_tensorrt_type_without_tensorrt(toy: Path, run: Run) -> None:
    options = ["toy", "--target", "onnxruntime", "--pin", "trt-type:SOFTMAX"]
    shown = run("pins", *options)
    assert shown.code == 0
    assert "0 (no TensorRT layers here)" in shown.out
    note = "note: target onnxruntime has no TensorRT layers: trt-type:SOFTMAX pin nothing here"
    assert note in shown.err
    built = run("build", *options, "--json")
    assert built.code == 0
    assert note in built.err
    assert note not in run("pins", "toy").err


def test_rtx_knows_the_layers_without_a_gpu(toy: Path, run: Run) -> None:
    pytest.importorskip("tensorrt_rtx")
    options = ["pins", "toy", "--target", "tensorrt-rtx", "--pin", "trt-type:CONVOLUTION"]
    shown = run(*options, "--json")
    assert shown.document["pinned"] == ["Conv_c1", "Conv_c2"]
    assert shown.err == ""


def test_implicit_mode_means_tensorrt(toy: Path, run: Run) -> None:
    """`auto` never falls back to a target that has no such mode; explicit mode can be simulated."""
    shown = run("pins", "toy", "--mode", "implicit", "--json")
    assert (shown.document["target"], shown.document["implicit"]) == ("tensorrt", True)
    ranges = run("calibrate", "toy", "--mode", "implicit", "--json").document["ranges"]
    assert len(ranges) > len(run("calibrate", "toy", "--json").document["ranges"])
    missing = run("build", "toy", "--mode", "implicit")
    assert missing.code == 3
    assert "target tensorrt needs the package tensorrt" in missing.errors[0]
    for target in ("auto", "onnxruntime"):
        built = run("build", "toy", "--mode", "explicit", "--target", target, "--json")
        assert built.document["target"]["target"] == "onnxruntime"


def test_a_device_checks_against_golden_outputs_from_elsewhere(
    trt: Callable[..., Any], toy: Path, run: Run, tmp_path: Path
) -> None:
    double = trt()
    golden = tmp_path / "golden.safetensors"
    run("build", "toy", "--target", "onnxruntime")
    assert run("validate", "toy", "--save-golden", golden).code == 0
    run("build", "toy", "--target", "tensorrt")
    del double.opened[:]
    checked = run("validate", "toy", "--golden", golden, "--json")
    assert checked.code == 0, checked.err
    assert not any("golden" in name for name in double.opened)
    assert checked.document["layers"] == []
    assert checked.document["metric"]["samples"] == 7


def test_explicit_mode(trt: Callable[..., Any], run: Run) -> None:
    trt()
    built = run("build", "toy", "--target", "tensorrt", "--mode", "explicit", "--pin", "Conv_c1", "--json")
    assert built.code == 0, built.err
    assert built.document["target"]["mode"] == "explicit"
    assert set(built.document["ranges"]["ranges"]) == {"x", "p1", "f"}
    wrong = run(
        "build", "toy", "--target", "tensorrt", "--mode", "explicit", "--set", "tensorrt.calibrator=entropy"
    )
    assert wrong.code == 2
    assert 'calibrator = "entropy" belongs to implicit mode' in wrong.errors[0]


def test_tensorrt_11_is_explicit_or_refused(trt: Callable[..., Any], run: Run) -> None:
    trt("11.0.0")
    assert run("build", "toy", "--target", "tensorrt", "--json").document["target"]["mode"] == "explicit"
    refused = run("build", "toy", "--target", "tensorrt", "--mode", "implicit")
    assert refused.code == 3
    assert "implicit mode needs TensorRT 8.5 to 10; this is 11.0.0" in refused.errors[0]


def test_what_is_missing_is_exit_code_3(toy: Path, run: Run) -> None:
    for command in (["build"], ["bench"]):
        missing = run(*command, "toy", *(["--target", "tensorrt"] if command == ["build"] else []))
        assert missing.code == 3, missing.err
        assert "pip install 'trtbuild[tensorrt]'" in missing.errors[0]


def test_a_failure_while_tensorrt_calibrates_keeps_nothing(
    trt: Callable[..., Any], toy: Path, run: Run
) -> None:
    trt()
    bad = np.load(toy / "shards" / "1.npz")["x"]
    bad[2] = np.nan
    np.savez(toy / "shards" / "1.npz", x=bad)
    failed = run("build", "toy", "--target", "tensorrt")
    assert failed.code == 2
    assert "1.npz: input 'x' has 192 NaN" in failed.errors[0]
    assert not (toy / "builds").exists()


def test_inspect_shows_who_executes_a_pin(trt: Callable[..., Any], run: Run) -> None:
    trt()
    run("build", "toy", "--target", "tensorrt", "--pin", "Conv_c2")
    shown = run("inspect", "toy", "--json").document
    (pin,) = shown["audit"]["pins"]
    assert (pin["node"], pin["wanted"]) == ("Conv_c2", "fp32")
    assert [layer["precision"] for layer in pin["layers"]] == ["fp32"]
    assert run("inspect", "toy").code == 0


def test_doctor_says_that_tensorrt_is_there(trt: Callable[..., Any], run: Run) -> None:
    trt()
    document = run("doctor", "--json").document
    assert document["gpu"] == "NVIDIA GeForce RTX 4090"
    assert {t["target"]: (t["builds"], t["runs"]) for t in document["targets"]}["tensorrt"] == (True, True)
    assert run("doctor").code == 0
