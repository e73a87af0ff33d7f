"""Strongly typed engines. The layers of a network that TensorRT-RTX's parser made are real, in the shapes in
which it makes them; so is its build. TensorRT itself is a double that parses with TensorRT-RTX."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from trtbuild.errors import InputError, MachineError
from trtbuild.recipe import InputSection
from trtbuild.rewrite.explicit import ranges_needed
from trtbuild.targets.audit import LostPin, audit
from trtbuild.targets.base import Built, Layer, Request, Target
from trtbuild.targets.session import infer
from trtbuild.targets.sides import EngineSide
from trtbuild.targets.tensorrt_explicit import TensorRTExplicit

Requests = Callable[..., Request]
MATRICES = {"inputs": "float[2,8] x", "outputs": "float[a,b] y", "weights": {"w": (8, 8)}}
NAMES = [
    "a]",
    "[b]",
    "/c:0/MatMul",
    "[ONNX Layer: d]",
    "e | f (If)",
    "g h\té",
    "line\nbreak",
    "n" * 500,
    "::raw",
]


def by_node(built: Built) -> dict[str, list[tuple[str, str]]]:
    """Node -> the type and the precision of each of its layers."""
    layers: dict[str, list[tuple[str, str]]] = {}
    for layer in built.layers:
        for node in layer.nodes:
            layers.setdefault(node, []).append((layer.type, layer.precision))
    return layers


@pytest.fixture
def built(rtx: Target, request_of: Requests, tmp_path: Path) -> Callable[..., Built]:
    def build(*what: object, **options: object) -> Built:
        return rtx.build(request_of(*what, **options), tmp_path / rtx.artifact)

    return build


def named(path: Path, names: list[str]) -> Path:
    """Give the nodes these names."""
    model = onnx.load(path)
    for node, name in zip(model.graph.node, names, strict=True):
        node.name = name
    onnx.save(model, path)
    return path


def test_any_node_name_comes_back_from_the_metadata(
    rtx: Target, toy: Callable, request_of: Requests, tmp_path: Path
) -> None:
    tensors = ["x", *(f"t{i}" for i in range(len(NAMES) - 1)), "y"]
    body = " ".join(f"{after} = MatMul({before}, w)" for before, after in pairwise(tensors))
    path = named(toy(body=body, **MATRICES), NAMES)
    for pinned in ([], NAMES, NAMES[::2], NAMES[1::2]):
        request = request_of(path, "int8", *pinned)
        layers = rtx.build(request, tmp_path / rtx.artifact).layers
        assert [layer.nodes for layer in layers] == [(name,) for name in NAMES]
        assert [layer.precision for layer in layers] == [
            "fp32" if name in pinned else "int8" for name in NAMES
        ]
        audited = audit(request.precisions, layers)
        assert (audited.held, audited.lost, audited.unlowered) == (len(pinned), (), ())


def test_names_that_the_parser_makes_up_itself(toy: Callable, built: Callable) -> None:
    """Tensors and nodes called as the parser calls those that it adds."""
    path = toy(
        body="a_output = MatMul(x, w) ONNXTRT_Broadcast_output = MatMul(a_output, w)"
        "b = Relu(ONNXTRT_Broadcast_output) y = MatMul(b, w)",
        inputs="float[2,3,8] x",
        outputs="float[a,b,c] y",
        weights={"w": (8, 8)},
    )
    path = named(path, ["ONNXTRT_Broadcast", "a", "b", "tmp_weight"])
    assert by_node(built(path, "int8", "a")) == {
        "ONNXTRT_Broadcast": [("MATRIX_MULTIPLY", "int8")],
        "a": [("MATRIX_MULTIPLY", "fp32")],
        "b": [("ACTIVATION", "fp32")],
        "tmp_weight": [("MATRIX_MULTIPLY", "int8")],
    }


def test_a_batched_matmul_reads_its_dq_through_a_broadcast(built: Callable) -> None:
    layers = by_node(built("attention", "int8", "MatMul_k"))
    assert layers["MatMul_q"] == [("MATRIX_MULTIPLY", "int8")]
    assert layers["MatMul_k"] == [("MATRIX_MULTIPLY", "fp32")]


def test_a_conv1d_reads_its_dq_through_the_axis_that_the_parser_adds(built: Callable) -> None:
    layers = built("conv1d", "int8", "Conv_y").layers
    assert layers == (
        Layer("Conv_a", "CONVOLUTION", ("Conv_a",), "int8"),
        Layer("Tanh_t", "ACTIVATION", ("Tanh_t",), "fp32"),
        Layer("Conv_y", "CONVOLUTION", ("Conv_y",), "fp32"),
    )


def test_a_gemm_becomes_several_layers_of_which_the_product_is_int8(
    built: Callable, request_of: Requests
) -> None:
    layers = by_node(built("gemm", "int8", "Gemm_a"))
    assert layers["Gemm_a"] == [("MATRIX_MULTIPLY", "fp32"), ("ELEMENTWISE", "fp32")]
    product, *rest = layers["Gemm_b"]
    assert product == ("MATRIX_MULTIPLY", "int8")
    assert rest == [("ELEMENTWISE", "fp32")] * 3  # alpha, beta, and the sum
    audited = audit(request_of("gemm", "int8", "Gemm_b").precisions, built("gemm", "int8").layers)
    assert audited.lost == (LostPin("Gemm_b", "fp32", "fp32+int8"),)


def test_a_batchnorm_in_fp16_is_written_out(built: Callable) -> None:
    written_out = by_node(built("residual", "fp16"))["BatchNormalization_n1"]
    assert len(written_out) > 1
    assert ("ELEMENTWISE", "fp16") in written_out
    assert {precision for _, precision in written_out} == {"fp16"}
    layers = built("residual", "fp16", "BatchNormalization_n1").layers
    assert [layer.precision for layer in layers if layer.nodes == ("BatchNormalization_n1",)] == ["fp32"]
    assert {layer.precision for layer in layers if layer.nodes != ("BatchNormalization_n1",)} == {"fp16"}


UNCHANGING = {
    "Transpose_m": "m = Transpose<perm = [1,0]>(a)",
    "Reshape_m": "m = Reshape(a, shape)",
    "Flatten_m": "m = Flatten(a)",  # of rank 2: the parser makes it an Identity, as the four below
    "Sum_m": "m = Sum(a)",
    "Max_m": "m = Max(a)",
    "Pad_m": "m = Pad(a, none)",
    "ReduceSum_m": "m = ReduceSum<noop_with_empty_axes = 1>(a)",
    "Squeeze_m": "u = Unsqueeze(a, axis) m = Squeeze(u, axis)",
    "Unsqueeze_u": "u = Unsqueeze(a, axis) m = Squeeze(u, axis)",
    "Expand_m": "m = Expand(a, shape)",
    "Tile_m": "m = Tile(a, ones)",
    "DepthToSpace_d": "r = Reshape(a, four) d = DepthToSpace<blocksize = 2>(r) m = Reshape(d, shape)",
}


@pytest.mark.parametrize("default", ["fp16", "bf16"])
@pytest.mark.parametrize("node", UNCHANGING)
def test_nodes_that_compute_nothing_can_be_pinned(
    node: str, default: str, toy: Callable, request_of: Requests, built: Callable
) -> None:
    integers = {"shape": [8, 8], "axis": [0], "four": [1, 4, 4, 4], "ones": [1, 1], "none": [0, 0, 0, 0]}
    path = toy(
        body=f"a = Relu(x) {UNCHANGING[node]} y = Tanh(m)",
        inputs="float[8,8] x",
        outputs="float[c,d] y",
        weights={name: np.asarray(value, np.int64) for name, value in integers.items()},
    )
    request = request_of(path, default, node)
    layers = built(path, default, node).layers
    assert request.precisions.pinned == [node]
    audited = audit(request.precisions, layers)
    assert (audited.held, audited.lost) == (1, ())
    assert audit(request.precisions, built(path, default).layers).lost == (LostPin(node, "fp32", default),)


def test_layers_that_compute_no_floats_do_not_count(toy: Callable, built: Callable) -> None:
    path = toy(
        body="a = Relu(x) b = Greater(a, x) s = Shape(a) r = Reshape(x, s) y = Where(b, a, r)",
        inputs="float[n,8] x",
        outputs="float[c,d] y",
    )
    profiles = {"x": InputSection(min=(1, 8), opt=(2, 8), max=(4, 8))}
    layers = by_node(built(path, "fp16", profiles=profiles))
    assert set(layers) == {"Relu_a", "Reshape_r", "Where_y"}
    assert {precision for found in layers.values() for _, precision in found} == {"fp16"}


def test_the_bodies_of_an_if_are_not_taken_for_nodes_of_the_graph(
    toy: Callable, request_of: Requests, built: Callable
) -> None:
    """A body's node is called as a node of the graph: it proves nothing about that one."""
    path = toy(
        body="m = ReduceMean<keepdims = 0>(x) positive = Greater(m, zero) a = MatMul(x, w)"
        "b = If(positive) <then_branch = yes () => (float[2,8] p) { p = MatMul(a, w) },"
        " else_branch = no () => (float[2,8] q) { q = Neg(a) }> y = MatMul(b, w)",
        inputs="float[2,8] x",
        outputs="float[c,d] y",
        weights={"w": (8, 8), "zero": np.asarray(0, np.float32)},
    )
    model = onnx.load(path)
    model.graph.node[2].name = "product"
    model.graph.node[3].attribute[0].g.node[0].name = "product"
    onnx.save(model, path)
    request = request_of(path, "int8")
    layers = built(path, "int8").layers
    assert [layer.precision for layer in layers if layer.nodes == ("product",)] == ["int8"]
    assert audit(request.precisions, layers).unlowered == ()
    inside = [layer for layer in layers if layer.type == "MATRIX_MULTIPLY" and layer.precision == "fp32"]
    assert [layer.nodes for layer in inside] == [("If_b",)]


def test_dq_of_the_models_own_weights_is_seen_through_its_transpose(built: Callable) -> None:
    assert by_node(built("qat")) == {
        "Transpose_wt": [("SHUFFLE", "int8")],
        "MatMul_a": [("MATRIX_MULTIPLY", "int8")],
        "Relu_y": [("ACTIVATION", "fp32")],
    }


def test_layer_types_are_those_of_the_float_model(rtx: Target, request_of: Requests) -> None:
    types = rtx.layer_types(request_of("attention", "int8").model)
    assert "SOFTMAX" in types["Softmax_p"]
    assert types["MatMul_q"] == {"MATRIX_MULTIPLY"}
    assert "QUANTIZE" not in set().union(*types.values())


def test_ranges_are_those_that_int8_forms_read(rtx: Target, request_of: Requests) -> None:
    request = request_of("gemm")
    assert rtx.ranges(request.model) == ranges_needed(request.model) == ("x", "r", "b")
    assert rtx.algorithm(request.recipe) is None
    assert rtx.implicit is False


def test_golden_and_candidate_run_in_onnx_runtime(
    rtx: Target, request_of: Requests, tmp_path: Path, feeds: Callable
) -> None:
    request = request_of("gemm")
    golden, candidate = rtx.golden(request, None), rtx.candidate(request, tmp_path / rtx.artifact)
    assert golden.caveat is None
    assert candidate.caveat == "the engine was not run: ONNX Runtime ran the same explicit model"
    fed = feeds(request.model)
    with golden.shipped(["y"]) as one, candidate.shipped(["y"]) as other:
        exact, lowered = (infer(active, fed, "a sample")["y"] for active in (one, other))
    assert exact.shape == lowered.shape
    assert 0 < np.abs(exact - lowered).max() < np.abs(exact).max()


@pytest.fixture(params=["10.9.0.34", "11.1.0.2"])
def explicit_tensorrt(request: pytest.FixtureRequest, tensorrt: Callable[..., Any]) -> TensorRTExplicit:
    tensorrt(request.param)
    return TensorRTExplicit("tensorrt")


CONFIGURATIONS = [("int8", "fp32"), ("fp16", "fp32"), ("int8", "fp16")]


@pytest.mark.parametrize(("default", "fallback"), CONFIGURATIONS)
def test_tensorrt_builds_what_tensorrt_rtx_builds(
    default: str,
    fallback: str,
    explicit_tensorrt: TensorRTExplicit,
    rtx: Target,
    any_toy: str,
    request_of: Requests,
    tmp_path: Path,
) -> None:
    request = request_of(any_toy, default, "first:1", fallback=fallback)
    built = explicit_tensorrt.build(request, tmp_path / "tensorrt.plan")
    assert (tmp_path / "tensorrt.plan").stat().st_size > 0
    assert by_node(built) == by_node(rtx.build(request, tmp_path / "rtx.plan"))
    assert audit(request.precisions, built.layers).lost == ()
    assert built.facts["inspected"].startswith(
        "the parsed, strongly typed network; the engine itself was not"
    )


def test_what_tensorrt_is_told(
    tensorrt: Callable[..., Any], request_of: Requests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network is strongly typed; the recipe's options are in the configuration, and a timing cache."""
    double = tensorrt("10.9.0.34")
    seen: list[tuple[Any, Any]] = []
    build = double.Builder.build_serialized_network

    def spied(builder: Any, network: Any, config: Any) -> Any:
        seen.append((network, config))
        return build(builder, network, config)

    monkeypatch.setattr(double.Builder, "build_serialized_network", spied)
    request = request_of(
        "gemm", optimization_level=4, workspace_gb=2, tf32=False, timing_cache=str(tmp_path / "timing")
    )
    TensorRTExplicit("tensorrt").build(request, tmp_path / "engine.plan")
    ((network, config),) = seen
    assert network._strongly_typed()
    assert config.builder_optimization_level == 4
    assert config.get_memory_pool_limit(double.MemoryPoolType.WORKSPACE) == 2 << 30
    assert not config.get_flag(double.BuilderFlag.TF32)
    assert not config.get_flag(double.BuilderFlag.INT8)
    assert not config.get_flag(double.BuilderFlag.FP16)
    assert config.num_optimization_profiles == 1
    assert config.progress_monitor is not None
    assert [path.suffix for path in (tmp_path / "timing").iterdir()] == [".cache"]


def test_the_key_of_a_tensorrt_build(
    explicit_tensorrt: TensorRTExplicit, request_of: Requests, tmp_path: Path
) -> None:
    request = request_of("gemm", mode="explicit", optimization_level=3)
    identity = explicit_tensorrt.identity(request.recipe)
    assert identity == json.loads(json.dumps(identity))
    assert identity["target"] == explicit_tensorrt.name == "tensorrt"
    assert identity["mode"] == "explicit"
    assert identity["tensorrt"] in ("10.9.0.34", "11.1.0.2")
    assert identity["gpu"] == "NVIDIA GeForce RTX 4090"
    assert identity["compute_capability"] == "8.9"
    assert identity["options"]["optimization_level"] == 3
    assert identity != explicit_tensorrt.identity(request_of("gemm").recipe)
    built = explicit_tensorrt.build(request, tmp_path / "engine.plan")
    assert built.facts.items() >= identity.items()


def test_on_a_gpu_the_sides_are_engines(
    explicit_tensorrt: TensorRTExplicit, request_of: Requests, tmp_path: Path
) -> None:
    request = request_of("gemm")
    for side in (explicit_tensorrt.golden(request, None), explicit_tensorrt.candidate(request, tmp_path)):
        assert isinstance(side, EngineSide)
        assert side.caveat is None
    assert explicit_tensorrt.golden(request, None).name.endswith("FP32)")


IMPLICIT_ONLY: dict[str, dict[str, Any]] = {
    'mode = "implicit"': {"mode": "implicit"},
    'calibrator = "entropy"': {"calibrator": "entropy"},
    'calibrator = "minmax"': {"calibrator": "minmax"},
    'constraints = "prefer"': {"constraints": "prefer"},
}


@pytest.mark.parametrize("key", IMPLICIT_ONLY)
def test_what_only_implicit_mode_has_is_refused_before_anything_is_built(
    key: str, explicit_tensorrt: TensorRTExplicit, rtx: Target, request_of: Requests, tmp_path: Path
) -> None:
    request = request_of("gemm", **IMPLICIT_ONLY[key])
    attempts: list[Callable[[], object]] = [
        lambda: explicit_tensorrt.algorithm(request.recipe),
        lambda: explicit_tensorrt.identity(request.recipe),
        lambda: explicit_tensorrt.build(request, tmp_path / "engine.plan"),
    ]
    for attempt in attempts:
        with pytest.raises(InputError) as refused:
            attempt()
        assert f"[tensorrt] {key} belongs to implicit mode" in str(refused.value)
    assert not (tmp_path / "engine.plan").exists()
    rtx.identity(request.recipe)  # the section is not TensorRT-RTX's


@pytest.mark.parametrize("key", ["auto", "ranges"])
def test_ranges_from_our_table_are_explicit(
    key: str, explicit_tensorrt: TensorRTExplicit, request_of: Requests
) -> None:
    assert explicit_tensorrt.algorithm(request_of("gemm", calibrator=key).recipe) is None


@pytest.mark.parametrize("version", ["8.5.1.7", "8.6.2"])
def test_a_tensorrt_without_strong_typing_is_refused(
    version: str, tensorrt: Callable[..., Any], request_of: Requests, tmp_path: Path
) -> None:
    tensorrt(version)
    target, request = TensorRTExplicit("tensorrt"), request_of("gemm")
    attempts: list[Callable[[], object]] = [
        target.require,
        lambda: target.identity(request.recipe),
        lambda: target.layer_types(request.model),
        lambda: target.build(request, tmp_path / "engine.plan"),
    ]
    for attempt in attempts:
        with pytest.raises(MachineError, match=f"this is {version}: use --mode implicit, or pip install"):
            attempt()
    assert not (tmp_path / "engine.plan").exists()


def test_a_failed_build_leaves_no_file(
    tensorrt: Callable[..., Any], request_of: Requests, tmp_path: Path
) -> None:
    tensorrt("10.9.0.34", fails="Error Code 1: Cuda Runtime (out of memory)")
    with pytest.raises(MachineError, match="out of memory"):
        TensorRTExplicit("tensorrt").build(request_of("gemm"), tmp_path / "engine.plan")
    assert not (tmp_path / "engine.plan").exists()
