"""What the double builds, and how it calibrates: with the misbehaviours of the real binding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.targets.binding_double import make
from tests.targets.binding_double.session import (
    DYNAMIC,
    VERSIONS,
    all_layers,
    build,
    calibrated,
    calibrator_of,
    give_ranges,
    inspected,
    layer_named,
    log_of,
    open_double,
    scales,
    types_of,
)

pytest.importorskip("tensorrt_rtx", reason="the double parses with tensorrt_rtx: pip install 'trtbuild[rtx]'")
Open = Callable[..., SimpleNamespace]


@pytest.fixture
def opened(toy: Callable[..., Path]) -> Open:
    """Parse a toy, by its name or its path."""
    return lambda model="residual", *options, **more: open_double(
        toy(model) if isinstance(model, str) else model, *options, **more
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_int8_without_any_range_builds_nothing(version: str, opened: Open) -> None:
    o = opened(version=version)
    assert build(o, "INT8") is None
    assert o.log.has("Calibrator is not being used", "WARNING")
    assert o.log.has("no scaling factors detected")


@pytest.mark.parametrize("version", VERSIONS)
def test_calibration_reads_the_opt_shapes_of_the_profile(version: str, opened: Open) -> None:
    o = opened("dynamic", version)
    profile = o.builder.create_optimization_profile()
    profile.set_shape("x", (1, 3, 4, 8), (3, 3, 4, 8), (4, 3, 16, 8))
    assert o.config.set_calibration_profile(profile)
    batches = [np.full((3, 3, 4, 8), value, np.float32) for value in (1, -6.35, 2)]
    assert calibrated(o, *([batch.ctypes.data] for batch in batches)) is not None
    assert [batch["x"].shape for batch in o.trt._behaviour.batches] == [(3, 3, 4, 8)] * 3
    assert o.calibrator.asked == [["x"]] * 4
    found = scales(o.calibrator.written)
    assert found["x"] == pytest.approx(0.05)
    floats = {"x", *(layer.get_output(0).name for layer in all_layers(o.network) if floating(layer))}
    assert found.keys() == floats
    assert min(found.values()) > 0
    numbers = {"8.5.1.7": 8501, "8.6.1": 8601, "10.3.0": 100300, "10.13.0": 101300}
    assert o.calibrator.written.startswith(b"TRT-%d-EntropyCalibration2\n" % numbers[version])


def floating(layer: Any) -> bool:
    return bool(layer.get_output(0).dtype.name == "FLOAT")


def test_calibration_without_a_profile_of_its_own_takes_the_first(opened: Open) -> None:
    o = opened("dynamic")
    batch = np.ones(DYNAMIC[1], np.float32)
    assert calibrated(o, [batch.ctypes.data]) is not None
    assert o.trt._behaviour.batches[0]["x"].shape == DYNAMIC[1]
    assert o.log.has("Calibrating with Profile 0", "WARNING")


@pytest.mark.parametrize("error", [ValueError("boom"), KeyboardInterrupt()])
def test_an_error_in_get_batch_is_the_end_of_the_data(
    error: BaseException, opened: Open, capsys: pytest.CaptureFixture
) -> None:
    batch = np.ones((2, 4, 8, 8), np.float32)
    after_one, at_once = opened(), opened()
    assert calibrated(after_one, [batch.ctypes.data], error, [batch.ctypes.data]) is not None
    assert len(after_one.trt._behaviour.batches) == 1
    assert after_one.calibrator.written
    assert f"[ERROR] Exception caught in get_batch(): {type(error).__name__}: " in capsys.readouterr().err
    assert calibrated(at_once, error) is None
    assert at_once.log.has("no scaling factors detected")


def test_pointers_that_are_missing_are_read_all_the_same(opened: Open) -> None:
    o = opened("two-inputs")
    x = np.ones((4, 4), np.float32)
    assert calibrated(o, [x.ctypes.data]) is not None
    found = scales(o.calibrator.written)
    assert found["x"] == pytest.approx(1 / 127)
    assert found["z"] > 1e30
    assert o.calibrator.asked[0] == ["x", "z"]


@pytest.mark.parametrize(
    ("header", "taken"),
    [
        ("TRT-8501-EntropyCalibration2", True),
        ("TRT-8601-EntropyCalibration2", False),
        ("TRT-8501-MinMaxCalibration", False),
    ],
)
def test_a_cache_counts_only_under_the_right_header(header: str, taken: bool, opened: Open) -> None:
    o = opened()
    names = ("x", "c1", "n1", "r1", "c2", "s")  # all but y
    cache = "\n".join([header, *(f"{name}: 3c010a14" for name in names)]).encode()
    x = np.ones((2, 4, 8, 8), np.float32)
    plan = calibrated(o, [x.ctypes.data], cache=cache)
    assert bool(o.calibrator.asked) is not taken
    assert bool(o.calibrator.written) is not taken
    assert o.log.has("Calibration table does not match") is not taken
    assert o.log.has("Missing scale and zero-point for tensor y", "WARNING") is taken
    last = list(types_of(o, plan).values())[-1]
    assert last == (("FP32", "FP32") if taken else ("Int8", "Int8"))


def test_a_minmax_calibrator_has_its_own_header(opened: Open) -> None:
    o = opened()
    x = np.ones((2, 4, 8, 8), np.float32)
    calibrated(o, [x.ctypes.data], base="MinMaxCalibrator")
    assert o.calibrator.written.startswith(b"TRT-8501-MinMaxCalibration\n")
    assert o.calibrator.get_algorithm() == o.trt.CalibrationAlgoType.MINMAX_CALIBRATION


def test_ranges_for_all_tensors_leave_the_calibrator_alone(opened: Open) -> None:
    o = opened()
    give_ranges(o.network)
    assert calibrated(o) is not None
    assert o.calibrator.asked == []


def test_layers_around_a_tensor_without_a_range_are_not_int8(opened: Open) -> None:
    o = opened()
    give_ranges(o.network, "c2")
    plan = build(o, "INT8", "FP16")
    assert o.log.has("Missing scale and zero-point for tensor c2", "WARNING")
    assert types_of(o, plan) == {
        "node_of_c1 + node_of_n1 + node_of_r1": ("Int8", "Int8"),
        "node_of_c2 + node_of_s": ("FP16", "Int8"),
        "PWN(node_of_y)": ("Int8", "Int8"),
    }


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("flag", ["", "OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS"])
def test_a_pin_holds_only_where_tensorrt_is_told_to_mind_it(version: str, flag: str, opened: Open) -> None:
    o = opened(version=version)
    give_ranges(o.network)
    pinned = layer_named(o, "node_of_c2")
    assert (pinned.precision, pinned.precision_is_set) == (o.trt.float32, False)
    pinned.precision = o.trt.float32
    pinned.set_output_type(0, o.trt.float32)
    assert pinned.precision_is_set
    assert pinned.output_type_is_set(0)
    found = types_of(o, build(o, "INT8", *([flag] if flag else [])))
    if flag:
        assert found["node_of_c2"] == ("FP32", "FP32")
    else:
        assert found["node_of_c2 + node_of_s + node_of_y"] == ("Int8", "Int8")
        assert o.log.has("Layer 'node_of_c2': a non-conforming implementation was chosen", "WARNING")


def test_a_pin_without_output_types_leaves_int8_behind_it(opened: Open) -> None:
    o = opened()
    give_ranges(o.network)
    layer_named(o, "node_of_c2").precision = o.trt.float32
    assert types_of(o, build(o, "INT8", "OBEY_PRECISION_CONSTRAINTS"))["node_of_c2"] == ("FP32", "Int8")


def test_behaviours_that_lose_pins(opened: Open) -> None:
    def built(**behaviour: Any) -> dict[str, tuple[str, str]]:
        o = opened(**behaviour)
        give_ranges(o.network)
        for name in ("node_of_c1", "node_of_c2"):
            layer_named(o, name).precision = o.trt.float32
            layer_named(o, name).set_output_type(0, o.trt.float32)
        return types_of(o, build(o, "INT8", "FP16", "OBEY_PRECISION_CONSTRAINTS"))

    assert built(loses_pins={"node_of_c2"})["node_of_c2 + node_of_s + node_of_y"] == ("Int8", "Int8")
    assert not any("node_of_n1" in name for name in built(removes={"node_of_n1"}))
    foreign = [("node_of_c1", "node_of_s")]
    old = built(foreign=foreign)
    assert old["{ForeignNode[node_of_c1...node_of_s]}"] == ("FP16", "FP16")
    new = built(version="10.3.0", foreign=foreign)
    assert new["__myl_Fused_myl0_0"] == ("Half", "Half")


REFUSED = {
    "an integer layer pinned": ("dynamic", "cannot use precision Float with weights of type Int"),
    "half without its flag": ("residual", "fp16 precision has been set for a layer or layer output"),
    "int8 without its flag": ("residual", "int8 precision has been set for a layer or layer output"),
    "two layers of one name": ("residual", "Repeated layer name: node_of_c2"),
    "two tensors of one name": ("residual", "Repeated tensor name: c2"),
    "no outputs": ("residual", "at least one output"),
    "Q/DQ without int8": ("qat", "INT8 mode needs to be enabled"),
    "ranges beside Q/DQ": ("qat", "only allowed when there are no Q/DQ layers"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_validation_refuses(what: str, opened: Open) -> None:
    toy, reason = REFUSED[what]
    o = opened(toy)
    layers = all_layers(o.network)
    if what == "an integer layer pinned":
        next(layer for layer in layers if not floating(layer)).precision = o.trt.float32
    elif what == "half without its flag":
        layers[0].precision = o.trt.float16
    elif what == "int8 without its flag":
        layers[0].set_output_type(0, o.trt.int8)
    elif what == "two layers of one name":
        layers[0].name = "node_of_c2"
    elif what == "two tensors of one name":
        layers[0].get_output(0).name = "c2"
    elif what == "no outputs":
        o.network.unmark_output(o.network.get_output(0))
    elif what == "ranges beside Q/DQ":
        o.network.get_input(0).dynamic_range = (-1, 1)
    assert build(o) is None
    assert o.log.has(reason)


def test_explicit_quantization_in_both_kinds_of_networks(opened: Open) -> None:
    weak, strong = opened("qat"), opened("qat", "10.3.0", "STRONGLY_TYPED")
    weak.config.int8_calibrator = calibrator_of(weak.trt, [])
    plans = build(weak, "INT8"), build(strong)
    assert weak.log.has("Calibrator won't be used in explicit precision mode", "WARNING")
    for o, plan in zip((weak, strong), plans, strict=True):
        layers = inspected(o, plan)["Layers"]
        assert layers[0]["Origin"] == "QDQ"
        assert types_of(o, plan)["node_of_a"] == ("Int8", "FP32")
    assert build(strong, "INT8") is None
    typed = opened("qat", "11.0.0")
    kinds = [
        (layer["Name"], layer["Inputs"][0]["Datatype"]) for layer in inspected(typed, build(typed))["Layers"]
    ]
    assert ("node_of_a", "Int8") in kinds


@pytest.mark.parametrize("version", [*VERSIONS, "11.0.0"])
def test_the_inspector_tells_what_it_may(version: str, opened: Open) -> None:
    o = opened(version=version)
    head = o.trt.ProfilingVerbosity
    found = inspected(o, build(o))
    fused = found["Layers"][0]
    assert fused["Name"] == "node_of_c1 + node_of_n1 + node_of_r1"
    assert (fused["LayerType"], fused["Weights"]) == ("CaskConvolution", {"Type": "Float", "Count": 144})
    noted = "\x1e".join(f"[ONNX Layer: node_of_{name}]" for name in ("c1", "n1", "r1"))
    assert fused.get("Metadata") == (None if version == "8.5.1.7" else noted)
    if version == "11.0.0":
        assert "Bindings" not in found
        assert [(t["Name"], t["IOMode"], t["DataType"]) for t in found["I/O Tensors"]] == [
            ("x", "Input", "Float"),
            ("y", "Output", "Float"),
        ]
    else:
        assert found["Bindings"] == ["x", "y"]
        assert fused["Inputs"][0]["Format/Datatype"] == "Row major linear FP32"
    o.config.profiling_verbosity = head.LAYER_NAMES_ONLY
    assert inspected(o, build(o))["Layers"][0] == fused["Name"]
    o.config.profiling_verbosity = head.NONE
    assert inspected(o, build(o))["Layers"] == []


def test_what_is_fused(opened: Open) -> None:
    def names(toy: str, constants: bool = False) -> list[str]:
        o = opened(toy, "8.6.1")
        layers = inspected(o, build(o))["Layers"]
        return [layer["Name"] for layer in layers if (layer["LayerType"] == "Constant") is constants]

    product = "(Unnamed Layer* 2) [ElementWise]"
    assert names("depthwise") == [
        "node_of_a",  # two layers read what it makes
        f"PWN(PWN(node_of_h), {product})",
        "node_of_b",
        "node_of_m",
        "PWN(node_of_y)",
    ]
    assert names("gemm")[0] == "node_of_a + (Unnamed Layer* 4) [ElementWise] + node_of_r"
    assert names("gemm", constants=True)[:3] == ["w1", "b1 + ONNXTRT_Broadcast", "w2"]
    assert names("two-inputs") == ["node_of_a + node_of_s", "node_of_y"]


def test_reformats_stand_where_types_change(opened: Open) -> None:
    o = opened()
    give_ranges(o.network)
    layers = inspected(o, build(o, "INT8"))["Layers"]
    assert [layer["LayerType"] for layer in layers] == [
        "Reformat",
        "CaskConvolution",
        "CaskConvolution",
        "Reformat",
    ]
    first, last = layers[0], layers[-1]
    assert first["Name"] == f"Reformatting CopyNode for Input Tensor 0 to {layers[1]['Name']}"
    assert first["Outputs"][0]["Name"] == layers[1]["Inputs"][0]["Name"]
    assert last["Inputs"][0]["Name"] == layers[2]["Outputs"][0]["Name"]
    assert (first["Inputs"][0]["Name"], last["Outputs"][0]["Name"]) == ("x", "y")


@pytest.mark.parametrize("version", VERSIONS)
def test_formats_of_dynamic_shapes_need_a_context(version: str, opened: Open) -> None:
    o = opened("dynamic", version)
    plan = build(o)

    def formats(context: bool) -> set[str]:
        layers = inspected(o, plan, context)["Layers"]
        return {t["Format/Datatype"] for layer in layers for t in layer["Inputs"] if -1 in t["Dimensions"]}

    assert formats(False) == {"N/A due to dynamic shapes"}
    assert formats(True) == {"Row major linear FP32"}
    context = o.trt.Runtime(o.log).deserialize_cuda_engine(plan).create_execution_context()
    assert context.infer_shapes() == ["x"]
    assert not context.set_input_shape("x", (9, 3, 8, 8))
    assert not context.set_input_shape("z", (1,))


@pytest.mark.parametrize("answer", [True, False, ValueError("boom"), KeyboardInterrupt()])
def test_a_progress_monitor_can_cancel_the_build(
    answer: Any, opened: Open, capsys: pytest.CaptureFixture
) -> None:
    o = opened(version="10.3.0")
    calls: list[Any] = []

    class Monitor(o.trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            o.trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            calls.append(("start", steps))

        def step_complete(self, phase: str, step: int) -> bool:
            calls.append(step)
            if isinstance(answer, BaseException):
                raise answer
            return answer

        def phase_finish(self, phase: str) -> None:
            calls.append("finish")

    o.config.progress_monitor = Monitor()
    assert (build(o) is not None) is (answer is True)
    assert (
        calls == (["start", 0, 1, "finish"] if answer is True else ["start", 0, "finish"])
        or calls[0][0] == "start"
    )
    printed = capsys.readouterr().err
    assert ("Exception caught in step_complete()" in printed) is isinstance(answer, BaseException)


def test_other_failures(opened: Open) -> None:
    with pytest.raises(MemoryError):
        build(opened(raises=MemoryError()))
    for version, severity in (("8.5.1.7", "WARNING"), ("10.3.0", "ERROR")):
        trt: Any = make(version, no_gpu=True)
        log = log_of(trt)
        for kind in (trt.Builder, trt.Runtime):
            with pytest.raises(TypeError, match="factory function returned nullptr"):
                kind(log)
        assert log.has("CUDA initialization failure", severity)
    platform = opened(fast_int8=False).builder
    assert (platform.platform_has_fast_int8, platform.platform_has_fast_fp16) == (False, True)
