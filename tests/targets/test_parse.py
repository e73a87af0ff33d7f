"""Models through TensorRT-RTX's real parser; older parsers by what they lack: one error, and no names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from trtbuild.errors import BuildError
from trtbuild.model import files
from trtbuild.model.model import Model
from trtbuild.targets.trt import network as networks
from trtbuild.targets.trt import parse as parsing
from trtbuild.targets.trt.compile import open_builder
from trtbuild.targets.trt.log import open_log
from trtbuild.targets.trt.parse import Parsed, parse

trt: Any = pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX: pip install 'trtbuild[rtx]'")

NO_IMPORTER = "TensorRT has no importer for it, and no plugin of its name"
SQUARE = {"inputs": "float[4,4] x", "outputs": "float[a,b] y"}


def parsed(model: ir.Model, binding: Any = trt, **options: bool) -> Parsed:
    log = open_log(trt)
    return parse(binding, open_builder(trt, log), model, log, **options)


@pytest.fixture
def refusal(toy: Callable[..., Path]) -> Callable[..., str]:
    """What is said of a model that the parser refuses; the model is then as it was."""

    def said(body: str, binding: Any = trt, **fields: Any) -> str:
        model = Model.open(toy(body=body, **{**SQUARE, **fields})).normalised
        before = ir.to_proto(model).SerializeToString()
        with pytest.raises(BuildError) as refused:
            parsed(model, binding)
        assert ir.to_proto(model).SerializeToString() == before
        assert "\n" not in str(refused.value)
        return str(refused.value)

    return said


class OldCode:
    """An ErrorCode as TensorRT 8.5 has it: its `name` is a method, against the manners of enumerations."""

    def __init__(self, code: Any) -> None:
        self._text = f"ErrorCode.{code.name}"

    def name(self) -> str:
        return self._text

    __str__ = name


class OldError:
    """An error as TensorRT 8.5 has it: the index of the node, not its name."""

    def __init__(self, error: Any) -> None:
        self.node, self.desc, self.file = error.node, error.desc, error.file
        self._code = OldCode(error.code())

    def code(self) -> OldCode:
        return self._code


class OldParser:
    """A parser that stops at the first node that it cannot take."""

    def __init__(self, network: Any, log: Any) -> None:
        self._parser = trt.OnnxParser(network, log)
        self.parse_from_file = self._parser.parse_from_file
        self.supports_operator = self._parser.supports_operator

    @property
    def num_errors(self) -> int:
        return min(1, int(self._parser.num_errors))

    def get_error(self, index: int) -> OldError:
        return OldError(self._parser.get_error(index))


OLD = SimpleNamespace(
    OnnxParser=OldParser,
    NetworkDefinitionCreationFlag=trt.NetworkDefinitionCreationFlag,
    get_plugin_registry=lambda: SimpleNamespace(plugin_creator_list=[SimpleNamespace(name="Plugged")]),
)
any_parser = pytest.mark.parametrize("binding", [trt, OLD], ids=["rtx", "one error at a time"])


def test_nodes_with_the_same_reason_are_named_together(refusal: Callable[..., str]) -> None:
    assert refusal("a = Foo(x) b = Bar(a) c = Foo(b) d = Relu(c) y = Foo(d)") == (
        f"TensorRT's parser refuses 3 nodes of type Foo ('Foo_a', 'Foo_c', 'Foo_y'): {NO_IMPORTER}; "
        f"node 'Bar_b' (Bar): {NO_IMPORTER}"
    )


@any_parser
def test_every_branch_is_tried(refusal: Callable[..., str], binding: Any) -> None:
    """Two nodes without an importer, and in a third branch one that the parser tries and fails at."""
    said = refusal(
        "a = Foo(x) b = Bar(x) c = Relu(x) d = MatMul(c, w) e = Add(a, b) y = Add(d, e)",
        binding,
        weights={"w": (3, 4)},
    )
    assert said.count("node '") == 3
    assert f"node 'Foo_a' (Foo): {NO_IMPORTER}; " in said
    assert f"node 'Bar_b' (Bar): {NO_IMPORTER}" in said
    assert "; without these, also " in said
    assert "node 'MatMul_d' (MatMul): MatMul_d: last dimension of input0 = 4 and second to last" in said
    assert "Error Code" not in said


@any_parser
def test_what_follows_a_refused_node_is_tried_by_itself(refusal: Callable[..., str], binding: Any) -> None:
    """Det's output is a float tensor of known shape; nothing tells the shape that Foo's has."""
    said = refusal(
        "a = Det(x) b = Relu(a) c = Unsqueeze(b, axis) d = MatMul(c, w) e = Foo(d) y = Tanh(e)",
        binding,
        inputs="float[4,3,3] x",
        weights={"w": (3, 4), "axis": np.asarray([0])},
    )
    for named in (
        "'Det_a' (Det): unsupported node",
        "'MatMul_d' (MatMul): ",
        f"'Foo_e' (Foo): {NO_IMPORTER}",
    ):
        assert f"node {named}" in said
    assert said.count("node '") == 3


def test_a_plugin_needs_no_importer(refusal: Callable[..., str]) -> None:
    """Nodes that cannot be tried, because nothing tells the shape that they read: only names are known."""
    said = refusal("a = Foo(x) b = Plugged(a) c = Det(b) d = Bar(c) y = Relu(d)", OLD)
    assert said == (
        f"TensorRT's parser refuses node 'Foo_a' (Foo): {NO_IMPORTER}; without these, also "
        f"node 'Det_c' (Det): {NO_IMPORTER}; node 'Bar_d' (Bar): {NO_IMPORTER}"
    )


def test_behind_integers_nothing_can_be_told(refusal: Callable[..., str]) -> None:
    """They may be a shape that must be constant: what reads them is not accused."""
    said = refusal(
        'a = BitShift<direction = "LEFT">(k, k) b = Cast<to = 7>(a) y = Reshape(x, b)',
        inputs="float[4,4] x, uint8[2] k",
    )
    assert said.count("node '") == 1
    assert "node 'BitShift_a' (BitShift)" in said


def test_behind_a_tensor_of_unknown_rank_only_importers_can_be_told(refusal: Callable[..., str]) -> None:
    """The Reshape's shape is fed. The other branch is tried all the same."""
    said = refusal(
        "k = Cast<to = 7>(s) r = Reshape(x, k) a = Det(r) m = MatMul(x, w) y = Add(a, m)",
        inputs="float[4,4] x, float[rank] s",
        weights={"w": (3, 4)},
    )
    assert said.count("node '") == 3
    assert said.startswith("TensorRT's parser refuses node 'Reshape_r' (Reshape): ")
    assert f"; without these, also node 'Det_a' (Det): {NO_IMPORTER}; node 'MatMul_m' (MatMul): " in said


def test_a_node_in_a_body_is_named(refusal: Callable[..., str]) -> None:
    said = refusal(
        "m = ReduceMean<keepdims = 0>(x) p = Greater(m, zero) r = Relu(x) y = If(p) <"
        "then_branch = yes () => (float[4,4] s) { s = Foo(r) },"
        "else_branch = no () => (float[4,4] t) { t = Neg(r) }>",
        weights={"zero": np.asarray(0, np.float32)},
    )
    assert said == f"TensorRT's parser refuses node 'Foo_s' (Foo): {NO_IMPORTER}"


def test_an_input_of_a_type_that_tensorrt_lacks_is_named(refusal: Callable[..., str]) -> None:
    said = refusal("c = Cast<to = 1>(k) y = Add(x, c)", inputs="float[4,4] x, uint32[4,4] k")
    assert said.startswith("TensorRT's parser refuses the model: input 'k': ")


def test_nodes_without_a_name_are_called_by_their_output(toy: Callable[..., Path]) -> None:
    model = files.read(toy(body="a = Foo(x) y = Foo(a)", **SQUARE))
    assert not any(node.name for node in model.graph)
    with pytest.raises(BuildError, match=r"2 nodes of type Foo \('Foo_a', 'Foo_y'\)"):
        parsed(model)


def test_a_parser_that_gives_no_error_leaves_it_to_the_log(toy: Callable[..., Path]) -> None:
    """As TensorRT's do where the file itself cannot be read."""

    class Silent(OldParser):
        num_errors = 0

    model = Model.open(toy(body="y = Foo(x)", **SQUARE)).normalised
    with pytest.raises(BuildError, match=r"refuses the model: .*While parsing node number 0"):
        parsed(model, SimpleNamespace(**{**vars(OLD), "OnnxParser": Silent}))


def test_a_file_that_cannot_be_parsed_is_said_of_the_model(
    toy: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parsing.files, "save", lambda model, path: path.write_bytes(b"no model"))
    with pytest.raises(BuildError, match=r"refuses the model: .*Failed to parse the ONNX model"):
        parsed(Model.open(toy("gemm")).normalised)


def test_weights_in_a_file_beside_the_model(
    toy: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As above 2 GB. The files are gone when the network is used; its weights are not."""
    model = Model.open(toy("attention")).normalised
    written: list[Path] = []
    save = files.save

    def saved(what: ir.Model, path: Path) -> None:
        save(what, path)
        written.extend(path.parent.iterdir())

    monkeypatch.setattr(files, "PROTOBUF_LIMIT", 100)
    monkeypatch.setattr(parsing.files, "save", saved)
    result = parsed(model, typed=True)
    assert sorted(path.name for path in written) == ["model.onnx", "model.onnx.data"]
    assert not any(path.exists() or path.parent.exists() for path in written)
    found = {}
    for layer in networks.layers(result.network):
        if layer.type == trt.LayerType.CONSTANT:
            layer.__class__ = trt.IConstantLayer
            found[layer.name] = np.array(layer.weights)
    for name in ("wq", "wk", "wv", "wo"):
        expected = model.graph.initializers[name].const_value.numpy()
        np.testing.assert_array_equal(found[name].reshape(expected.shape), expected)


def test_the_network_lives_as_long_as_what_parse_returns(toy: Callable[..., Path]) -> None:
    """Builder and logger are no longer held by anyone else."""
    result = parsed(Model.open(toy("gemm")).normalised, typed=True)
    assert result.network.num_layers > 3
    assert result.network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


@pytest.mark.parametrize(
    ("members", "typed", "bits"),
    [
        ({"EXPLICIT_BATCH": 0, "EXPLICIT_PRECISION": 1}, False, 0b1),
        ({"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}, False, 0b1),
        ({"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}, True, 0b11),
        ({"STRONGLY_TYPED": 0}, True, 0b1),
        ({"PREFER_JIT_PYTHON_PLUGINS": 0}, True, 0),
    ],
    ids=["8.5", "10 weak", "10 strong", "rtx", "strong only"],
)
def test_the_flags_of_a_network_go_by_their_names(members: dict[str, int], typed: bool, bits: int) -> None:
    binding: Any = SimpleNamespace(NetworkDefinitionCreationFlag=SimpleNamespace(**members))
    assert parsing._flags(binding, typed) == bits


def test_a_network_is_strongly_typed_only_where_asked(
    toy: Callable[..., Path], tensorrt: Callable[..., Any]
) -> None:
    """TensorRT 10 can do both."""
    binding = tensorrt("10.9.0.34")
    model = Model.open(toy("gemm")).normalised
    log = open_log(binding)
    for typed in (True, False):
        found = parse(binding, open_builder(binding, log), model, log, typed=typed)
        assert found.network._strongly_typed() is typed  # type: ignore[attr-defined]


def test_axes_of_unknown_length_have_no_name(toy: Callable[..., Path]) -> None:
    """Axes of one name are axes of one length, and some exporters call all of them "?"."""
    path = toy(body="y = Tanh(x)", inputs="float[n,h,w] x", outputs="float[a,b,c] y")
    file = onnx.load(path)
    for axis in (1, 2):
        file.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = "?"
    onnx.save(file, path)
    model = Model.open(path).normalised
    tensor = parsed(model).network.get_input(0)
    assert [tensor.get_dimension_name(axis) or "" for axis in range(3)] == ["n", "", ""]
    assert [str(length) for length in model.graph.inputs[0].shape or ()] == ["n", "?", "?"]


@pytest.mark.parametrize("native", [True, False])
def test_instance_normalization_is_native_where_asked(toy: Callable[..., Path], native: bool) -> None:
    """TensorRT 8.6 must be told; a parser without flags (8.5) is left alone."""
    seen: list[object] = []

    class Parser(OldParser):
        def set_flag(self, flag: object) -> None:
            seen.append(flag)

    flags = SimpleNamespace(NATIVE_INSTANCENORM="native")
    binding = SimpleNamespace(**{**vars(OLD), "OnnxParser": Parser, "OnnxParserFlag": flags})
    model = Model.open(toy("gemm")).normalised
    parsed(model, binding, native_norm=native)
    assert seen == (["native"] if native else [])
    parsed(model, OLD, native_norm=native)
