"""INetworkDefinition: what TensorRT-RTX's parser made, layer by layer and tensor by tensor."""

from __future__ import annotations

from typing import Any

from .native import Native, expect

# older parsers make these of what today has a layer of its own kind
_OLDER = {"SQUEEZE": "SHUFFLE", "UNSQUEEZE": "SHUFFLE", "CAST": "IDENTITY"}


class Network(Native):
    __slots__ = ("_builder", "_flags", "_layers", "_real", "_tensors")

    name = property(lambda self: self._real.name, lambda self, name: setattr(self._real, "name", name))
    num_layers = property(lambda self: self._real.num_layers)
    num_inputs = property(lambda self: self._real.num_inputs)
    num_outputs = property(lambda self: self._real.num_outputs)

    def __len__(self) -> int:
        return int(self.num_layers)

    def __getitem__(self, index: int) -> Any:
        return self._layer(self._real[index])

    def get_layer(self, index: int) -> Any:
        return self._layer(self._real.get_layer(index))

    def get_input(self, index: int) -> Any:
        return self._tensor(self._real.get_input(index))

    def get_output(self, index: int) -> Any:
        return self._tensor(self._real.get_output(index))

    def mark_output(self, tensor: Any) -> None:
        """What is an input or marked already is logged as an error, and stays what it is."""
        self._real.mark_output(expect(tensor, self._trt.ITensor, "mark_output")._real)

    def unmark_output(self, tensor: Any) -> None:
        self._real.unmark_output(expect(tensor, self._trt.ITensor, "unmark_output")._real)

    def _layer(self, real: Any) -> Any:
        if real is None:
            return None
        if real not in self._layers:
            fields = {"_real": real, "_network": self, "_name": "", "_precision": None}
            self._layers[real] = self._trt.ILayer._make(**fields, _types=self._types_by_parser(real))
        return self._layers[real]

    def _tensor(self, real: Any) -> Any:
        if real is None:
            return None
        if real not in self._tensors:
            fields = {"_real": real, "_network": self, "_name": "", "_range": None, "_type": None}
            self._tensors[real] = self._trt.ITensor._make(**fields)
        return self._tensors[real]

    def _dtype(self, real: Any) -> Any:
        known = self._trt.DataType.__members__
        return known[real.name if real.name in known else "INT32"]

    def _layer_type(self, real: Any) -> Any:
        known = self._trt.LayerType.__members__
        return known[real.name if real.name in known else _OLDER[real.name]]

    def _types_by_parser(self, real: Any) -> dict[int, Any]:
        """Where there is no layer for a cast, parsers make one of an identity with an output type."""
        casts = real.type.name == "CAST" and "CAST" not in self._trt.LayerType.__members__
        return {0: self._dtype(real.get_output(0).dtype)} if casts else {}

    def _implicit_batch(self) -> bool:
        flag = getattr(self._trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
        return flag is not None and self._trt._version < (10,) and not self._flags >> int(flag) & 1

    def _strongly_typed(self) -> bool:
        flag = getattr(self._trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        return self._trt._version >= (11,) or (flag is not None and bool(self._flags >> int(flag) & 1))

    def _all(self) -> list[Any]:
        return [self.get_layer(index) for index in range(self.num_layers)]

    def _error(self, message: str) -> None:
        self._builder._tell("ERROR", message)


class DebuggedNetwork:
    """Mixed into Network from TensorRT 10 on."""

    __slots__ = ()

    def mark_debug(self: Any, tensor: Any) -> bool:
        return bool(self._real.mark_debug(tensor._real))

    def unmark_debug(self: Any, tensor: Any) -> bool:
        return bool(self._real.unmark_debug(tensor._real))

    def is_debug_tensor(self: Any, tensor: Any) -> bool:
        return bool(self._real.is_debug_tensor(tensor._real))


class UnfusedDebuggedNetwork:
    """Mixed into Network from TensorRT 10.12 on."""

    __slots__ = ()

    def mark_unfused_tensors_as_debug_tensors(self: Any) -> bool:
        return bool(self._real.mark_unfused_tensors_as_debug_tensors())

    def unmark_unfused_tensors_as_debug_tensors(self: Any) -> bool:
        return bool(self._real.unmark_unfused_tensors_as_debug_tensors())
