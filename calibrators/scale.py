"""Symmetric INT8 arithmetic: amax -> scale, and the rounding of ONNX QuantizeLinear / DequantizeLinear."""

from __future__ import annotations

from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calibrators.errors import CalibratorError

INT8_MAX = 127
INT8_MIN = -128
_SMALLEST_NORMAL = np.finfo(np.float32).tiny


@overload
def scale_of(amax: float | np.floating[Any]) -> np.float32: ...
@overload
def scale_of(amax: NDArray[np.floating[Any]]) -> NDArray[np.float32]: ...
def scale_of(amax: ArrayLike) -> np.float32 | NDArray[np.float32]:
    """Return amax / 127 as float32, elementwise; always positive and normal.

    An amax of 0 (a tensor or weight channel that is constantly zero) has the scale 1/127: any scale
    represents zero exactly. A quotient below float32's smallest normal number becomes that number.

    The division runs in float64 and is rounded once. For an amax that is a float32 this equals
    ``float32(amax) / float32(127)`` bit for bit (53 >= 2 * 24 + 2 bits: Figueroa 1995), and
    ``scale_of(127.0 * scale)`` returns every normal float32 scale unchanged, which is what lets
    TensorRT's calibration caches, which store scales, pass through tables of amax.

    Raises CalibratorError when an amax is negative or NaN, or too large for a float32 scale.
    """
    wide = np.asarray(amax, dtype=np.float64)
    largest = np.float64(np.finfo(np.float32).max) * INT8_MAX
    bad = ~((wide >= 0) & (wide <= largest))
    if bad.any():
        raise CalibratorError(
            f"amax {wide[bad].flat[0]}: a range must be a finite number, 0 or larger; "
            "look for NaN or Inf in the samples or the weights"
        )
    scale = np.where(wide == 0, 1.0 / INT8_MAX, wide / INT8_MAX)
    rounded: NDArray[np.float32] = np.maximum(scale.astype(np.float32), _SMALLEST_NORMAL)
    return rounded if rounded.ndim else np.float32(rounded)


def quantize(
    x: NDArray[np.float32], scale: np.float32 | NDArray[np.float32], axis: int | None = None
) -> NDArray[np.int8]:
    """Round x to int8 as ONNX QuantizeLinear does with an int8 zero point of 0.

    x: float32, any shape. scale: one float32, or one per index of ``axis``. The quotient is taken in
    float32, rounded half to even and saturated to [-128, 127]; +-Inf saturates too.

    Raises CalibratorError when x is not float32 or holds NaN (which has no int8 value; ONNX leaves it
    undefined), or when the number of scales does not match the axis.
    """
    if x.dtype != np.float32:
        raise CalibratorError(f"cannot quantize {x.dtype}: expected float32; convert with .astype('float32')")
    if np.isnan(x).any():
        raise CalibratorError(f"cannot quantize {np.isnan(x).sum()} NaN among {x.size} values; remove them")
    with np.errstate(over="ignore"):  # a quotient past float32 is Inf, and Inf saturates
        quotient = np.asarray(x / _along(scale, x.shape, axis))
    return np.clip(np.rint(quotient), INT8_MIN, INT8_MAX).astype(np.int8)


def dequantize(
    q: NDArray[np.int8], scale: np.float32 | NDArray[np.float32], axis: int | None = None
) -> NDArray[np.float32]:
    """Return float32(q) * scale, as ONNX DequantizeLinear does with a zero point of 0.

    q: int8, any shape. scale: one float32, or one per index of ``axis``.
    Raises CalibratorError when the number of scales does not match the axis.
    """
    with np.errstate(over="ignore"):  # 127 * a scale near float32's maximum is Inf in ONNX too
        return np.asarray(q.astype(np.float32) * _along(scale, q.shape, axis))


def fake_quantize(
    x: NDArray[np.float32], scale: np.float32 | NDArray[np.float32], axis: int | None = None
) -> NDArray[np.float32]:
    """Return x as INT8 would represent it: ``dequantize(quantize(x, scale, axis), scale, axis)``."""
    return dequantize(quantize(x, scale, axis), scale, axis)


def _along(
    scale: np.float32 | NDArray[np.float32], shape: tuple[int, ...], axis: int | None
) -> NDArray[np.float32]:
    """Return the scale as a float32 array that broadcasts over ``shape`` along ``axis``."""
    scale = np.asarray(scale, dtype=np.float32)
    if axis is None:
        if scale.ndim:
            raise CalibratorError(f"scales of shape {scale.shape} without an axis; name the axis")
        return scale
    if not -len(shape) <= axis < len(shape) or scale.shape != (shape[axis],):
        raise CalibratorError(
            f"scales of shape {scale.shape} do not fit axis {axis} of shape {shape}; give one scale per index"
        )
    spread = [1] * len(shape)
    spread[axis] = shape[axis]
    return scale.reshape(spread)
