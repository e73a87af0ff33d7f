"""Reading what TensorRT built: excerpts of what engine inspectors said, and engines made up from networks."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtbuild.errors import BuildError, ExitCode, MachineError
from trtbuild.model.model import Model
from trtbuild.targets.base import Layer
from trtbuild.targets.trt import binding as bindings
from trtbuild.targets.trt import network as networks
from trtbuild.targets.trt.compile import open_builder
from trtbuild.targets.trt.inspector import Inspection, inspect, read
from trtbuild.targets.trt.log import open_log
from trtbuild.targets.trt.network import NetworkLayer
from trtbuild.targets.trt.parse import parse

EXCERPTS = Path(__file__).parent / "inspector"
"""Cut out of what TensorRT wrote, otherwise as it was:

- resnet_fp16: before 8.6; NVIDIA/TensorRT, trt-engine-explorer/examples/pytorch/resnet/A100/fp16
- mobilenet_qat: before 8.6; the same, trt-engine-explorer/tests/inputs/mobilenet_v2_residuals.qat
- pointwise: 8.2; pytorch/pytorch#66683
- dynamic_int8: before 8.6, a dynamic batch and no execution context; a note in a public repository
- resnet_int8_metadata: 10.1, implicit int8 and fp16; NVIDIA/TensorRT#4020 (there the metadata is cut off)
- myelin_kernels: 10; Eternal-Raiden-Ying/i-vit-srtp, layer_info.json (there a layer at a time)
"""
INT8 = "Thirty-two wide channel vectorized row major Int8 format"
FP16 = "Channel major FP16 format where channel % 8 == 0"
FP32 = "Row major linear FP32"
INT32 = "Row major linear Int32"
HIDDEN = "N/A due to dynamic shapes"
MOVES = ("SHUFFLE", "SQUEEZE", "UNSQUEEZE", "IDENTITY", "CONCATENATION", "SLICE")


def excerpt(name: str) -> str:
    return (EXCERPTS / f"{name}.json").read_text(encoding="utf-8")


def own(
    name: str, inputs: str, outputs: str, kind: str = "CONVOLUTION", node: str | None = ""
) -> NetworkLayer:
    """A layer of a network, of the node of its own name unless told otherwise."""
    node = name if node == "" else node
    return NetworkLayer(name, kind, node, tuple(inputs.split()), tuple(outputs.split()), kind != "CONSTANT")


def tensors(kinds: dict[str, str]) -> list[dict[str, Any]]:
    return [{"Name": name, "Dimensions": [1, 8], "Format/Datatype": kind} for name, kind in kinds.items()]


def built(
    name: str,
    inputs: dict[str, str],
    outputs: dict[str, str],
    kind: str = "CaskConvolution",
    **more: Any,
) -> dict[str, Any]:
    """A layer of an engine, as the inspector writes it before metadata; tensors are name -> description."""
    return {"Name": name, "LayerType": kind, "Inputs": tensors(inputs), "Outputs": tensors(outputs), **more}


def text(*layers: Any) -> str:
    return json.dumps({"Layers": layers, "Bindings": []})


def nodes(inspection: Inspection) -> list[tuple[str, ...]]:
    return [layer.nodes for layer in inspection.layers]


RESNET = [
    own("Conv_0", "input.1", "c0"),
    own("Relu_1", "c0", "onnx::MaxPool_125", "ACTIVATION"),
    own("MaxPool_2", "onnx::MaxPool_125", "input.8", "POOLING"),
    own("Conv_3", "input.8", "c3"),
    own("BatchNormalization_3", "c3", "b3", "SCALE"),
    own("Relu_4", "b3", "onnx::Conv_129", "ACTIVATION"),
    own("Conv_5", "onnx::Conv_129", "c5"),
    own("BatchNormalization_5", "c5", "b5", "SCALE"),
    own("Add_6", "b5 input.8", "a6", "ELEMENTWISE"),
    own("Relu_7", "a6", "input.24", "ACTIVATION"),
]


def test_before_metadata_names_tell_the_nodes_and_tensors_those_folded_into_weights() -> None:
    inspection = read(excerpt("resnet_fp16"), RESNET, halves=True)
    conv = "CaskConvolution"
    assert inspection.layers == (
        Layer("Conv_0 + Relu_1", conv, ("Conv_0", "Relu_1"), "fp16"),
        Layer("MaxPool_2", "CudaPooling", ("MaxPool_2",), "fp16"),
        Layer("Conv_3 + Relu_4", conv, ("Conv_3", "BatchNormalization_3", "Relu_4"), "fp16"),
        Layer("Conv_5 + Add_6 + Relu_7", conv, ("Conv_5", "BatchNormalization_5", "Add_6", "Relu_7"), "fp16"),
    )
    assert (inspection.executed, inspection.reformats) == (5, 1)


def test_without_a_network_the_layers_are_there_but_no_nodes() -> None:
    inspection = read(excerpt("resnet_fp16"), [], halves=True)
    assert nodes(inspection) == [()] * 4
    assert {layer.precision for layer in inspection.layers} == {"fp16"}


def test_a_quantization_that_runs_as_a_reformat_is_no_layer() -> None:
    network = [
        own("QuantizeLinear_2", "inputs.1", "433", "QUANTIZE"),
        own("features.0.0.weight", "", "w", "CONSTANT", "Conv_9"),
        own("QuantizeLinear_7", "w", "wq", "QUANTIZE"),
        own("Conv_9", "433 wq", "c9"),
        own("Clip_13", "c9", "449", "ACTIVATION"),
    ]
    inspection = read(excerpt("mobilenet_qat"), network, halves=False)
    (layer,) = inspection.layers
    assert (layer.nodes, layer.precision) == (("QuantizeLinear_7", "Conv_9", "Clip_13"), "int8")
    assert (inspection.executed, inspection.reformats) == (2, 1)


def test_nested_pointwise_names() -> None:
    network = [own("relu_1", "x", "r", "ACTIVATION"), own("add_1", "r r", "sum", "ELEMENTWISE")]
    (layer,) = read(excerpt("pointwise"), network, halves=True).layers
    assert layer == Layer("PWN(PWN(relu_1), add_1)", "PointWiseV2", ("relu_1", "add_1"), "fp16")


def test_dynamic_shapes_hide_the_types_of_tensors_but_not_of_weights() -> None:
    shuffle, conv = "(Unnamed Layer* 0) [Shuffle]", "(Unnamed Layer* 1) [Convolution]"
    network = [
        NetworkLayer(shuffle, "SHUFFLE", "Reshape", ("foo0",), (f"{shuffle}_output",), True),
        NetworkLayer(conv, "CONVOLUTION", "Conv", (f"{shuffle}_output",), (f"{conv}_output",), True),
    ]
    inspection = read(excerpt("dynamic_int8"), network, halves=False)
    (layer,) = inspection.layers
    assert (layer.nodes, layer.precision) == (("Conv",), "int8")
    assert (inspection.executed, inspection.reformats) == (2, 1)


def test_metadata_tells_the_nodes() -> None:
    inspection = read(excerpt("resnet_int8_metadata"), [], halves=True)
    (layer,) = inspection.layers
    prefix = "resnetv15_stage1_"
    assert layer.nodes == tuple(f"{prefix}{name}_fwd" for name in ("conv2", "batchnorm2", "relu1"))
    assert layer.precision == "int8"
    assert (inspection.executed, inspection.reformats) == (2, 1)


def test_myelins_kernels_and_pure_quantization_among_them() -> None:
    qdq = ("/qact_input/", "/fc1/", "/qact_fc1/", "/fc2/", "/qact_fc2/")
    network = [
        *(own(f"{name}QuantizeLinear", "x", f"{name}q", "QUANTIZE") for name in qdq),
        *(own(f"{name}DequantizeLinear", f"{name}q", f"{name}dq", "DEQUANTIZE") for name in qdq),
        own("gemm", "/qact_input/dq /fc1/dq", "g", "MATRIX_MULTIPLY", "/fc1/Gemm"),
        own("mul", "g", "m", "ELEMENTWISE", "/softmax/Mul_6"),
        own("gemm2", "m /fc2/dq", "logits", "MATRIX_MULTIPLY", "/fc2/Gemm"),
    ]
    inspection = read(excerpt("myelin_kernels"), network, halves=False)
    assert [(layer.type, layer.nodes[0], layer.precision) for layer in inspection.layers] == [
        ("gemm", "/fc1/Gemm", "int8"),
        ("gemm", "/fc2/Gemm", "fp32"),
    ]
    assert "/softmax/Mul_6" in inspection.layers[1].nodes
    assert (inspection.executed, inspection.reformats) == (4, 2)


@pytest.mark.parametrize("separator", ["\x1e", "\x1f"])
@pytest.mark.parametrize("escaped", [True, False])
def test_metadata_with_names_of_any_kind(separator: str, escaped: bool) -> None:
    names = ["a] + [b", "c, d", "e\nf", "[ONNX Layer: g]", "h + i || PWN(j)", ""]
    metadata = separator.join(f"[ONNX Layer: {name}]" for name in names)
    information = text(built("x", {"t": FP32}, {"u": FP32}, Metadata=metadata))
    if not escaped:  # as TensorRT 8.6 writes it
        information = information.replace(json.dumps(metadata)[1:-1], metadata)
        with pytest.raises(ValueError, match="control character"):
            json.loads(information)
    network = [own(f"layer {index}", "t", f"t{index}", node=name) for index, name in enumerate(names)]
    assert nodes(read(information, network, halves=False)) == [tuple(names)]


def test_a_node_in_the_metadata_is_not_found_again_by_tensors() -> None:
    """A node may be several layers; metadata says of all of them where they are executed."""
    network = [
        own("MatMul", "x", "m", "MATRIX_MULTIPLY", "Gemm"),
        own("Add", "m", "a", "ELEMENTWISE", "Gemm"),
        own("Relu", "a", "y", "ACTIVATION"),
    ]
    one = built("g", {"x": FP32}, {"__mye1": FP32}, Metadata="[ONNX Layer: Gemm]")
    other = built("r", {"m": FP32}, {"y": FP32}, Metadata="[ONNX Layer: Relu]")
    assert nodes(read(text(one, other), network, halves=False)) == [("Gemm",), ("Relu",)]


@pytest.mark.parametrize(
    ("name", "executed"),
    [
        ("a", "a"),
        ("a + b", "a b"),
        ("a || b || c", "a b c"),
        ("PWN(a)", "a"),
        ("PWN(PWN(a), b)", "a b"),
        ("PWN(c, PWN(PWN(k + a, b), d/e:0))", "c a b d/e:0"),
        ("a + PWN(b)", "a b"),
        ("{ForeignNode[a...b]}", "a b"),
        ("{ForeignNode[a + b...c]}", "a b c"),
        ("{ForeignNode[a]}", "a"),
        ("{ForeignNode[a.../d/e:0]}", "a"),
        ("a_clone_1", "a"),
        ("a_clone_1 + b", "a b"),
        ("squeeze_after_a", ""),
        ("b + unsqueeze_node_after_a", "b"),
        ("a copy", ""),
        ("aa + bb", ""),
        ("x + y", "x|+|y"),
        ("x + y + a", "x|+|y a"),
        ("(Unnamed Layer* 1) [Shuffle] + a", "(Unnamed|Layer*|1)|[Shuffle] a"),
        ("{ForeignNode[dot....b]}", "dot. b"),
        ("k", ""),
    ],
)
def test_names_that_are_made_of_names(name: str, executed: str) -> None:
    known = ["a", "b", "c", "d/e:0", "x", "y", "x + y", "dot.", "(Unnamed Layer* 1) [Shuffle]"]
    network = [own(layer, "t", f"{index}", "SHUFFLE") for index, layer in enumerate(known)]
    network.append(own("k", "", "k", "CONSTANT"))
    expected = {layer.replace("|", " ") for layer in executed.split()}
    (layer,) = read(text(built(name, {"t": FP32}, {"u": FP32})), network, halves=False).layers
    assert set(layer.nodes) == expected


REGION = [
    own("first", "x", "t1", "ELEMENTWISE"),
    own("weights", "", "w", "CONSTANT", "middle"),
    own("middle", "t1 w", "t2", "MATRIX_MULTIPLY"),
    own("view", "t2", "t3", "SHUFFLE"),
    own("last", "t3", "y", "SOFTMAX"),
    own("behind", "y", "z"),
]
BEHIND = built("behind", {"y": FP32}, {"z": FP32})


@pytest.mark.parametrize(
    ("kind", "edges", "halves", "precision"),
    [
        ("Myelin", FP32, False, "fp32"),
        ("Myelin", HIDDEN, False, "fp32"),
        ("Myelin", FP32, True, "unknown"),
        ("Myelin", FP16, True, "unknown"),
        ("Myelin", INT8, False, "int8"),
        ("Myelin", INT8, True, "int8"),
        ("Myelin", INT32, False, "fp32"),
        ("Myelin", INT32, True, "unknown"),
        ("DLA", FP16, True, "unknown"),
        ("DLA", FP16, False, "unknown"),
        ("DLA", INT8, True, "int8"),
    ],
)
def test_a_fused_region_and_what_is_inside(kind: str, edges: str, halves: bool, precision: str) -> None:
    region = built("{ForeignNode[first...last]}", {"x": edges}, {"y": edges}, kind)
    inspection = read(text(region, BEHIND), REGION, halves)
    assert inspection.layers[0] == Layer(
        "{ForeignNode[first...last]}", kind, ("first", "middle", "last"), precision
    )
    assert inspection.layers[1].nodes == ("behind",)


def test_myelin_under_another_name() -> None:
    (layer,) = read(text(built("myl", {"x": FP32}, {"y": FP32}, "Myelin")), REGION, halves=True).layers
    assert layer.precision == "unknown"


def test_reformats_rename_tensors() -> None:
    """Into a layer, out of one, and one after another."""
    region = built("{ForeignNode[first...last]}", {"In 2": FP32}, {"Out": FP32}, "Myelin")
    chain = [
        built("Reformatting CopyNode for Input", {"x": FP16}, {"In": FP32}, "Reformat"),
        built("Reformatting CopyNode 2", {"In": FP32}, {"In 2": FP32}, "NoOp"),
        region,
        built("Reformatting CopyNode for Output", {"Out": FP32}, {"y": FP16}, "MyelinReformat"),
        BEHIND,
    ]
    inspection = read(text(*chain), REGION, halves=False)
    assert nodes(inspection) == [("first", "middle", "last"), ("behind",)]
    assert (inspection.executed, inspection.reformats) == (4, 2)


def test_a_tensor_that_is_a_copy_of_several_is_a_copy_of_none() -> None:
    engine = [
        built("r1", {"x": FP32}, {"copy": FP32}, "Reformat"),
        built("r2", {"z": FP32}, {"copy": FP32}, "Reformat"),
        built("something", {"copy": FP32}, {"y": FP32}),
    ]
    assert nodes(read(text(*engine), REGION, halves=False)) == [()]
    assert nodes(read(text(engine[0], engine[2]), REGION, halves=False)) == [("first", "middle", "last")]


@pytest.mark.parametrize("reads", ["__mye42", "w", "t2", "z"])
def test_nothing_is_claimed_by_tensors_that_lead_past_what_a_layer_reads(reads: str) -> None:
    """A layer that reads tensors which the network does not have, or other ones, proves nothing."""
    engine = [
        built("first", {"x": FP32}, {"t1": FP32}),
        built("something", {reads: FP32}, {"t3": FP32}),
        built("last", {"t3": FP32}, {"y": FP32}),
        BEHIND,
    ]
    found = nodes(read(text(*engine), REGION, halves=False))
    assert found == [("first",), (), ("last",), ("behind",)]


def test_every_layer_of_a_node_counts() -> None:
    """One of its layers is named; another lies unnamed in the middle of a region, in another precision."""
    network = [
        own("mean", "x", "t1", "REDUCE", "LayerNorm"),
        own("first", "t1", "t2", "ELEMENTWISE"),
        own("divide", "t2", "t3", "ELEMENTWISE", "LayerNorm"),
        own("last", "t3", "y", "ELEMENTWISE"),
    ]
    engine = [
        built("mean", {"x": FP32}, {"t1": FP32}),
        built("{ForeignNode[first...last]}", {"t1": FP16}, {"y": FP16}, "Myelin"),
    ]
    inspection = read(text(*engine), network, halves=True)
    assert nodes(inspection) == [("LayerNorm",), ("first", "LayerNorm", "last")]
    assert [layer.precision for layer in inspection.layers] == ["fp32", "unknown"]


def test_the_parts_of_a_concat_are_written_in_place() -> None:
    network = [
        own("Conv_a", "x", "ca"),
        own("Norm_a", "ca", "a", "SCALE"),
        own("Conv_b", "z", "cb"),
        own("Norm_b", "cb", "b", "SCALE"),
        own("Inner", "a b", "ab", "CONCATENATION"),
        own("Conv_c", "x", "c"),
        own("Outer", "ab c", "y", "CONCATENATION"),
    ]
    engine = [
        built("Conv_a", {"x": INT8}, {"y": INT8}),
        built("Conv_b", {"z": FP32}, {"y": INT8}),
        built("Conv_c", {"x": INT8}, {"c": INT8}),
        built("c copy", {"c": INT8}, {"y": INT8}, "Reformat"),
    ]
    inspection = read(text(*engine), network, halves=False)
    assert nodes(inspection) == [("Conv_a", "Norm_a"), ("Conv_b", "Norm_b"), ("Conv_c",)]


def test_what_another_layer_makes_is_not_claimed_even_where_the_way_back_closes() -> None:
    network = [own("Conv", "x", "c"), own("Norm", "c", "n", "SCALE"), own("Add", "n x", "y", "ELEMENTWISE")]
    engine = [built("Conv", {"x": INT8}, {"n": FP32}), built("Add", {"__mye7": FP32, "x": FP32}, {"y": FP32})]
    assert nodes(read(text(*engine), network, halves=False)) == [("Conv", "Norm"), ("Add",)]


def test_nor_are_the_parts_of_a_concat_that_another_layer_makes() -> None:
    network = [
        own("Conv", "x", "c"),
        own("Norm", "c", "n", "SCALE"),
        own("Inner", "n x", "i", "CONCATENATION"),
        own("Outer", "i x", "y", "CONCATENATION"),
    ]
    engine = [
        built("Conv", {"x": INT8}, {"i": FP32}),
        built("Outer", {"__mye7": FP32, "x": FP32}, {"y": FP32}),
    ]
    assert nodes(read(text(*engine), network, halves=False)) == [("Conv", "Norm"), ("Outer",)]


def test_a_reformat_claims_nothing() -> None:
    region = built("{ForeignNode[first...last]}", {"x": FP32}, {"y": FP32}, "Myelin")
    reformat = built(
        "Reformatting CopyNode for something to PWN(middle)", {"p": FP32}, {"q": FP32}, "Reformat"
    )
    assert nodes(read(text(reformat, region), REGION, halves=False)) == [("first", "middle", "last")]


def test_metadata_goes_before_names() -> None:
    layer = built("first + last", {"x": FP32}, {"t1": FP32}, Metadata="[ONNX Layer: behind]")
    assert nodes(read(text(layer), REGION, halves=False)) == [("behind", "first")]  # first: by tensors
    layer = built("first + last", {"x": FP32}, {"t1": FP32}, Metadata="")
    assert nodes(read(text(layer), REGION, halves=False)) == [("first", "last")]


def test_layers_that_the_parser_added_have_no_node() -> None:
    network = [own("a", "x", "t", "ELEMENTWISE", node=None), own("b", "t", "y")]
    assert nodes(read(text(built("a + b", {"x": FP32}, {"y": FP32})), network, halves=False)) == [("b",)]


@pytest.mark.parametrize("absent", [{}, {"Inputs": None, "Outputs": None}, {"Inputs": [], "Outputs": []}])
def test_layers_without_tensors(absent: dict[str, Any]) -> None:
    layer = {"Name": "[trainStation1]", "LayerType": "TrainStation", **absent}
    assert read(text(layer, {**layer, "LayerType": "Fill"}), [], halves=False) == Inspection((), 1, 0)


def test_neither_constants_nor_the_arithmetic_of_shapes_lead_anywhere() -> None:
    integer = NetworkLayer("shape", "SHAPE", "Shape", ("image",), ("s",), False)
    network = [
        integer,
        own("weights", "", "w", "CONSTANT", "Conv"),
        own("scaled", "w", "ws", "SCALE", "Scaled"),
        own("Conv", "x ws", "c"),
        own("Resize", "c s", "y", "RESIZE"),
    ]
    engine = [built("Conv", {"x": FP32}, {"c": FP32}), built("Resize", {"c": FP32}, {"y": FP32}, "Resize")]
    assert nodes(read(text(*engine), network, halves=False)) == [("Scaled", "Conv"), ("Resize",)]


def test_a_loop_ends() -> None:
    network = [own("a", "y", "t"), own("b", "t", "y")]
    assert nodes(read(text(built("b", {"x": FP32}, {"y": FP32})), network, halves=False)) == [("a", "b")]
    renamed = [built("r", {"p": FP32}, {"q": FP32}, "NoOp"), built("s", {"q": FP32}, {"p": FP32}, "NoOp")]
    assert nodes(read(text(*renamed, built("b", {"q": FP32}, {"p": FP32})), network, halves=False)) == [
        ("b",)
    ]


@pytest.mark.parametrize(
    ("reads", "writes", "weights", "halves", "precision"),
    [
        ([FP32], [FP32], None, False, "fp32"),
        ([FP32], [FP32], "Float", True, "fp32"),
        ([INT8], [INT8], "Int8", False, "int8"),
        ([INT8], [FP32], None, False, "int8"),
        ([FP32, INT8], [FP32], None, False, "int8"),
        ([FP32], [INT8], None, False, "fp32"),
        ([FP32], [FP32], "Int8", False, "int8"),
        ([INT8, FP16], [FP16], "Half", True, "int8"),
        ([FP16], [FP16], None, True, "fp16"),
        ([FP32], [FP16], None, True, "fp16"),
        ([FP16], [FP32], None, True, "fp16"),
        ([FP16], [INT8], None, True, "fp16"),
        ([FP32], [FP32], "Half", True, "fp16"),
        (["BFloat16"], ["Float"], None, True, "bf16"),
        ([FP32], ["Row major linear BFloat16 format"], None, True, "bf16"),
        (["FP8"], ["Half"], None, True, "int8"),
        ([INT32], [FP32], None, False, "fp32"),
        ([FP32], [INT32], None, False, "fp32"),
        ([INT32], [INT32], None, False, None),
        ([INT32, "Row major linear BOOL"], ["Row major linear UInt8 format"], None, False, None),
        ([], ["Int64"], None, True, None),
        ([HIDDEN], [HIDDEN], None, False, "unknown"),
        ([HIDDEN], [FP32], None, False, "unknown"),
        ([FP32], ["Unknown format"], None, False, "unknown"),
        ([HIDDEN], [HIDDEN], "Int8", False, "int8"),
        ([HIDDEN], [HIDDEN], "Half", True, "fp16"),
        ([HIDDEN], [HIDDEN], "Float", False, "fp32"),
        ([HIDDEN], [HIDDEN], "Float", True, "unknown"),
        ([HIDDEN, INT8], [HIDDEN], None, True, "int8"),
    ],
)
def test_the_precision_of_a_layer(
    reads: list[str], writes: list[str], weights: str | None, halves: bool, precision: str | None
) -> None:
    more = {"Weights": {"Type": weights, "Count": 8}} if weights else {}
    inputs, outputs = (
        {f"{side}{i}": kind for i, kind in enumerate(kinds)} for side, kinds in (("x", reads), ("y", writes))
    )
    inspection = read(text(built("a", inputs, outputs, **more)), [], halves)
    assert [layer.precision for layer in inspection.layers] == ([precision] if precision else [])
    assert inspection.executed == 1


def test_from_tensorrt_11_on_types_have_a_field_of_their_own() -> None:
    """Keys and words of TensorRT-RTX 1.7; with dynamic shapes it is the format only that is not shown."""

    def tensor(name: str, datatype: str) -> dict[str, Any]:
        return {
            "Name": name,
            "Dimensions": [-1, 8],
            "Format": "Format not available due to dynamic shapes",
            "Datatype": datatype,
        }

    layers = [
        {"Name": "a", "LayerType": "gemm", "Inputs": [tensor("x", one)], "Outputs": [tensor("y", other)]}
        for one, other in (("Int8", "Float"), ("Float", "Half"), ("Float", "Float"), ("Int64", "Bool"))
    ]
    document = {
        "ProfilingVerbosity": "DETAILED",
        "Layers": layers,
        "I/O Tensors": [{"Name": "x", "DataType": "Float"}],
    }
    inspection = read(json.dumps(document), [], halves=True)
    assert [layer.precision for layer in inspection.layers] == ["int8", "fp16", "fp32"]
    assert inspection.executed == 4


def test_integers_of_hidden_type_are_told_by_the_network() -> None:
    network = [
        NetworkLayer("gather", "GATHER", "Gather", ("i",), ("j",), False),
        own("relu", "x", "y", "ACTIVATION"),
    ]
    engine = [built("gather", {"i": HIDDEN}, {"j": HIDDEN}), built("relu", {"x": HIDDEN}, {"y": HIDDEN})]
    inspection = read(text(*engine), network, halves=False)
    assert [(layer.name, layer.precision) for layer in inspection.layers] == [("relu", "unknown")]


@pytest.mark.parametrize(
    ("kind", "executed", "reformats"),
    [
        *((kind, 0, 0) for kind in ("NoOp", "Constant", "TrainStation", "signal", "wait", "shape_call")),
        *((kind, 1, 1) for kind in ("Reformat", "MyelinReformat", "SafeCutensorReformat")),
    ],
)
def test_layers_that_compute_nothing(kind: str, executed: int, reformats: int) -> None:
    network = [own("a", "x", "y", "SHUFFLE")]
    inspection = read(text(built("a", {"x": INT8}, {"y": FP32}, kind)), network, halves=False)
    assert inspection == Inspection((), executed, reformats)


@pytest.mark.parametrize("kinds", [("QUANTIZE",), ("DEQUANTIZE",), ("CAST",), ("DEQUANTIZE", "CAST")])
def test_conversions_that_the_network_asked_for_are_reformats(kinds: Sequence[str]) -> None:
    network = [own(f"n{i}", f"t{i}", f"t{i + 1}", kind) for i, kind in enumerate(kinds)]
    name = " + ".join(layer.name for layer in network)
    layer = built(name, {"t0": FP32}, {f"t{len(kinds)}": INT8}, "kgen")
    assert read(text(layer), network, halves=False) == Inspection((), 1, 1)
    network.append(own("relu", f"t{len(kinds)}", "y", "ACTIVATION"))
    layer = built(f"{name} + relu", {"t0": FP32}, {"y": FP32}, "kgen")
    assert len(read(text(layer), network, halves=False).layers) == 1


def test_an_engine_without_layers() -> None:
    assert read(text(), [], halves=False) == Inspection((), 0, 0)


@pytest.mark.parametrize(
    ("information", "message"),
    [
        (
            '{"Layers": ["Conv__25 + Relu"\n,"MaxPool2d"\n],\n"Bindings": ["x:0"\n]}',
            "ProfilingVerbosity.DETAILED",
        ),
        ("", "no list of layers .JSONDecodeError"),
        ("Layer(Reformat): Reformatting CopyNode", "no list of layers .JSONDecodeError"),
        ("[]", "no list of layers"),
        ("{}", "no list of layers .KeyError: 'Layers'"),
        ('{"Layers": null}', "no list of layers"),
        ('{"Layers": [3]}', "no list of layers"),
        ('{"Layers": [{"LayerType": "Reformat"}]}', "no list of layers .KeyError: 'Name'"),
        ('{"Layers": [{"Name": "a", "LayerType": "b", "Inputs": ["c"]}]}', "no list of layers"),
    ],
)
def test_what_does_not_show_the_layers(information: str, message: str) -> None:
    with pytest.raises(BuildError, match=message) as refused:
        read(information, [], halves=False)
    assert "\n" not in str(refused.value)
    assert refused.value.exit_code == ExitCode.INPUT


# --- engines made up from networks --------------------------------------------------------------------------


@st.composite
def made_up(draw: st.DrawFn) -> list[NetworkLayer]:
    """A network: each layer reads what was made before it, a constant, or the input."""
    network: list[NetworkLayer] = []
    there = ["input"]
    for index in range(draw(st.integers(1, 12))):
        reads = draw(st.lists(st.sampled_from(there), min_size=1, max_size=3, unique=True))
        if draw(st.booleans()):
            network.append(own(f"w{index}", "", f"weights{index}", "CONSTANT", f"n{index}"))
            reads.append(f"weights{index}")
        kind = draw(st.sampled_from(["CONVOLUTION", "ELEMENTWISE", *MOVES]))
        network.append(own(f"n{index}", " ".join(reads), f"t{index}", kind))
        there.append(f"t{index}")
    return network


def fused(
    network: Sequence[NetworkLayer],
    cuts: Iterable[int],
    named: Callable[[list[str]], str],
    renames: Callable[[], bool],
) -> tuple[list[dict[str, Any]], list[list[str]]]:
    """An engine that executes the computing layers between two cuts as one, and what each of its layers
    executes. It shows a name made of some of theirs, and the tensors at the edges, some reformatted."""
    computing = [layer for layer in network if layer.floats]
    made = {
        tensor for layer in network if not layer.floats for tensor in layer.outputs
    }  # integers, constants
    edges = [0, *sorted({cut % (len(computing) + 1) for cut in cuts} - {0, len(computing)}), len(computing)]
    engine, expected = [], []
    for start, end in itertools.pairwise(edges):
        part, rest = computing[start:end], computing[:start] + computing[end:]
        inside = {tensor for layer in part for tensor in layer.outputs}
        elsewhere = {tensor for layer in rest for tensor in layer.inputs}
        local = {tensor for layer in part for tensor in layer.inputs}
        reads = sorted(local - inside - made)
        writes = sorted(tensor for tensor in inside if tensor in elsewhere or tensor not in local)
        name = named([layer.name for layer in part])
        for index, tensor in enumerate(reads):
            if renames():
                copy = f"Reformatted Input Tensor {index} to {name}"
                engine.append(
                    built(f"Reformatting CopyNode {index}", {tensor: FP16}, {copy: FP32}, "Reformat")
                )
                reads[index] = copy
        outputs, after = list(writes), []
        for index, tensor in enumerate(writes):
            if renames():
                outputs[index] = f"Reformatted Output Tensor {index} to {name}"
                after.append(built(f"CopyNode {index}", {outputs[index]: FP32}, {tensor: FP16}, "Reformat"))
        engine += [built(name, dict.fromkeys(reads, FP32), dict.fromkeys(outputs, FP32)), *after]
        expected.append([layer.name for layer in part])
    return engine, expected


NAMINGS: dict[str, Callable[[list[str]], str]] = {
    "all": " + ".join,
    "nested": lambda names: "PWN(" * len(names) + "), ".join(names) + ")",
    "ends": lambda names: f"{{ForeignNode[{names[0]}...{names[-1]}]}}",
    "first": lambda names: names[0],
    "none": lambda names: f"kernel_{names[0]}",
}


def check_claims(
    network: Sequence[NetworkLayer], engine: list[dict[str, Any]], expected: list[list[str]]
) -> None:
    """Each computing layer is claimed by the one that executes it, and by no other; what only moves data is
    claimed by no other either."""
    inspection = read(text(*engine), [own_node(layer) for layer in network], halves=False)
    moves = {layer.name for layer in network if layer.type in MOVES}
    assert len(inspection.layers) == len(expected)
    for layer, names in zip(inspection.layers, expected, strict=True):
        assert set(names) - moves <= set(layer.nodes) <= set(names)


def own_node(layer: NetworkLayer) -> NetworkLayer:
    return NetworkLayer(layer.name, layer.type, layer.name, layer.inputs, layer.outputs, layer.floats)


@settings(deadline=None, max_examples=300)
@given(
    made_up(),
    st.lists(st.integers(0, 12), max_size=6),
    st.sampled_from(sorted(NAMINGS)),
    st.randoms(use_true_random=False),
)
def test_whatever_is_fused_is_found(
    network: list[NetworkLayer], cuts: list[int], naming: str, random: Any
) -> None:
    engine, expected = fused(network, cuts, NAMINGS[naming], lambda: random.random() < 0.3)
    check_claims(network, engine, expected)


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("toy_name", ["residual", "attention", "gemm", "depthwise", "conv1d"])
def test_whatever_is_fused_is_found_in_networks_of_tensorrts_parser(
    toy_name: str, naming: str, toy: Callable[[str], Path]
) -> None:
    pytest.importorskip("tensorrt_rtx")
    binding = bindings.load(bindings.RTX)
    log = open_log(binding)
    model = Model.open(toy(toy_name)).normalised
    parsed = parse(binding, open_builder(binding, log), model, log)
    network = networks.read(binding, parsed.network, model.graph)
    assert any(layer.node for layer in network)
    for seed in range(8):
        turns = itertools.cycle([seed & 1 > 0, seed & 2 > 0, False, seed & 4 > 0])
        renames = functools.partial(next, turns)
        engine, expected = fused(network, [seed, 2 * seed, 3 * seed], NAMINGS[naming], renames)
        check_claims(network, engine, expected)


# --- loading an engine: the binding needs a GPU for that ----------------------------------------------------


class Engine:
    """What `inspect` asks an engine. The inspector shows types of tensors with a dynamic shape only for a
    context whose shapes are set, as TensorRT's documentation says and `dynamic_int8` shows."""

    def __init__(self, shape: tuple[int, ...], context: bool = True) -> None:
        self.shape, self.context, self.set, self.num_io_tensors = shape, context, {}, 2

    def get_tensor_name(self, index: int) -> str:
        return ("x", "y")[index]

    def get_tensor_mode(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name="INPUT" if name == "x" else "OUTPUT")

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shape

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        assert (name, profile) == ("x", 0)  # it raises for outputs
        return [(1, 8), (4, 8), (16, 8)]

    def create_execution_context(self) -> Engine | None:
        return self if self.context else None

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.set[name] = shape
        return True

    def create_engine_inspector(self) -> SimpleNamespace:
        inspector = SimpleNamespace(execution_context=None)

        def information(form: str) -> str:
            assert form == "JSON"
            shown = -1 not in self.shape or (
                inspector.execution_context is self and self.set == {"x": (4, 8)}
            )
            kind = FP32 if shown else HIDDEN
            return text(built("relu", {"x": kind}, {"y": kind}))

        inspector.get_engine_information = information
        return inspector


def binding_of(engine: Engine | None) -> Any:
    """A binding whose runtime gives `engine`; None where it cannot load the plan, and logs the reason."""
    binding = ModuleType("tensorrt")

    class Logger:
        Severity = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2, INFO=3, VERBOSE=4)

        def __init__(self) -> None:
            pass

    class Runtime:
        def __init__(self, log: Any) -> None:
            self.log = log

        def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
            assert plan == b"plan"
            if engine is None or not engine.context:
                self.log.log(Logger.Severity.ERROR, "Error Code 6: out of luck")
            return engine

    binding.ILogger, binding.Runtime = Logger, Runtime  # type: ignore[attr-defined]
    binding.LayerInformationFormat = SimpleNamespace(JSON="JSON")  # type: ignore[attr-defined]
    return binding


@pytest.mark.parametrize("shape", [(4, 8), (-1, 8)])
def test_types_are_shown_whether_shapes_are_static_or_dynamic(shape: tuple[int, ...]) -> None:
    engine = Engine(shape)
    network = [own("relu", "x", "y", "ACTIVATION")]
    inspection = inspect(binding_of(engine), b"plan", network, halves=False)
    assert inspection.layers == (Layer("relu", "CaskConvolution", ("relu",), "fp32"),)
    assert engine.set == ({"x": (4, 8)} if -1 in shape else {})


@pytest.mark.parametrize("engine", [None, Engine((-1, 8), context=False)])
def test_an_engine_that_does_not_load(engine: Engine | None) -> None:
    with pytest.raises(
        MachineError, match=r"TensorRT does not .* the engine that it built.*: Error Code 6: out of luck"
    ):
        inspect(binding_of(engine), b"plan", [], halves=False)
