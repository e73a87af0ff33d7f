"""IExecutionContext, as far as inspecting an engine of dynamic shapes needs one. It executes nothing."""

from __future__ import annotations

from typing import Any

from .native import Native


class ExecutionContext(Native):
    __slots__ = ("_engine", "_shapes")

    @property
    def engine(self) -> Any:
        return self._engine

    def set_input_shape(self, name: str, shape: Any) -> bool:
        """False, and an error in the log, for what is no input or lies outside of the profile."""
        tensor = self._engine._named(name)
        limits = tensor.get("profile") or [tensor.get("shape", ())] * 3
        low, _, high = limits
        fits = len(low) == len(shape) and all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))
        if tensor.get("mode") != "INPUT" or not fits:
            self._engine._tell("ERROR", f"Error Code 3: API Usage Error (no shape {tuple(shape)} for {name})")
            return False
        self._shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> Any:
        return self._trt.Dims(self._shapes.get(name, self._engine.get_tensor_shape(name)))

    def infer_shapes(self) -> list[str]:
        """The names of the inputs whose shapes are still missing."""
        inputs = [tensor for tensor in self._engine._plan["tensors"] if tensor["mode"] == "INPUT"]
        return [t["name"] for t in inputs if -1 in t["shape"] and t["name"] not in self._shapes]
