"""ILayer: TensorRT-RTX's, with what strong typing lacks, and the kinds of layers that have more to show."""

from __future__ import annotations

from typing import Any

from .native import expect
from .tensor import Named


class Layer(Named):
    __slots__ = ("_precision", "_types")

    num_inputs = property(lambda self: self._real.num_inputs)
    num_outputs = property(lambda self: self._real.num_outputs)

    @property
    def type(self) -> Any:
        return self._network._layer_type(self._real.type)

    def get_input(self, index: int) -> Any:
        return self._network._tensor(self._real.get_input(index))

    def get_output(self, index: int) -> Any:
        return self._network._tensor(self._real.get_output(index))

    def get_output_type(self, index: int) -> Any:
        return self._types.get(index) or self.get_output(index).dtype


class TypedLayer:
    """Mixed into Layer where types may be asked for layer by layer."""

    __slots__ = ()

    @property
    def precision(self: Any) -> Any:
        return self._precision or self._trt.DataType.FLOAT

    @precision.setter
    def precision(self: Any, dtype: Any) -> None:
        self._precision = expect(dtype, self._trt.DataType, "precision")

    @property
    def precision_is_set(self: Any) -> bool:
        return self._precision is not None

    def reset_precision(self: Any) -> None:
        self._precision = None

    def set_output_type(self: Any, index: int, dtype: Any) -> None:
        expect(dtype, self._trt.DataType, "set_output_type")
        if 0 <= index < self.num_outputs:
            self._types[index] = dtype
            if self.type.name == "IDENTITY":  # it converts: parsers before 8.6 make casts of it
                self.get_output(index)._type = dtype
        else:
            self._network._error(f"Error Code 3: API Usage Error (no output {index} of layer {self.name})")

    def output_type_is_set(self: Any, index: int) -> bool:
        return index in self._types

    def reset_output_type(self: Any, index: int) -> None:
        self._types.pop(index, None)


class NotedLayer:
    """Mixed into Layer from TensorRT 8.6 on."""

    __slots__ = ()
    metadata = property(
        lambda self: self._real.metadata, lambda self, text: setattr(self._real, "metadata", text)
    )


class ConstantLayer:
    """Mixed into IConstantLayer. A network hands out ILayer: `layer.__class__ = trt.IConstantLayer` first."""

    __slots__ = ()

    weights = property(lambda self: own(self, "IConstantLayer", "weights"))
    shape = property(lambda self: own(self, "IConstantLayer", "shape"))


class ElementWiseLayer:
    """Mixed into IElementWiseLayer, as above."""

    __slots__ = ()
    op = property(lambda self: own(self, "IElementWiseLayer", "op"))


class ActivationLayer:
    """Mixed into IActivationLayer, as above. Its `type` is no longer the type of the layer."""

    __slots__ = ()
    type = property(lambda self: own(self, "IActivationLayer", "type"))


def own(layer: Any, kind: str, attribute: str) -> Any:
    """An attribute of the layer's own kind. The network hands out the same object only while it is an
    ILayer."""
    real, rtx = layer._real, layer._trt._rtx
    real.__class__ = getattr(rtx, kind)
    value = getattr(real, attribute)
    real.__class__ = rtx.ILayer
    return value
