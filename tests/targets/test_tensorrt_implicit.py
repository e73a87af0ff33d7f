"""The implicit target against a double of the binding that behaves, and misbehaves, as the real one does."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from trtbuild.errors import BuildError, InputError, MachineError
from trtbuild.progress import STOP
from trtbuild.targets.audit import audit
from trtbuild.targets.base import Built, Request
from trtbuild.targets.choose import by_name, choose
from trtbuild.targets.tensorrt_explicit import TensorRTExplicit
from trtbuild.targets.tensorrt_implicit import TensorRTImplicit
from trtbuild.targets.trt import binding, gpu, making
from trtbuild.targets.trt.compile import build_plan
from trtbuild.targets.trt.log import open_log
from trtbuild.targets.trt.network import layers

Requests = Callable[..., Request]
VERSIONS = ["8.5.1.7", "8.6.1", "10.3.0", "10.13.0"]
honest_driver = gpu._driver
FLAT = ["residual", "attention", "gemm", "conv-transpose", "depthwise", "conv1d", "two-inputs"]


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest, tensorrt: Callable[..., Any]) -> str:
    """Each TensorRT version with calibrators in turn, installed."""
    tensorrt(request.param)
    return str(request.param)


def build(request: Request, folder: Path) -> Built:
    path = folder / "engine.plan"
    built = TensorRTImplicit().build(request, path)
    assert path.stat().st_size > 0
    return built


def precisions_of(built: Built) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for layer in built.layers:
        for node in layer.nodes:
            found.setdefault(node, set()).add(layer.precision)
    return found


def plan_layers(folder: Path) -> list[dict[str, Any]]:
    """What the double wrote down of its engine."""
    return json.loads((folder / "engine.plan").read_bytes()[4:])["layers"]


@pytest.mark.parametrize("toy_name", FLAT)
@pytest.mark.parametrize("pin", ["first:1", "last:1", "re:.*"])
def test_pins_hold(version: str, toy_name: str, pin: str, request_of: Requests, tmp_path: Path) -> None:
    request = request_of(toy_name, "int8", pin, implicit=True)
    built = build(request, tmp_path)
    audited = audit(request.precisions, built.layers)
    assert request.precisions.pinned
    assert audited.lost == ()
    assert built.facts["layers_held"] >= audited.held == len(request.precisions.pinned)
    if pin != "re:.*":
        assert "int8" in audited.histogram


def test_without_pins_the_builder_lowers_what_it_can(
    version: str, request_of: Requests, tmp_path: Path
) -> None:
    request = request_of("residual", implicit=True)
    built = build(request, tmp_path)
    assert set(precisions_of(built)) == {str(node.name) for node in request.model.graph}
    assert {layer.precision for layer in built.layers} == {"int8"}
    assert audit(request.precisions, built.layers).below  # the Relu, say, of which the map says fp32
    assert built.facts["layers_held"] == 0
    assert built.facts["without_range"] == []


def test_a_pin_on_what_has_no_int8_form_holds_too(version: str, request_of: Requests, tmp_path: Path) -> None:
    request = request_of("residual", "int8", "Relu_r1", implicit=True)
    assert request.precisions.pinned == ["Relu_r1"]
    built = build(request, tmp_path)
    assert precisions_of(built)["Relu_r1"] == {"fp32"}
    assert precisions_of(built)["Conv_c1"] == {"int8"}


@pytest.mark.parametrize("constraints", ["obey", "prefer"])
def test_pins_need_the_flag_that_makes_tensorrt_obey(
    version: str, constraints: str, request_of: Requests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_of("residual", "int8", "Conv_c2", implicit=True, constraints=constraints)
    assert audit(request.precisions, build(request, tmp_path).layers).lost == ()
    monkeypatch.setattr(making, "set_flags", lambda _, config, *rest: config.set_flag(int8_flag()))
    (lost,) = audit(request.precisions, build(request, tmp_path).layers).lost
    assert (lost.node, lost.wanted) == ("Conv_c2", "fp32")
    assert "int8" in lost.found


def int8_flag() -> Any:
    return binding.load("tensorrt").BuilderFlag.INT8


@pytest.mark.parametrize("version", VERSIONS)
def test_a_pin_that_fusion_swallows_is_lost(
    version: str, tensorrt: Callable[..., Any], request_of: Requests, tmp_path: Path
) -> None:
    tensorrt(version, loses_pins={"Conv_c2"})
    request = request_of("residual", "int8", "Conv_c1", "Conv_c2", implicit=True)
    audited = audit(request.precisions, build(request, tmp_path).layers)
    assert [(pin.node, pin.found) for pin in audited.lost] == [("Conv_c2", "int8")]
    assert audited.held == 1


def test_what_a_pinned_layer_reads_is_written_as_float(
    version: str, request_of: Requests, tmp_path: Path
) -> None:
    """Otherwise the layer before it writes int8, and the pinned one reads that, converted back."""
    reads = {}
    for pin_inputs in (True, False):
        request = request_of("residual", "int8", "Conv_c2", implicit=True, pin_inputs=pin_inputs)
        (pin,) = audit(request.precisions, build(request, tmp_path).layers).pins
        assert [layer.reads_int8 for layer in pin.layers] == [not pin_inputs]
        pinned = next(layer for layer in plan_layers(tmp_path) if "Conv_c2" in layer["name"].split(" + "))
        reads[pin_inputs] = {tensor["name"] for tensor in pinned["inputs"]}
    assert reads[True] == {"r1"}
    assert reads[False] == {"Reformatted Input Tensor 0 to Conv_c2"}


def test_the_way_to_a_pinned_layer_is_float_through_what_only_moves_data(
    version: str, toy: Callable, request_of: Requests, tmp_path: Path
) -> None:
    path = toy(
        body="a = MatMul(x, w) b = Transpose<perm = [1,0]>(a) y = MatMul(b, w)",
        inputs="float[8,8] x",
        outputs="float[c,d] y",
        weights={"w": (8, 8)},
    )
    built = build(request_of(path, "int8", "MatMul_y", implicit=True), tmp_path)
    assert precisions_of(built) == {"MatMul_a": {"int8"}, "Transpose_b": {"fp32"}, "MatMul_y": {"fp32"}}
    inputs = [tensor["name"] for layer in plan_layers(tmp_path) for tensor in layer["inputs"]]
    assert not [name for name in inputs if name.startswith("Reformatted Input") and "MatMul_y" in name]


@pytest.mark.parametrize("pin", ["MatMul_b=fp16", "MatMul_b"])
def test_an_identity_does_not_become_a_conversion(
    version: str, pin: str, toy: Callable, request_of: Requests, tmp_path: Path
) -> None:
    """What it makes is read by a layer that takes two tensors of one type only."""
    path = toy(
        body="a = MatMul(x, w) i = Identity(a) b = MatMul(i, w) y = Add(b, i)",
        inputs="float[8,8] x",
        outputs="float[c,d] y",
        weights={"w": (8, 8)},
    )
    built = build(request_of(path, "int8", pin, implicit=True), tmp_path)
    assert precisions_of(built)["MatMul_b"] == {"fp16" if pin.endswith("fp16") else "fp32"}


def test_halves(version: str, request_of: Requests, tmp_path: Path) -> None:
    request = request_of("residual", "fp16", "Conv_c2", implicit=True)
    found = precisions_of(build(request, tmp_path))
    assert found["Conv_c1"] == {"fp16"}
    assert found["Conv_c2"] == {"fp32"}
    mixed = request_of("attention", "int8", "MatMul_q=fp16", "Softmax_p", implicit=True, fallback="fp16")
    found = precisions_of(build(mixed, tmp_path))
    assert (found["MatMul_q"], found["Softmax_p"], found["MatMul_k"]) == ({"fp16"}, {"fp32"}, {"int8"})


def test_a_half_pin_leaves_the_outputs_of_the_engine_as_the_model_has_them(
    version: str, request_of: Requests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An output type of HALF on the last layer would make the engine hand out halves."""
    types: dict[str, Any] = {}

    def spy(builder: Any, network: Any, *rest: Any) -> bytes:
        for layer in layers(network):
            asked = layer.get_output_type(0).name if layer.output_type_is_set(0) else None
            types[layer.get_output(0).name] = (layer.precision.name, asked)
        return build_plan(builder, network, *rest)

    monkeypatch.setattr(making, "build_plan", spy)
    build(request_of("residual", "int8", "Relu_y=fp16", "Conv_c1=fp16", implicit=True), tmp_path)
    assert types["c1"] == ("HALF", "HALF")
    assert types["y"] == ("HALF", None)


def test_bf16_where_tensorrt_has_it(version: str, request_of: Requests, tmp_path: Path) -> None:
    request = request_of("residual", "int8", "Conv_c2=bf16", implicit=True)
    if version.startswith("8"):
        with pytest.raises(InputError, match=f"TensorRT {version} has no bf16; use fp16 or fp32"):
            build(request, tmp_path)
    else:
        assert precisions_of(build(request, tmp_path))["Conv_c2"] == {"bf16"}


def test_fp32_lowers_nothing(version: str, request_of: Requests, tmp_path: Path) -> None:
    built = build(request_of("residual", "fp32", implicit=True), tmp_path)
    assert {layer.precision for layer in built.layers} == {"fp32"}


def test_a_dynamic_model(version: str, request_of: Requests, tmp_path: Path) -> None:
    request = request_of("dynamic", "int8", "last:1", implicit=True)
    assert audit(request.precisions, build(request, tmp_path).layers).held == 1
    with pytest.raises(InputError, match=r"input 'x' has dynamic axes \(-1, 3, -1, 8\); give \[inputs.x\]"):
        build(request_of("dynamic", implicit=True, profiles={}), tmp_path)


def test_a_model_with_its_own_qdq_is_built_as_it_is(
    version: str, request_of: Requests, tmp_path: Path
) -> None:
    request = replace(request_of("qat", implicit=True), table=None)
    assert request.model.quantized
    built = build(request, tmp_path)
    assert built.facts["without_range"] == []
    assert "int8" in {layer.precision for layer in built.layers}
    assert making.make_golden(binding.load("tensorrt"), request)


def test_the_file_goes_in_as_it_was_given(
    version: str, toy: Callable, request_of: Requests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Normalising raises the opset, which TensorRT 8 could not read."""
    path = toy("residual")
    model = onnx.load(path)
    model.opset_import[0].version = 13
    onnx.save(model, path)
    seen = []
    parse = making.parse
    monkeypatch.setattr(
        making,
        "parse",
        lambda b, builder, model, *rest, **options: (
            seen.append(model.opset_imports[""]),
            parse(b, builder, model, *rest, **options),
        )[1],
    )
    request = request_of(path, implicit=True)
    assert request.model.normalised.opset_imports[""] == 18
    build(request, tmp_path)
    making.make_golden(binding.load("tensorrt"), request)
    assert seen == [13, 13]


def test_what_the_golden_cannot_parse_is_named_also_where_the_model_names_nothing(
    version: str, toy: Callable, request_of: Requests
) -> None:
    path = toy(
        body="a = MatMul(x, w) y = EfficientNMS_TRT(a)",
        inputs="float[2,8] x",
        outputs="float[a,b] y",
        weights={"w": (8, 8)},
    )
    model = onnx.load(path)
    for node in model.graph.node:
        node.ClearField("name")
    onnx.save(model, path)
    with pytest.raises(BuildError, match="EfficientNMS_TRT_y"):
        making.make_golden(binding.load("tensorrt"), request_of(path, implicit=True))


@pytest.mark.parametrize("version", VERSIONS)
def test_tensorrt_8_must_not_misread_operators_of_a_later_opset(
    version: str, tensorrt: Callable[..., Any], toy: Callable, request_of: Requests, tmp_path: Path
) -> None:
    tensorrt(version)
    axes = {"axes": np.asarray([1], np.int64), "w": (8, 8)}
    fields = {"inputs": "float[2,8] x", "outputs": "float[a,b] y", "weights": axes}
    request = request_of(toy(body="a = MatMul(x, w) y = ReduceMean(a, axes)", **fields), implicit=True)
    if version.startswith("8"):
        with pytest.raises(InputError, match=r"opset 18.*since then ReduceMean changed.*with opset 17"):
            build(request, tmp_path)
    else:
        build(request, tmp_path)


def test_ranges_reach_what_only_the_parser_knows(version: str, request_of: Requests, tmp_path: Path) -> None:
    """The reshapes around a Softmax and a Conv1d, the constants, and the product in a Gemm with a bias."""
    for toy_name in ("attention", "conv1d", "residual", "depthwise"):
        assert build(request_of(toy_name, implicit=True), tmp_path).facts["without_range"] == []
    built = build(request_of("gemm", implicit=True), tmp_path)
    assert precisions_of(built)["Gemm_a"] == {"int8"}


def test_tensors_without_a_range_are_told_and_stay_float(
    version: str, request_of: Requests, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = request_of("residual", implicit=True, ranges=["x", "c1", "n1", "r1"])
    built = build(request, tmp_path)
    assert built.facts["without_range"] == ["c2", "s", "y"]
    assert "3 tensors have no range, so layers around them stay in float: c2, s, y" in capsys.readouterr().err
    assert precisions_of(built)["Conv_c2"] == {"fp32"}
    assert audit(request.precisions, built.layers).unlowered


def test_no_range_at_all_is_no_fp32_build_in_disguise(
    version: str, request_of: Requests, tmp_path: Path
) -> None:
    with pytest.raises(BuildError, match="no scaling factors"):
        build(request_of("residual", implicit=True, ranges=[]), tmp_path)
    assert not (tmp_path / "engine.plan").exists()


@pytest.mark.parametrize(
    ("failure", "kind", "message"),
    [
        (
            "Error Code 10: Could not find any implementation for node a.",
            BuildError,
            "any implementation for",
        ),
        (
            "Requested amount of GPU memory could not be allocated: out of memory",
            MachineError,
            "workspace_gb",
        ),
    ],
)
def test_a_failed_build_tells_tensorrts_reason(
    tensorrt: Callable[..., Any],
    failure: str,
    kind: type[Exception],
    message: str,
    request_of: Requests,
    tmp_path: Path,
) -> None:
    tensorrt("10.3.0", fails=failure)
    with pytest.raises(kind, match=message):
        build(request_of("gemm", implicit=True), tmp_path)
    assert not (tmp_path / "engine.plan").exists()


def test_control_c_during_a_build(tensorrt: Callable[..., Any], request_of: Requests, tmp_path: Path) -> None:
    """It must not pass through TensorRT's callbacks: the progress monitor cancels, then it is raised."""
    tensorrt("10.3.0")
    STOP.set()
    try:
        with pytest.raises(KeyboardInterrupt):
            build(request_of("gemm", implicit=True), tmp_path)
    finally:
        STOP.clear()
    assert not (tmp_path / "engine.plan").exists()


def test_building_twice_gives_the_same(version: str, request_of: Requests, tmp_path: Path) -> None:
    request = request_of("residual", "int8", "first:1", implicit=True)
    one, other = build(request, tmp_path), build(request, tmp_path)
    assert one.layers == other.layers


def test_layer_types(version: str, request_of: Requests) -> None:
    types = TensorRTImplicit().layer_types(request_of("attention", implicit=True).model)
    assert "MATRIX_MULTIPLY" in types["MatMul_q"]
    assert "SOFTMAX" in types["Softmax_p"]


def test_which_ranges_are_needed(request_of: Requests) -> None:
    ranges = TensorRTImplicit().ranges(request_of("attention", implicit=True).model)
    assert ranges == ("x", "q", "k", "v", "kt", "qk", "p", "o", "flat", "y")
    assert TensorRTImplicit().ranges(request_of("embedding", implicit=True).model) == ("e", "h", "n", "y")


def test_identity_names_what_the_engine_depends_on(version: str, request_of: Requests) -> None:
    target = TensorRTImplicit()
    plain, other = (request_of("gemm", implicit=True, **o).recipe for o in ({}, {"workspace_gb": 1.0}))
    identity = target.identity(plain)
    assert identity["tensorrt"] == version
    assert (identity["gpu"], identity["compute_capability"]) == ("NVIDIA GeForce RTX 4090", "8.9")
    assert identity != target.identity(other)
    elsewhere = request_of("gemm", implicit=True, timing_cache="/somewhere").recipe
    assert target.identity(elsewhere) == identity
    json.dumps(identity)


def test_the_mode_goes_by_what_tensorrt_has(tensorrt: Callable[..., Any]) -> None:
    tensorrt("10.3.0")
    assert isinstance(choose("auto"), TensorRTImplicit)
    assert isinstance(choose("tensorrt"), TensorRTImplicit)
    assert isinstance(choose("tensorrt", "explicit"), TensorRTExplicit)
    tensorrt("11.0.0")
    assert isinstance(choose("tensorrt"), TensorRTExplicit)
    with pytest.raises(
        MachineError, match=r"implicit mode needs TensorRT 8.5 to 10; this is 11.0.0.*explicit"
    ):
        choose("tensorrt", "implicit")
    tensorrt("8.6.1")
    with pytest.raises(MachineError, match=r"explicit mode needs TensorRT 10.*8.6.1.*--mode implicit"):
        choose("tensorrt", "explicit")


def test_without_tensorrt_auto_is_onnxruntime_and_tensorrt_says_how_to_get_it() -> None:
    assert choose("auto").name == "onnxruntime"
    assert by_name("tensorrt").implicit  # what rules would mean there can be shown all the same
    with pytest.raises(MachineError, match=r"target tensorrt needs the package tensorrt .*pip install"):
        choose("tensorrt")


def test_without_a_gpu(
    tensorrt: Callable[..., Any], request_of: Requests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_of("gemm", implicit=True)
    tensorrt("10.3.0", no_gpu=True)  # the driver is there, but CUDA does not start
    with pytest.raises(MachineError, match=r"found no NVIDIA GPU and driver that it can use.*tensorrt-rtx"):
        build(request, tmp_path)
    monkeypatch.setattr(gpu, "_driver", honest_driver)
    with pytest.raises(MachineError, match="no NVIDIA GPU"):
        choose("tensorrt")
    assert choose("auto").name == "onnxruntime"


@pytest.mark.parametrize(
    ("header", "calibrator", "accepted"),
    [
        ("TRT-100300-EntropyCalibration2", "auto", True),
        ("TRT-100300-MinMaxCalibration", "auto", True),
        ("TRT-100300-MinMaxCalibration", "entropy", False),
        ("TRT-8501-EntropyCalibration2", "auto", False),
        ("TRT-100300-EntropyCalibration", "auto", False),
    ],
)
def test_a_cache_of_another_version_or_algorithm_is_refused(
    tensorrt: Callable[..., Any], header: str, calibrator: str, accepted: bool, request_of: Requests
) -> None:
    tensorrt("10.3.0")
    recipe = request_of("gemm", implicit=True, calibrator=calibrator).recipe
    if accepted:
        TensorRTImplicit().check_cache(header, recipe)
        return
    with pytest.raises(InputError, match=f"is of {header}, this machine wants TRT-100300-.*calibrate"):
        TensorRTImplicit().check_cache(header, recipe)


def test_warnings_are_those_of_this_build(tensorrt: Callable[..., Any], request_of: Requests) -> None:
    trt = binding.load(tensorrt("10.3.0").__name__)
    log = open_log(trt)
    log.warnings.append("of an earlier build")
    assert open_log(trt) is log
    assert log.warnings == []
