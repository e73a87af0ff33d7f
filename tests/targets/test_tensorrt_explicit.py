"""Target `tensorrt-rtx`, and reading the layers of a network that its parser made, in the shapes that it
makes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest

from trtbuild.recipe import InputSection
from trtbuild.rewrite.explicit import ranges_needed
from trtbuild.targets.audit import LostPin, audit
from trtbuild.targets.base import Built, Layer, Request, Target
from trtbuild.targets.session import infer

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


def test_a_dq_is_seen_through_the_cast_of_a_half_model(toy: Callable[..., Path], built: Callable) -> None:
    """Before opset 19 a DQ gives float32, which such models cast."""
    path = toy(
        body="xq = QuantizeLinear(x, xs, zero) xd = DequantizeLinear(xq, xs, zero) h = Cast<to = 10>(xd)"
        " m = MatMul(h, w) y = Cast<to = 1>(m)",
        inputs="float[2,8] x",
        outputs="float[a,b] y",
        weights={
            "xs": np.asarray(0.05, np.float32),
            "zero": np.asarray(0, np.int8),
            "w": np.ones((8, 8), np.float16),
        },
    )
    assert by_node(built(path)) == {"MatMul_m": [("MATRIX_MULTIPLY", "int8")]}


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


def test_what_onnx_runtime_cannot_run_is_cut_off(
    rtx: Target, request_of: Requests, toy: Callable[..., Path], tmp_path: Path
) -> None:
    request = request_of(toy(body="a = MatMul(x, w) y = EfficientNMS_TRT(a)", **MATRICES))
    assert request.model.unrunnable
    candidate = rtx.candidate(request, tmp_path / rtx.artifact)
    with candidate.shipped(["a"]) as active:
        assert set(infer(active, {"x": np.ones((2, 8), np.float32)}, "a sample")) == {"a"}


def test_tensorrt_rtx_keeps_no_timing_cache(
    built: Callable[..., Built], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It measures nothing: it builds for GPUs that are not there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    built("gemm")
    assert not (tmp_path / "cache").exists()
