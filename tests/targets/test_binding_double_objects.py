"""The objects of the double: enumerations, layers, tensors, profiles, configurations, caches, plans."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

from tests.targets.binding_double import make
from tests.targets.binding_double.native import Crash
from tests.targets.binding_double.session import VERSIONS, all_layers, build, layer_named, log_of, open_double

pytest.importorskip("tensorrt_rtx", reason="the double parses with tensorrt_rtx: pip install 'trtbuild[rtx]'")
Open = Callable[..., SimpleNamespace]


@pytest.fixture
def opened(toy: Callable[..., Path]) -> Open:
    """Parse a toy, by its name or its path."""
    return lambda model="residual", *options, **more: open_double(
        toy(model) if isinstance(model, str) else model, *options, **more
    )


def test_enumerations_are_no_integers() -> None:
    trt: Any = make()
    half = trt.DataType.HALF
    assert (half.name, half.value, int(half), str(half)) == ("HALF", 1, 1, "DataType.HALF")
    assert half == trt.DataType(1) == trt.float16
    assert half != 1
    assert half != trt.BuilderFlag.INT8  # of the same number
    assert {half: "h"}[trt.DataType.HALF] == "h"
    assert half in {trt.DataType.FLOAT, trt.DataType.HALF}
    assert [callable(made.ErrorCode.INVALID_NODE.name) for made in (trt, make("10.3.0"))] == [True, False]
    for wrong in (lambda: 1 << half, lambda: list(trt.DataType), lambda: trt.DataType["HALF"]):
        with pytest.raises(TypeError):
            wrong()
    assert 1 << int(half) == 2


def test_bases_must_be_initialised_and_objects_are_not_constructed() -> None:
    trt: Any = make()
    forgetful = {"__init__": lambda self: None}
    for base in ("ILogger", "IInt8EntropyCalibrator2", "IInt8MinMaxCalibrator"):
        with pytest.raises(TypeError, match=rf"{base}.__init__\(\) must be called when overriding __init__"):
            type("Own", (getattr(trt, base),), forgetful)()
    with pytest.raises(TypeError, match="ILayer: No constructor defined"):
        trt.ILayer()


def test_a_logger_is_called_from_other_threads_and_cannot_stop_a_build(
    opened: Open, capsys: pytest.CaptureFixture
) -> None:
    o = opened(fails="out of memory")
    assert build(o) is None
    assert ("ERROR", "out of memory") in o.log.said
    assert threading.get_ident() not in o.log.threads
    o.log.log = lambda severity, message: 1 / 0
    assert build(o) is None
    assert "[ERROR] Exception caught in log(): ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize(("version", "parsed"), [("8.5.1.7", False), ("8.6.1", False), ("10.3.0", True)])
def test_older_networks_must_be_told_that_batches_are_explicit(
    version: str, parsed: bool, toy: Callable[..., Path]
) -> None:
    trt: Any = make(version)
    log = log_of(trt)
    parser = trt.OnnxParser(trt.Builder(log).create_network(), log)
    assert parser.parse_from_file(str(toy("gemm"))) is parsed
    assert [str(parser.get_error(index).code()) for index in range(parser.num_errors)] == [
        "ErrorCode.INVALID_VALUE"
    ] * (not parsed)


def test_a_model_that_the_parser_refuses(opened: Open, tmp_path: Path) -> None:
    absent = opened(tmp_path / "absent.onnx")
    assert (absent.parsed, absent.log.has("absent.onnx")) == (False, True)
    old, new = opened("embedding", "8.5.1.7"), opened("embedding", "8.6.1")
    assert (old.parsed, new.parsed) == (False, True)
    error = old.parser.get_error(0)
    assert "Plugin not found" in error.desc()
    assert onnx.load(old.path).graph.node[error.node()].op_type == "LayerNormalization"
    assert not hasattr(error, "node_name")
    assert not old.parser.supports_operator("LayerNormalization")


@pytest.mark.parametrize("version", VERSIONS)
def test_layers_and_tensors(version: str, opened: Open) -> None:
    o = opened("gemm", version)
    first, product = o.network.get_layer(0), o.network.get_layer(1)
    assert o.network.get_layer(0) is first
    assert (first.type, product.type) == (o.trt.LayerType.CONSTANT, o.trt.LayerType.MATRIX_MULTIPLY)
    assert product.get_input(1) is first.get_output(0)
    assert product.get_input(0).is_network_input
    assert not hasattr(first, "weights")
    first.__class__ = o.trt.IConstantLayer  # the network hands out ILayer only
    assert first.weights.reshape(first.shape[:]).shape == (8, 6)
    assert o.network.get_layer(0) is first
    assert o.network.get_layer(99) is None
    assert hasattr(product, "metadata") == (version != "8.5.1.7")
    with pytest.raises(AttributeError):
        product.presicion = o.trt.float32


def test_names_of_older_parsers(opened: Open) -> None:
    def shown(version: str) -> list[tuple[str, str, str]]:
        found = all_layers(opened("gemm", version).network)
        return [
            (layer.name, layer.get_output(0).name, getattr(layer, "metadata", "-")) for layer in found[1:5]
        ]

    sum_of = "(Unnamed Layer* 4) [ElementWise]"
    assert shown("8.5.1.7") == [
        ("node_of_a", "(Unnamed Layer* 1) [Matrix Multiply]_output", "-"),
        ("b1", "(Unnamed Layer* 2) [Constant]_output", "-"),
        ("(Unnamed Layer* 3) [Shuffle]", "(Unnamed Layer* 3) [Shuffle]_output", "-"),
        (sum_of, "a", "-"),
    ]
    assert shown("10.3.0") == [
        ("node_of_a", "node_of_a_output", "[ONNX Layer: node_of_a]"),
        ("b1", "b1_output", ""),
        ("ONNXTRT_Broadcast", "ONNXTRT_Broadcast_output", ""),
        (sum_of, "a", ""),
    ]
    assert shown("11.0.0")[-1] == ("node_of_a_0", "a", "[ONNX Layer: node_of_a]")


def test_older_versions_have_no_64_bit_integers_and_fewer_kinds_of_layers(opened: Open) -> None:
    def seen(version: str) -> tuple[set[str], set[str]]:
        found = [layer for toy in ("dynamic", "conv1d") for layer in all_layers(opened(toy, version).network)]
        return {layer.type.name for layer in found}, {layer.get_output(0).dtype.name for layer in found}

    types, dtypes = seen("8.5.1.7")
    assert (types & {"CAST", "SQUEEZE", "UNSQUEEZE"}, dtypes) == (set(), {"FLOAT", "INT32"})
    types, dtypes = seen("10.13.0")
    assert {"CAST", "SQUEEZE", "UNSQUEEZE"} <= types
    assert dtypes == {"FLOAT", "INT32", "INT64"}


def test_marking_outputs(opened: Open) -> None:
    o = opened()
    y, c1 = o.network.get_output(0), layer_named(o, "node_of_c1").get_output(0)
    for tensor, text in (
        (y, "already set as network-level output"),
        (o.network.get_input(0), "network-level input"),
    ):
        o.network.mark_output(tensor)
        assert o.network.num_outputs == 1
        assert o.log.has(text)
    o.network.mark_output(c1)
    assert (o.network.num_outputs, c1.is_network_output) == (2, True)
    o.network.unmark_output(c1)
    assert o.network.num_outputs == 1
    with pytest.raises(TypeError, match="incompatible function arguments"):
        o.network.mark_output("c1")


def test_dynamic_ranges(opened: Open) -> None:
    tensor = opened().network.get_input(0)
    assert tensor.dynamic_range is None
    assert tensor.set_dynamic_range(-1, 2.5)
    assert tensor.dynamic_range == (-1.0, 2.5)
    assert not tensor.set_dynamic_range(1, -1)
    assert not tensor.set_dynamic_range(0, float("nan"))
    tensor.reset_dynamic_range()
    assert tensor.dynamic_range is None


@pytest.mark.parametrize(
    ("version", "shapes", "wrong"),
    [
        ("8.5.1.7", ((1, 2), (1, 2, 3), (1, 2)), "opt"),
        ("8.6.1", ((1, 2), (3, 2), (2, 2)), "max"),
        ("8.5.1.7", ((1, -2), (3, 2), (3, 2)), "min"),
        ("10.3.0", ((1, 2), (3, 2), (3, -2)), "max"),
        ("10.3.0", ((1, 2), (3, 2), (2, 2)), None),  # taken here, and refused by the configuration
    ],
)
def test_profiles(version: str, shapes: Any, wrong: str | None, opened: Open) -> None:
    o = opened("gemm", version)
    profile = o.builder.create_optimization_profile()
    if wrong is None:
        profile.set_shape("x", *shapes)
        assert (bool(profile), o.config.add_optimization_profile(profile)) == (False, -1)
        assert not o.config.set_calibration_profile(profile)
    else:
        with pytest.raises(RuntimeError, match=f"Shape provided for {wrong} is inconsistent"):
            profile.set_shape("x", *shapes)
    assert o.builder.create_optimization_profile().get_shape("x") == []


def test_a_profile_is_held_against_the_network_when_it_is_built(opened: Open) -> None:
    o = opened("gemm")
    profile = o.builder.create_optimization_profile()
    profile.set_shape("x", (2, 9), (2, 9), (2, 9))
    assert o.config.add_optimization_profile(profile) == 0
    assert build(o) is None
    assert o.log.has("x: profile (2, 9) does not match network definition (2, 8)")
    dynamic = opened("dynamic")
    assert build(dynamic) is not None
    dynamic.config = dynamic.builder.create_builder_config()
    assert build(dynamic) is None
    assert dynamic.log.has("no optimization profile has been defined")


def test_flags_and_pools(opened: Open) -> None:
    o = opened()
    flags = o.trt.BuilderFlag
    assert o.config.get_flag(flags.TF32)
    o.config.clear_flag(flags.TF32)
    assert o.config.flags == 0
    o.config.set_flag(flags.OBEY_PRECISION_CONSTRAINTS)
    o.config.set_flag(flags.PREFER_PRECISION_CONSTRAINTS)
    assert not o.config.get_flag(flags.PREFER_PRECISION_CONSTRAINTS)
    assert o.log.has("kPREFER_PRECISION_CONSTRAINTS cannot be set if kOBEY_PRECISION_CONSTRAINTS is set")
    with pytest.raises(TypeError):
        o.config.set_flag(0)
    workspace = o.trt.MemoryPoolType.WORKSPACE
    o.config.set_memory_pool_limit(workspace, 1 << 20)
    assert o.config.get_memory_pool_limit(workspace) == 1 << 20
    for wrong in (-1, 1.5):
        with pytest.raises(TypeError):
            o.config.set_memory_pool_limit(workspace, wrong)
    with pytest.raises(AttributeError):
        o.config.builder_optimization_level = 5


def test_tactic_sources_and_dla(opened: Open) -> None:
    old, new = opened(dla_cores=1), opened(version="10.3.0")
    assert (old.config.get_tactic_sources(), new.config.get_tactic_sources()) == (0b11111, 0b11000)
    assert old.config.set_tactic_sources(0)
    assert old.config.get_tactic_sources() == 0
    assert not old.config.set_tactic_sources(1 << 30)
    assert old.config.get_tactic_sources() == 0
    assert (old.builder.num_DLA_cores, old.config.DLA_core) == (1, -1)
    for core in (0, 1):
        old.config.DLA_core = core
    assert old.config.DLA_core == 0
    assert old.log.has("no DLA core 1")


def test_timing_caches(opened: Open) -> None:
    o = opened()
    assert o.config.get_timing_cache() is None
    assert o.config.set_timing_cache(o.config.create_timing_cache(b""), False)
    assert build(o) is not None
    stored = bytes(o.config.get_timing_cache().serialize())

    def accepts(data: bytes, ignore: bool = False, **options: Any) -> bool:
        other = opened(**options)
        return bool(other.config.set_timing_cache(other.config.create_timing_cache(data), ignore))

    assert accepts(stored)
    assert not accepts(stored, version="8.6.1", ignore=True)
    assert not accepts(b"garbage", ignore=True)
    assert not accepts(stored, gpu="NVIDIA H200")
    assert accepts(stored, gpu="NVIDIA H200", ignore=True)
    mine, theirs, empty = o.config.get_timing_cache(), o.config.create_timing_cache(b"garbage"), b""
    with pytest.raises(Crash):
        mine.combine(theirs, False)
    fresh = o.config.create_timing_cache(empty)
    assert fresh.combine(mine, False)
    assert bytes(fresh.serialize()) == stored
    with pytest.raises(TypeError):
        o.config.set_timing_cache(None, False)


def test_plans_of_others_are_not_loaded(opened: Open) -> None:
    plan = build(opened())
    for data, options, reason in (
        (b"garbage", {}, "Magic tag does not match"),
        (bytes(plan)[:60], {}, "Serialization"),
        (plan, {"version": "8.6.1"}, "expecting library version 8.6.1 got 8.5.1.7"),
        (plan, {"compute": "9.0"}, "expecting compute 9.0 got compute 8.9"),
    ):
        o = opened(**options)
        assert o.trt.Runtime(o.log).deserialize_cuda_engine(data) is None
        assert o.log.has(reason)
    o = opened(gpu="NVIDIA L4")  # of the same kind: a warning
    engine = o.trt.Runtime(o.log).deserialize_cuda_engine(plan)
    assert o.log.has("different models of devices", "WARNING")
    assert [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)] == ["x", "y"]
    assert engine.get_tensor_mode("x") == o.trt.TensorIOMode.INPUT
    assert engine.get_tensor_mode("none") == o.trt.TensorIOMode.NONE
    assert engine.get_tensor_shape("x")[:] == (2, 4, 8, 8)
    assert engine.get_tensor_dtype("y") == o.trt.float32
    assert bytes(engine.serialize()) == bytes(plan)


def test_a_plan_is_a_buffer_and_nothing_else(opened: Open, tmp_path: Path) -> None:
    plan = build(opened())
    (tmp_path / "plan").write_bytes(plan)
    assert (tmp_path / "plan").read_bytes() == bytes(plan)
    assert plan.nbytes == len(bytes(plan))
    assert plan
    for wrong in (len, iter, lambda p: p[0]):
        with pytest.raises(TypeError):
            wrong(plan)
