from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from calibrators.errors import CalibratorError
from calibrators.scale import dequantize, fake_quantize, quantize, scale_of

TINY = np.finfo(np.float32).tiny


def qdq_model(scale: np.ndarray, axis: int | None) -> onnx.ModelProto:
    """x -> QuantizeLinear -> q -> DequantizeLinear -> y, int8, zero point 0."""
    attributes = {} if axis is None else {"axis": axis}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], **attributes),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], **attributes),
    ]
    weights = [
        numpy_helper.from_array(scale, "scale"),
        numpy_helper.from_array(np.zeros(scale.shape, np.int8), "zero"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
    outputs = [
        helper.make_tensor_value_info("q", TensorProto.INT8, None),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
    ]
    graph = helper.make_graph(nodes, "qdq", [x], outputs, weights)
    return helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 19)])


def by_reference(x: np.ndarray, scale: np.ndarray, axis: int | None) -> list[np.ndarray]:
    with np.errstate(over="ignore"):
        return ReferenceEvaluator(qdq_model(scale, axis)).run(None, {"x": x})


def by_onnxruntime(x: np.ndarray, scale: np.ndarray, axis: int | None) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    model = qdq_model(scale, axis).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


def assert_same_bits(oracle, x: np.ndarray, scale: np.ndarray, axis: int | None = None) -> None:
    if oracle is by_reference:  # it casts quotients to int32 before it saturates: those beyond wrap around
        with np.errstate(over="ignore"):
            x = x if axis is not None else x[np.abs(x / scale) < 2**31]
    assert x.size > 5
    expected = oracle(x, scale, axis)
    q = quantize(x, scale, axis)
    assert q.dtype == np.int8
    np.testing.assert_array_equal(q, expected[0])
    y = fake_quantize(x, scale, axis)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y.view(np.uint32), expected[1].view(np.uint32))


TIES = [0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5, 127.5, 128.5, -127.5, -128.5, -129, 0.50000006]
EXTREMES = [-0.0, 1e-45, -1e-45, 1e-38, TINY, 3.4028235e38, -3.4028235e38, np.inf, -np.inf]
HARD = np.array([*TIES, *EXTREMES], dtype=np.float32)


@pytest.mark.parametrize("oracle", [by_reference, by_onnxruntime])
class TestAgainstOnnx:
    @pytest.mark.parametrize("scale", [1.0, 0.1, 1 / 127, 3e-5, 1e30, TINY, 0.007874016])
    def test_ties_denormals_and_saturation_are_the_same_bits(self, oracle, scale):
        scale = np.array(scale, dtype=np.float32)
        assert_same_bits(oracle, HARD, scale)

    @pytest.mark.parametrize("seed", range(4))
    def test_random_float32_bit_patterns_are_the_same_bits(self, oracle, seed):
        rng = np.random.default_rng(seed)
        x = rng.integers(0, 2**32, 5000, dtype=np.uint32).view(np.float32)
        x = x[~np.isnan(x)]
        scale = scale_of(np.array(float(np.abs(rng.standard_normal()) * 10.0 ** rng.integers(-30, 30))))
        assert_same_bits(oracle, x, np.asarray(scale))

    @pytest.mark.parametrize("seed", range(4))
    def test_ties_of_random_scales_are_the_same_bits(self, oracle, seed):
        scale = scale_of(np.array(np.random.default_rng(seed).uniform(0.01, 50)))
        steps = np.arange(-130, 131, dtype=np.float32)
        x = np.concatenate([(steps + np.float32(0.5)) * scale, steps * scale]).astype(np.float32)
        assert_same_bits(oracle, x, np.asarray(scale))

    @pytest.mark.parametrize("axis", [0, 1, 2, -1])
    def test_one_scale_per_channel_is_the_same_bits(self, oracle, axis):
        rng = np.random.default_rng(5)
        x = (rng.standard_normal((3, 4, 5, 6)) * 100).astype(np.float32)
        scale = scale_of(np.abs(rng.standard_normal(x.shape[axis])).astype(np.float32) * 90)
        assert_same_bits(oracle, x, scale, axis)


class TestScaleOf:
    def test_is_the_float32_quotient_for_every_float32_amax(self):
        bits = np.random.default_rng(0).integers(0x01800000, 0x7F800000, 200_000).astype(np.uint32)
        amax = bits.view(np.float32)
        expected = np.maximum(amax / np.float32(127), TINY)
        np.testing.assert_array_equal(scale_of(amax), expected)
        assert scale_of(amax).dtype == np.float32

    def test_gives_every_normal_scale_back(self):
        bits = np.random.default_rng(1).integers(0x00800000, 0x7F800000, 200_000).astype(np.uint32)
        scales = bits.view(np.float32)
        np.testing.assert_array_equal(scale_of(127.0 * scales.astype(np.float64)), scales)

    def test_zero_has_a_positive_scale_in_a_scalar_and_in_a_channel(self):
        assert scale_of(0.0) == np.float32(1 / 127)
        np.testing.assert_array_equal(
            scale_of(np.array([0.0, 127.0], np.float32)), np.array([1 / 127, 1.0], np.float32)
        )

    def test_a_denormal_quotient_becomes_the_smallest_normal(self):
        assert scale_of(1e-40) == TINY

    def test_a_float_gives_a_float32_scalar(self):
        assert isinstance(scale_of(2.54), np.float32)

    @pytest.mark.parametrize("amax", [-1.0, np.nan, np.inf, 1e42])
    def test_no_range_is_an_error(self, amax):
        with pytest.raises(CalibratorError, match="finite number, 0 or larger"):
            scale_of(amax)


class TestRefusals:
    def test_nan_has_no_int8_value(self):
        with pytest.raises(CalibratorError, match="1 NaN among 2 values"):
            quantize(np.array([1, np.nan], np.float32), np.float32(1))

    def test_float64_is_not_float32(self):
        with pytest.raises(CalibratorError, match="cannot quantize float64"):
            quantize(np.zeros(2), np.float32(1))

    @pytest.mark.parametrize("axis", [0, 2, -3])
    def test_scales_that_do_not_fit_the_axis(self, axis):
        with pytest.raises(CalibratorError, match=f"do not fit axis {axis} of shape"):
            dequantize(np.zeros((2, 3), np.int8), np.ones(3, np.float32), axis)

    def test_several_scales_without_an_axis(self):
        with pytest.raises(CalibratorError, match="without an axis"):
            dequantize(np.zeros((2, 3), np.int8), np.ones(3, np.float32))
