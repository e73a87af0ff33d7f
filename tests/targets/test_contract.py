"""What every target promises, on toy models: one suite, each target in turn."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from trtbuild.errors import BuildError, ExitCode, InputError, MachineError
from trtbuild.model.graph import QDQ, has_floats
from trtbuild.precision.map import NodePrecision, PrecisionMap
from trtbuild.recipe import InputSection
from trtbuild.rewrite.explicit import explicit
from trtbuild.targets.audit import LostPin, audit
from trtbuild.targets.base import Built, Request, Target
from trtbuild.targets.choose import NAMES, by_name, choose
from trtbuild.targets.session import infer, runner

EVERY_NODE = "re:.*"
CONFIGURATIONS = {
    "int8": ("int8",),
    "int8, all pinned": ("int8", EVERY_NODE),
    "int8, first pinned": ("int8", "first:1"),
    "int8, last in fp16": ("int8", "last:1=fp16"),
    "fp16": ("fp16",),
    "fp16, all pinned": ("fp16", EVERY_NODE),
    "fp16, one pinned": ("fp16", "last:1"),
    "bf16, all pinned": ("bf16", EVERY_NODE),
    "fp32": ("fp32",),
}
Requests = Callable[..., Request]


def build(target: Target, request: Request, folder: Path) -> Built:
    """Build into a folder of its own, which must then hold the artifact and nothing else."""
    folder.mkdir()
    built = target.build(request, folder / target.artifact)
    assert [path.name for path in folder.iterdir()] == [target.artifact]
    assert (folder / target.artifact).stat().st_size > 0
    return built


def found(built: Built) -> dict[str, set[str]]:
    """The real precisions of every node."""
    precisions: dict[str, set[str]] = {}
    for layer in built.layers:
        for node in layer.nodes:
            precisions.setdefault(node, set()).add(layer.precision)
    return precisions


def check(request: Request, built: Built) -> None:
    """The audit finds nothing, and the layers say of every node what was asked for it, no more, no less."""
    audited = audit(request.precisions, built.layers)
    assert audited.lost == ()
    assert audited.unlowered == ()
    assert audited.held == len(request.precisions.pinned)
    assert sum(audited.histogram.values()) == len(built.layers)
    real = found(built)
    for node in request.model.graph:
        if has_floats(node) and node.op_type not in {*QDQ, "Cast"}:
            assert request.precisions[str(node.name)] in real.get(str(node.name), ()), node.name
    assert {node for node in real if "int8" in real[node]} == {
        name for name, node in request.precisions.nodes.items() if node.precision == "int8"
    }


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_every_node_is_built_as_asked(
    target: Target, any_toy: str, configuration: str, request_of: Requests, tmp_path: Path
) -> None:
    request = request_of(any_toy, *CONFIGURATIONS[configuration])
    built = build(target, request, tmp_path / "build")
    assert built.facts.items() >= target.identity(request.recipe).items()
    json.dumps(built.facts)
    check(request, built)


@pytest.mark.parametrize("fallback", ["fp16", "bf16"])
def test_int8_with_a_half_as_fallback(
    target: Target, any_toy: str, fallback: str, request_of: Requests, tmp_path: Path
) -> None:
    request = request_of(any_toy, "int8", "first:1", fallback=fallback)
    check(request, build(target, request, tmp_path / "build"))


def test_all_four_precisions_in_one_model(target: Target, request_of: Requests, tmp_path: Path) -> None:
    pins = ("MatMul_q", "MatMul_k=fp16", "MatMul_v=bf16", "Softmax_p=fp16", "Transpose_kt=bf16")
    request = request_of("attention", "int8", *pins)
    built = build(target, request, tmp_path / "build")
    check(request, built)
    assert set(request.precisions.pinned) >= {"MatMul_q", "MatMul_k", "MatMul_v"}
    assert {node: real for node, real in found(built).items() if node in {p.split("=")[0] for p in pins}} == {
        "MatMul_q": {"fp32"},
        "MatMul_k": {"fp16"},
        "MatMul_v": {"bf16"},
        "Softmax_p": {"fp16"},
        "Transpose_kt": {"bf16"},
    }


def test_a_model_with_its_own_qdq(target: Target, request_of: Requests, tmp_path: Path) -> None:
    request = request_of("qat")
    assert request.model.quantized
    built = build(target, request, tmp_path / "build")
    assert found(built) == {"Transpose_wt": {"int8"}, "MatMul_a": {"int8"}, "Relu_y": {"fp32"}}
    assert audit(request.precisions, built.layers).unlowered == ()


def claiming(precisions: PrecisionMap, node: str, precision: str) -> PrecisionMap:
    """The map, with a pin that nobody built."""
    pin = NodePrecision("MatMul", precision, "claimed", lowered_by_default=True, pinned=True)  # type: ignore[arg-type]
    return replace(precisions, nodes={**precisions.nodes, node: pin})


@pytest.mark.parametrize("toy_name", ["residual", "attention", "gemm", "conv-transpose", "conv1d", "dynamic"])
@pytest.mark.parametrize(("default", "claimed"), [("int8", "fp32"), ("int8", "fp16"), ("fp16", "fp32")])
def test_a_pin_that_was_not_built_is_lost(
    target: Target, toy_name: str, default: str, claimed: str, request_of: Requests, tmp_path: Path
) -> None:
    request = request_of(toy_name, default)
    lowered = [n for n, node in request.precisions.nodes.items() if node.precision == default]
    built = build(target, request, tmp_path / "build")
    assert lowered
    for node in lowered:
        audited = audit(claiming(request.precisions, node, claimed), built.layers)
        assert [(pin.node, pin.wanted) for pin in audited.lost] == [(node, claimed)]
        assert default in audited.lost[0].found
        assert audited.held == 0


def test_a_pin_on_a_node_that_is_not_there_is_lost(
    target: Target, request_of: Requests, tmp_path: Path
) -> None:
    request = request_of("gemm")
    built = build(target, request, tmp_path / "build")
    audited = audit(claiming(request.precisions, "Gemm_gone", "fp32"), built.layers)
    assert audited.lost == (LostPin("Gemm_gone", "fp32", "in no layer"),)


def test_a_node_that_was_not_lowered_is_named(target: Target, request_of: Requests, tmp_path: Path) -> None:
    pinned = build(target, request_of("gemm", "int8", "Gemm_b"), tmp_path / "build")
    audited = audit(request_of("gemm").precisions, pinned.layers)
    assert audited.unlowered == ("Gemm_b",)
    assert audited.lost == ()


def test_building_twice_gives_the_same_layers(
    target: Target, any_toy: str, request_of: Requests, tmp_path: Path
) -> None:
    requests = [request_of(any_toy, "int8", "first:1", fallback="fp16") for _ in range(2)]
    one, other = (build(target, r, tmp_path / f"{i}") for i, r in enumerate(requests))
    assert one == other
    if target.name == "onnxruntime":
        one_file, other_file = (tmp_path / f"{i}" / target.artifact for i in range(2))
        assert one_file.read_bytes() == other_file.read_bytes()


def test_what_is_built_is_the_explicit_model(request_of: Requests, tmp_path: Path) -> None:
    """The very file that target onnxruntime writes is one that the checker and ONNX Runtime accept."""
    build(by_name("onnxruntime"), request_of("residual"), tmp_path / "build")
    model = onnx.load(tmp_path / "build" / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("QuantizeLinear") == kinds.count("DequantizeLinear") == 5  # two Convs, one skip


@pytest.mark.parametrize(
    "configuration", ["int8", "int8, first pinned", "int8, last in fp16", "fp16", "fp16, one pinned"]
)
def test_the_candidate_gives_the_numbers_of_the_simulation(
    target: Target, any_toy: str, configuration: str, request_of: Requests, tmp_path: Path, feeds: Callable
) -> None:
    request = request_of(any_toy, *CONFIGURATIONS[configuration], fallback="fp16")
    build(target, request, tmp_path / "build")
    candidate = target.candidate(request, tmp_path / "build" / target.artifact)
    assert (candidate.caveat is None) == (target.name == "onnxruntime")
    assert candidate.outputs == ("y",)
    expected = explicit(request.model, request.precisions, request.table, "simulated")
    for seed in range(2):
        fed = feeds(request.model, seed)
        with candidate.shipped(("y",)) as one, runner(expected, "simulation") as other:
            outputs, wanted = infer(one, fed, "a sample"), infer(other, fed, "a sample")
        assert outputs.keys() == wanted.keys() == {"y"}
        assert np.isfinite(outputs["y"]).all()
        np.testing.assert_array_equal(outputs["y"], wanted["y"])


def test_low_precision_shows_in_the_candidate(
    target: Target, request_of: Requests, tmp_path: Path, feeds: Callable
) -> None:
    """The stand-in is not the float model in disguise: int8 differs more than fp16, all pinned not at all."""
    errors = {}
    for name in ("int8", "fp16", "int8, all pinned"):
        request = request_of("residual", *CONFIGURATIONS[name])
        build(target, request, tmp_path / name)
        candidate = target.candidate(request, tmp_path / name / target.artifact)
        fed = feeds(request.model)
        with candidate.shipped(("y",)) as one, target.golden(request, None).shipped(("y",)) as other:
            outputs, wanted = infer(one, fed, "a sample"), infer(other, fed, "a sample")
        errors[name] = float(np.abs(outputs["y"] - wanted["y"]).max())
    assert errors["int8, all pinned"] == 0 < errors["fp16"] < errors["int8"]


@pytest.mark.parametrize(
    ("operator", "domains"), [("EfficientNMS_TRT", ""), ("my.ops.Sparkle", ', "my.ops": 1')]
)
def test_tensorrt_rtx_names_the_operator_that_it_lacks(
    rtx: Target, operator: str, domains: str, toy: Callable, request_of: Requests, tmp_path: Path
) -> None:
    fields = {"inputs": "float[2,8] x", "outputs": "float[a,b] y", "weights": {"w": (8, 8)}}
    path = toy(body=f"a = MatMul(x, w) y = {operator}(a)", domains=domains, **fields)
    with pytest.raises(BuildError) as refused:
        rtx.build(request_of(path), tmp_path / rtx.artifact)
    name = operator.rpartition(".")[2]
    assert f"node '{name}_y' ({name})" in str(refused.value)
    assert not (tmp_path / rtx.artifact).exists()
    assert refused.value.exit_code == ExitCode.INPUT


def test_onnxruntime_names_the_node_that_it_refuses(
    toy: Callable, request_of: Requests, tmp_path: Path
) -> None:
    path = toy(
        body="i = Cast<to = 7>(x) a = Relu(x) y = Add(a, i)", inputs="float[2,8] x", outputs="float[a,b] y"
    )
    with pytest.raises(BuildError, match=r"ONNX Runtime refuses the model: .*Add_y") as refused:
        by_name("onnxruntime").build(request_of(path), tmp_path / "model.onnx")
    assert "\n" not in str(refused.value)


def test_onnxruntime_builds_only_what_the_checker_accepts(
    toy: Callable, request_of: Requests, tmp_path: Path
) -> None:
    path = toy(body="y = Relu<sparkle = 1>(x)", inputs="float[2,8] x", outputs="float[a,b] y")
    with pytest.raises(BuildError, match=r"does not pass ONNX's checker: .*sparkle") as refused:
        by_name("onnxruntime").build(request_of(path), tmp_path / "model.onnx")
    assert "\n" not in str(refused.value)


def test_an_unknown_compute_capability_lists_what_there_is(
    rtx: Target, request_of: Requests, tmp_path: Path
) -> None:
    for wrong in ("9.99", "89", "sm_89", ""):
        with pytest.raises(
            InputError, match=r"no compute capability '.*'; it has .*8\.6, 8\.9, 12\.0"
        ) as error:
            rtx.build(request_of("gemm", capabilities=("8.9", wrong)), tmp_path / rtx.artifact)
        assert repr(wrong) in str(error.value)
    assert list(tmp_path.glob("*.plan")) == []


def test_tensorrt_rtx_builds_for_several_compute_capabilities(
    rtx: Target, request_of: Requests, tmp_path: Path
) -> None:
    request = request_of("gemm", capabilities=("8.6", "8.9", "12.0"))
    built = build(rtx, request, tmp_path / "build")
    assert built.facts["compute_capabilities"] == ["8.6", "8.9", "12.0"]
    assert rtx.identity(request.recipe) != rtx.identity(request_of("gemm").recipe)


def test_a_dynamic_input_needs_a_profile(rtx: Target, request_of: Requests, tmp_path: Path) -> None:
    request = request_of("dynamic", profiles={})
    with pytest.raises(InputError, match=r"input 'x' has dynamic axes \(-1, 3, -1, 8\); give \[inputs.x\]"):
        rtx.build(request, tmp_path / rtx.artifact)
    build(by_name("onnxruntime"), request, tmp_path / "build")  # it takes any shape as it comes


def test_axes_called_unknown_may_differ_in_length(
    target: Target, toy: Callable, request_of: Requests, tmp_path: Path
) -> None:
    """PaddlePaddle's exporter calls height and width "?"; to TensorRT one name is one length."""
    path = toy(body="y = Conv(x, w)", inputs="float[n,3,h,w] x", weights={"w": (4, 3, 3, 3)})
    model = onnx.load(path)
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = "?"
    onnx.save(model, path)
    profile = InputSection(min=(1, 3, 8, 16), opt=(2, 3, 8, 32), max=(4, 3, 8, 64))
    request = request_of(path, profiles={"x": profile})
    before = str(request.model.graph.inputs)
    check(request, build(target, request, tmp_path / "build"))
    assert str(request.model.graph.inputs) == before


def test_targets_by_name() -> None:
    assert choose("auto").name == "onnxruntime"
    assert by_name("tensorrt-rtx").name == "tensorrt-rtx"
    with pytest.raises(InputError, match=r"unknown target 'onnx'; there are .*onnxruntime"):
        choose("onnx")
    with pytest.raises(
        MachineError, match=r"needs the package tensorrt .*pip install 'trtbuild\[tensorrt\]'"
    ):
        choose("tensorrt")
    assert set(NAMES) == {"auto", "tensorrt", "tensorrt-rtx", "onnxruntime"}


MISSING = {
    "not installed": "raise ModuleNotFoundError(\"No module named 'tensorrt_rtx'\", name='tensorrt_rtx')",
    "a library of it does not load": "import ctypes; ctypes.CDLL('libtensorrt_rtx_that_is_not_there.so')",
}


@pytest.mark.parametrize("missing", MISSING)
def test_without_its_package_tensorrt_rtx_says_how_to_install_it(
    missing: str, request_of: Requests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt_rtx").mkdir()
    (tmp_path / "tensorrt_rtx" / "__init__.py").write_text(MISSING[missing])
    monkeypatch.delitem(sys.modules, "tensorrt_rtx", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    request = request_of("gemm")
    target = by_name("tensorrt-rtx")
    (tmp_path / "build").mkdir()
    attempts: list[Callable[[], object]] = [
        lambda: choose("tensorrt-rtx"),
        target.require,
        lambda: target.identity(request.recipe),
        lambda: target.build(request, tmp_path / "build" / target.artifact),
    ]
    for attempt in attempts:
        with pytest.raises(MachineError, match=r"tensorrt_rtx.*; pip install 'trtbuild\[rtx\]'") as error:
            attempt()
        assert error.value.exit_code == ExitCode.MACHINE == 3
    assert list((tmp_path / "build").iterdir()) == []


def test_a_missing_range_is_named(target: Target, request_of: Requests, tmp_path: Path) -> None:
    request = request_of("gemm")
    assert request.table is not None
    ranges = {name: value for name, value in request.table.ranges.items() if name != "r"}
    with pytest.raises(InputError, match="no calibrated range for tensor 'r'"):
        target.build(
            replace(request, table=replace(request.table, ranges=ranges)), tmp_path / target.artifact
        )
    assert not (tmp_path / target.artifact).exists()


def test_building_leaves_the_model_as_it_was(
    target: Target, any_toy: str, request_of: Requests, tmp_path: Path
) -> None:
    request = request_of(any_toy, "int8", "first:1", fallback="fp16")
    before = ir.to_proto(request.model.normalised).SerializeToString()
    build(target, request, tmp_path / "build")
    target.candidate(request, tmp_path / "build" / target.artifact)
    assert ir.to_proto(request.model.normalised).SerializeToString() == before
