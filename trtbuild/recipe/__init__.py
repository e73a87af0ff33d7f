"""recipe.toml -> Recipe. Strict: an unknown key is an error that names the nearest key."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trtbuild.errors import InputError
from trtbuild.recipe.calibration import CalibrationSection
from trtbuild.recipe.explain import explain
from trtbuild.recipe.pin import SELECTORS, Pin
from trtbuild.recipe.section import Precision
from trtbuild.recipe.sections import (
    InputSection,
    PrecisionSection,
    Recipe,
    RtxSection,
    TensorRTSection,
)
from trtbuild.recipe.validation import OutputSection, OutputThresholds, Thresholds, ValidationSection

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "SELECTORS",
    "CalibrationSection",
    "InputSection",
    "OutputSection",
    "OutputThresholds",
    "Pin",
    "Precision",
    "PrecisionSection",
    "Recipe",
    "RtxSection",
    "TensorRTSection",
    "Thresholds",
    "ValidationSection",
    "load",
    "parse",
]


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
        raise InputError(f"{source}: {'; '.join(explain(error, Recipe))}") from error
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
