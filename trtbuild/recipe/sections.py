"""The tables of the recipe, and the whole of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from trtbuild.recipe.calibration import CalibrationSection
from trtbuild.recipe.pin import Pin
from trtbuild.recipe.section import Precision, Section, Shape
from trtbuild.recipe.validation import ValidationSection


class ModelSection(Section):
    """`batched = false`: axis 0 of the inputs is no batch, although it looks like one."""

    path: str = "model.onnx"
    batched: bool = True


class InputSection(Section):
    """The shapes of one model input: the optimization profile, batch axis included."""

    min: Shape
    opt: Shape
    max: Shape

    @model_validator(mode="after")
    def _ordered(self) -> InputSection:
        same_rank = len(self.min) == len(self.opt) == len(self.max)
        axes = zip(self.min, self.opt, self.max, strict=False)
        if not same_rank or not all(low <= middle <= high for low, middle, high in axes):
            raise ValueError(f"needs min <= opt <= max on every axis, got {self.min}, {self.opt}, {self.max}")
        return self


class PrecisionSection(Section):
    default: Precision = "int8"
    fallback: Literal["fp16", "bf16", "fp32"] = "fp32"
    budget: float | None = Field(default=None, ge=0, le=1)
    allow_lost_pins: bool = False


class TensorRTSection(Section):
    """TensorRT: what the builder may do. None leaves it to TensorRT.

    `calibrator`: who finds the int8 ranges in implicit mode. "entropy" and "minmax" are TensorRT's own
    (IInt8EntropyCalibrator2, IInt8MinMaxCalibrator), "ranges" is the table that `calibrate` makes; "auto"
    takes TensorRT's own where the recipe's method is one of them and no tensor has another.
    `pin_inputs`: what a pinned layer reads is written as float too, instead of in int8 and converted back.
    `timing_cache`: a folder, beside the recipe; by default the user's cache folder; "none" for no cache.
    """

    mode: Literal["implicit", "explicit"] | None = None
    calibrator: Literal["auto", "entropy", "minmax", "ranges"] = "auto"
    constraints: Literal["obey", "prefer"] = "obey"
    pin_inputs: bool = True
    tf32: bool = True
    workspace_gb: float | None = Field(default=None, gt=0, le=1e6)  # what fits into TensorRT's integer
    optimization_level: int | None = Field(default=None, ge=0, le=5)
    tactic_sources: Literal["default", "none"] | Annotated[tuple[str, ...], Field(strict=False)] = "default"
    timing_cache: str | None = None
    dla_core: int | None = Field(default=None, ge=0)
    gpu_fallback: bool = True
    hardware_compatibility: Literal["none", "ampere_plus", "same_compute_capability"] = "none"
    version_compatible: bool = False

    @field_validator("tactic_sources", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        names = isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)
        if not names and value not in ("default", "none"):
            raise ValueError(f"should be 'default', 'none' or a list of names, got {value!r}")
        return value


class RtxSection(Section):
    """TensorRT-RTX: the GPUs (compute capabilities, as "8.9") that the engine is compiled for."""

    compute_capabilities: Annotated[tuple[str, ...], Field(strict=False, min_length=1)] = (
        "8.6",
        "8.9",
        "12.0",
    )


class Recipe(Section):
    """One engine's recipe: what to build, how precise, calibrated on what, and what it must pass.

    `tuned = false`: a tuned.toml beside it is left aside.
    """

    tuned: bool = True
    model: ModelSection = ModelSection()
    inputs: dict[str, InputSection] = Field(default_factory=dict)
    precision: PrecisionSection = PrecisionSection()
    pin: Annotated[tuple[Pin, ...], Field(strict=False)] = ()
    calibration: CalibrationSection = CalibrationSection()
    validation: ValidationSection = ValidationSection()
    tensorrt: TensorRTSection = TensorRTSection()
    tensorrt_rtx: RtxSection = Field(default=RtxSection(), alias="tensorrt-rtx")
