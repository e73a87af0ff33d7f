"""IOptimizationProfile: TensorRT-RTX's own, wrapped."""

from __future__ import annotations

from typing import Any

from .native import Native


class OptimizationProfile(Native):
    __slots__ = ("_real",)

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        """Raises RuntimeError (the binding's docstring says ValueError) for the first of min, opt and max
        that has a negative length; before TensorRT 10 also for one of another rank, or smaller than the one
        before. Whether it fits the network is seen when the network is built."""
        before: Any = None
        for name, shape in (("min", min), ("opt", opt), ("max", max)):
            wrong = any(length < 0 for length in shape)
            if self._trt._version < (10,) and before is not None:
                wrong |= len(shape) != len(before) or any(a > b for a, b in zip(before, shape, strict=True))
            if wrong:
                raise RuntimeError(f"Shape provided for {name} is inconsistent with other shapes.")
            before = shape
        self._real.set_shape(input, min, opt, max)

    def get_shape(self, input: str) -> list[Any]:
        return list(self._real.get_shape(input))

    def __bool__(self) -> bool:
        return bool(self._real)
