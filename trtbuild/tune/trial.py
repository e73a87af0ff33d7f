"""What the search tries: a way to find the ranges with its repairs, and pins."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from trtbuild.recipe import CalibrationSection


@dataclass(frozen=True)
class Setting:
    """What `[calibration]` says: how ranges are found, and which repairs keep the model's function.

    method: as in a recipe, "percentile:99.99" say. equalize: None for no equalization.
    """

    method: str
    equalize: float | None = None
    bias_correction: bool = False

    @classmethod
    def of(cls, section: CalibrationSection) -> Setting:
        method = section.method
        if method == "percentile" and section.percentile is not None:
            method = f"percentile:{section.percentile:g}"
        return cls(method, section.equalize, section.bias_correction)

    def __str__(self) -> str:
        repairs = ["equalized"] * (self.equalize is not None) + ["biases corrected"] * self.bias_correction
        return ", ".join([self.method, *repairs])

    def in_section(self, section: CalibrationSection) -> CalibrationSection:
        """The section with this setting; its methods for single tensors and types stay."""
        return section.model_copy(
            update={
                "method": self.method,
                "percentile": None,
                "equalize": self.equalize,
                "bias_correction": self.bias_correction,
            }
        )


@dataclass(frozen=True)
class Trial:
    """pins: the nodes held at float32 beside those that the recipe pins, in graph order."""

    setting: Setting
    pins: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self.setting), "pins": list(self.pins)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Trial:
        return cls(Setting(data["method"], data["equalize"], data["bias_correction"]), tuple(data["pins"]))

    def corrected(self, yes: bool = True) -> Trial:
        """The same with biases corrected, or without."""
        return replace(self, setting=replace(self.setting, bias_correction=yes))
