"""recipe.toml -> Recipe. Strict: an unknown key is an error that names the nearest key."""

from __future__ import annotations

import copy
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from calibrators.errors import CalibratorError
from calibrators.method import Method
from trtbuild.errors import InputError
from trtbuild.names import matcher, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Precision = Literal["int8", "fp16", "bf16", "fp32"]
Shape = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False)]  # strict: TOML has lists only
_IN_TOML = {
    "model_type": "should be a table",
    "dict_type": "should be a table",
    "tuple_type": "should be a list",
}
SELECTORS = ("name", "type", "trt_type", "pattern", "position", "weights_below")


@contextmanager
def _as_value_error() -> Iterator[None]:
    """Let pydantic add the place in the recipe to an error of ours."""
    try:
        yield
    except (InputError, CalibratorError) as error:
        raise ValueError(str(error)) from error


class Section(BaseModel):
    """A table of the recipe: frozen, no unknown keys, no silent conversions of text to numbers, no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


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


class Pin(Section):
    """One rule: exactly one selector, and the precision that the matching nodes get."""

    name: str | None = None
    type: str | None = None
    trt_type: str | None = None
    pattern: str | None = None
    position: Literal["first", "last"] | None = None
    count: int | None = Field(default=None, gt=0)
    weights_below: float | None = Field(default=None, gt=0)
    to: Precision = "fp32"
    reason: str | None = None

    @model_validator(mode="after")
    def _one_selector(self) -> Pin:
        given = [key for key in SELECTORS if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"a pin needs exactly one of {', '.join(SELECTORS)}; got {given or 'none'}")
        if self.count is not None and self.position is None:
            raise ValueError("count goes with position")
        if self.name is not None:
            with _as_value_error():
                matcher(self.name)
        return self

    def __str__(self) -> str:
        if self.position is not None:
            text = f"{self.position}:{self.count or 1}"
        elif self.type is not None:
            text = f"type:{self.type}"
        elif self.trt_type is not None:
            text = f"trt-type:{self.trt_type}"
        elif self.pattern is not None:
            text = f"pattern:{self.pattern}"
        elif self.weights_below is not None:
            text = f"weights-below:{self.weights_below:g}"
        else:
            text = str(self.name)
        return text if self.to == "fp32" else f"{text}={self.to}"

    @classmethod
    def parse(cls, text: str) -> Pin:
        """Read a `--pin` rule: a name, `glob:…`, `re:…`, `type:…`, `trt-type:…`, `pattern:…`, `first:N`,
        `last:N`, `weights-below:X`; `=fp16` appended chooses another precision than fp32.

        Raises InputError when the text is not of that grammar.
        """
        body, found, to = text.rpartition("=")
        fields: dict[str, Any] = {"to": to} if found and to in get_args(Precision) else {}
        body = body if fields else text
        kind, colon, rest = body.partition(":")
        if not colon:
            fields["name"] = body
        elif kind in ("type", "pattern"):
            fields[kind] = rest
        elif kind == "trt-type":
            fields["trt_type"] = rest
        elif kind in ("first", "last"):
            fields |= {"position": kind, "count": _number(int, rest)}
        elif kind == "weights-below":
            fields["weights_below"] = _number(float, rest)
        else:
            fields["name"] = body
        try:
            return cls(**fields)
        except ValidationError as error:
            raise InputError(f"--pin {text}: {_explain(error, Pin)[0]}") from error


class CalibrationSection(Section):
    """`percentile` is what the method "percentile" means where it names none itself ("percentile:99.9").

    `tensors`: pattern -> method; `types`: type of the node that makes the tensor -> method. A pattern goes
    before a type, a type before `method`. "auto": the method that harms the model's outputs least.
    """

    shards: str = "shards"
    method: str = "minmax"
    percentile: float | None = Field(default=None, gt=0, le=100)
    tensors: dict[str, str] = {}
    types: dict[str, str] = {}

    @model_validator(mode="after")
    def _known_methods(self) -> CalibrationSection:
        with _as_value_error():
            for text in (self.method, *self.tensors.values(), *self.types.values()):
                self._parsed(text)
            for pattern in self.tensors:
                matcher(pattern)
        return self

    def method_of(self, tensor: str, op_type: str | None = None) -> Method | Literal["auto"]:
        """The method for one tensor; of the `[calibration.tensors]` patterns the last match wins.

        op_type: of the node that makes the tensor; None for an input of the model.
        """
        chosen = self.method if op_type is None else self.types.get(op_type, self.method)
        for pattern, method in self.tensors.items():
            if matcher(pattern)(tensor):
                chosen = method
        return self._parsed(chosen)

    def describe(self) -> str:
        """Every method with its pattern, in order, and those by type: what a range table is stored and
        looked up by."""
        return json.dumps(
            [["", str(self._parsed(self.method))]]
            + [[pattern, str(self._parsed(method))] for pattern, method in self.tensors.items()]
            + [["type", op_type, str(self._parsed(self.types[op_type]))] for op_type in sorted(self.types)]
        )

    def _parsed(self, text: str) -> Method | Literal["auto"]:
        if text == "auto":
            return "auto"
        if text == "percentile" and self.percentile is not None:
            return Method("percentile", self.percentile)
        try:
            return Method.parse(text)
        except CalibratorError as error:
            raise CalibratorError(f"{error}; or auto") from error


class OutputThresholds(Section):
    """What every model output must reach against the golden."""

    cosine: float | None = Field(default=None, le=1)
    sqnr_db: float | None = None
    max_abs: float | None = Field(default=None, ge=0)


class ValidationSection(Section):
    samples: str = "validation"
    labels: str | None = None
    metric: str | None = None
    max_drop: float | None = Field(default=None, ge=0)
    layer_samples: int = Field(default=8, gt=0)
    layer_memory_gb: float = Field(default=2.0, gt=0)
    outputs: OutputThresholds = OutputThresholds()

    @field_validator("metric")
    @classmethod
    def _file_and_function(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[^:]+\.py:[A-Za-z_]\w*", value):
            raise ValueError(f"metric must read 'file.py:function', got {value!r}")
        return value

    @model_validator(mode="after")
    def _metric_complete(self) -> ValidationSection:
        if self.metric is not None and (self.labels is None or self.max_drop is None):
            raise ValueError("a metric needs labels and max_drop beside it")
        if self.metric is None and (self.labels is not None or self.max_drop is not None):
            raise ValueError("labels and max_drop mean nothing without a metric")
        return self


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
    """One engine's recipe: what to build, how precise, calibrated on what, and what it must pass."""

    model: ModelSection = ModelSection()
    inputs: dict[str, InputSection] = {}
    precision: PrecisionSection = PrecisionSection()
    pin: Annotated[tuple[Pin, ...], Field(strict=False)] = ()
    calibration: CalibrationSection = CalibrationSection()
    validation: ValidationSection = ValidationSection()
    tensorrt: TensorRTSection = TensorRTSection()
    tensorrt_rtx: RtxSection = Field(default=RtxSection(), alias="tensorrt-rtx")


def load(path: Path, overrides: tuple[str, ...] = (), pins: tuple[str, ...] = ()) -> Recipe:
    """Read recipe.toml, apply `--set key=value` overrides, then append `--pin` rules.

    Raises InputError for a missing file, bad TOML, unknown keys and values out of range.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such recipe; an engine is a folder with a recipe.toml") from error
    except (ValueError, RecursionError) as error:  # also what tomllib lets through: a number of 5,000 digits
        raise InputError(f"{path}: not valid TOML: {error}") from error
    return parse(table, str(path), overrides, pins)


def parse(
    table: dict[str, Any], source: str, overrides: tuple[str, ...] = (), pins: tuple[str, ...] = ()
) -> Recipe:
    """Validate a recipe table; `source` is named in errors. Raises InputError as `load` does."""
    table = copy.deepcopy(table)
    for override in overrides:
        _override(table, override)
    try:
        recipe = Recipe.model_validate(table)
    except ValidationError as error:
        raise InputError(f"{source}: {'; '.join(_explain(error, Recipe))}") from error
    extra = tuple(Pin.parse(text) for text in pins)
    return recipe.model_copy(update={"pin": recipe.pin + extra})


def _override(table: dict[str, Any], override: str) -> None:
    key, found, text = override.partition("=")
    if not found or not key:
        raise InputError(f"--set {override}: expected key=value, as in precision.budget=0.2")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text
    *parents, last = key.strip().split(".")
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise InputError(f"--set {override}: {parent} is not a table of the recipe")
    table[last] = value


def _number(kind: type[int] | type[float], text: str) -> int | float | str:
    """The number that `text` is, or the text itself: the section then says what it wants instead."""
    try:
        return kind(text)
    except ValueError:
        return text


def _explain(error: ValidationError, model: type[BaseModel]) -> list[str]:
    lines = []
    for item in error.errors():
        place = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            key = str(item["loc"][-1])
            lines.append(f"unknown key {place!r}{nearest(key, _keys(model, item['loc'][:-1]))}")
        else:
            message = _wrong(item)
            lines.append(f"{place}: {message}" if place else message)
    return lines


def _wrong(item: ErrorDetails) -> str:
    """What pydantic says of a value, in the words of TOML, and the value."""
    kind = item["type"]
    message = _IN_TOML.get(kind) or re.sub("^(Value error,|Input|Tuple) ", "", item["msg"])
    own = kind in ("value_error", "missing")  # said by us, or there is no value
    return message if own else f"{message}, got {item['input']!r:.60}"


def _keys(annotation: Any, location: tuple[int | str, ...]) -> list[str]:
    """The keys allowed at `location` inside a section, for near misses."""
    for part in location:
        if _is_section(annotation):
            fields = {
                field.alias or name: field.annotation for name, field in annotation.model_fields.items()
            }
            annotation = fields.get(str(part))
        else:  # the key of a dict[str, Section], the index of a tuple[Section, ...]
            annotation = next(filter(_is_section, get_args(annotation)), None)
    if not _is_section(annotation):
        return []
    return [field.alias or name for name, field in annotation.model_fields.items()]


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)
