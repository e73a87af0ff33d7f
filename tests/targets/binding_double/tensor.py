"""ITensor: TensorRT-RTX's, with a dynamic range; and the name that a tensor and a layer have."""

from __future__ import annotations

from typing import Any

from .native import Native, expect

FLOATS = ("FLOAT", "HALF", "BF16")


class Named(Native):
    """A layer or a tensor. Before TensorRT 11 names are not compared until the network is built."""

    __slots__ = ("_name", "_network", "_real")

    @property
    def name(self) -> str:
        return str(self._name or self._real.name)

    @name.setter
    def name(self, name: str) -> None:
        if self._trt._version < (11,):
            self._name = name
        else:
            self._real.name = name


class Tensor(Named):
    __slots__ = ("_range", "_type")

    shape = property(lambda self: self._real.shape)
    is_shape_tensor = property(lambda self: self._real.is_shape_tensor)
    is_execution_tensor = property(lambda self: self._real.is_execution_tensor)
    is_network_input = property(lambda self: self._real.is_network_input)
    is_network_output = property(lambda self: self._real.is_network_output)

    @property
    def dtype(self) -> Any:
        """TensorRT before 9 has no 64-bit integers: its parser casts them down."""
        return self._type or self._network._dtype(self._real.dtype)

    @dtype.setter
    def dtype(self, dtype: Any) -> None:
        self._type = expect(dtype, self._trt.DataType, "dtype")


class RangedTensor:
    """Mixed into Tensor where quantization may be implicit."""

    __slots__ = ()

    @property
    def dynamic_range(self: Any) -> tuple[float, float] | None:
        return self._range

    @dynamic_range.setter
    def dynamic_range(self: Any, limits: tuple[float, float]) -> None:
        if not self.set_dynamic_range(*limits):
            raise ValueError("Error in set dynamic range")

    def set_dynamic_range(self: Any, min: float, max: float) -> bool:
        if not -float("inf") < min <= max < float("inf"):
            self._network._error(
                f"Error Code 3: API Usage Error (dynamic range [{min}, {max}] of {self.name})"
            )
            return False
        self._range = (float(min), float(max))
        return True

    def reset_dynamic_range(self: Any) -> None:
        self._range = None
