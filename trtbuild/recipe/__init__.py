"""recipe.toml -> Recipe. Strict: an unknown key is an error that names the nearest key."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trtbuild.errors import InputError
from trtbuild.recipe import toml
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
from trtbuild.recipe.toml import tomllib
from trtbuild.recipe.tuned import Tuned
from trtbuild.recipe.validation import OutputSection, OutputThresholds, Thresholds, ValidationSection

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
    "Tuned",
    "ValidationSection",
    "load",
    "parse",
]


def load(
    path: Path, overrides: tuple[str, ...] = (), pins: tuple[str, ...] = (), tuned: Tuned | None = None
) -> Recipe:
    """Read recipe.toml, put what tune found into it, apply `--set key=value` overrides, then append `--pin`
    rules.

    Raises InputError for a missing file, bad TOML, unknown keys and values out of range.
    """
    try:
        table = toml.read(path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such recipe; an engine is a folder with a recipe.toml") from error
    return parse(table, str(path), overrides, pins, tuned)


def parse(
    table: dict[str, Any],
    source: str,
    overrides: tuple[str, ...] = (),
    pins: tuple[str, ...] = (),
    tuned: Tuned | None = None,
) -> Recipe:
    """Validate a recipe table; `source` is named in errors. Raises InputError as `load` does."""
    table = copy.deepcopy(table)
    if tuned is not None:
        tuned.calibration.put_into(table)
    for override in overrides:
        _override(table, override)
    try:
        recipe = Recipe.model_validate(table)
    except ValidationError as error:
        raise InputError(f"{source}: {'; '.join(explain(error, Recipe))}") from error
    found = tuned.pin if tuned is not None else ()
    extra = tuple(Pin.parse(text) for text in pins)
    return recipe.model_copy(update={"pin": found + recipe.pin + extra})


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
