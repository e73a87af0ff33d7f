"""tuned.toml: what `trtbuild tune` found, beside the recipe, whose own pins go before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator

from calibrators.errors import CalibratorError
from calibrators.method import Method
from calibrators.whole_file import replacing
from trtbuild.errors import InputError
from trtbuild.recipe import toml
from trtbuild.recipe.calibration import CalibrationSection
from trtbuild.recipe.explain import explain
from trtbuild.recipe.pin import Pin
from trtbuild.recipe.section import Section

NAME = "tuned.toml"
MARK = "tuned"
"""The table that says that tune wrote the file, and of what."""
Outcome = Literal["passed with margin", "passed", "failed", "interrupted"]


class Origin(Section):
    """`[tuned]`: the model (its SHA-256) that it was found for, by which trtbuild, and how that ended."""

    model: str = Field(pattern="^[0-9a-f]{64}$")
    trtbuild: str
    outcome: Outcome


class Setting(Section):
    """How ranges are found and which repairs are made: `[calibration]` of a tuned.toml. As in a recipe, but a
    percentile is part of the method ("percentile" alone is percentile:99.99), as the recipe's `percentile`
    belongs to the recipe's methods. equalize: None for none."""

    method: str
    equalize: float | None = Field(default=None, ge=0, le=1)
    bias_correction: bool = False

    @field_validator("method")
    @classmethod
    def _spelled_out(cls, value: str) -> str:
        try:
            return value if value == "auto" else str(Method.parse(value))
        except CalibratorError as error:
            raise ValueError(f"{error}; or auto") from error

    @classmethod
    def of(cls, section: CalibrationSection) -> Setting:
        """That of a recipe."""
        method = section.method
        if method == "percentile" and section.percentile is not None:
            method = str(Method("percentile", section.percentile))
        return cls(method=method, equalize=section.equalize, bias_correction=section.bias_correction)

    def __str__(self) -> str:
        repairs = ["equalized"] * (self.equalize is not None) + ["biases corrected"] * self.bias_correction
        return ", ".join([self.method, *repairs])

    @property
    def repairs(self) -> int:
        """How many it makes."""
        return (self.equalize is not None) + self.bias_correction

    def put_into(self, table: dict[str, Any]) -> None:
        """Replace method and repairs in the table of a recipe; its shards, and its methods for single tensors
        and types, stay. A `calibration` that is no table is left, for the recipe's own check to refuse."""
        section = table.setdefault("calibration", {})
        if isinstance(section, dict):
            section.pop("equalize", None)
            section.update(self.model_dump(exclude_none=True))

    def in_section(self, section: CalibrationSection) -> CalibrationSection:
        """The same for a section that was parsed."""
        return section.model_copy(update=self.model_dump())


class Tuned(Section):
    """The whole file. `pin` goes in front of the recipe's own pins, so those win."""

    origin: Origin = Field(alias="tuned")
    calibration: Setting
    pin: Annotated[tuple[Pin, ...], Field(strict=False)] = ()

    def __str__(self) -> str:
        """What is applied, in a line; with the outcome, where that is not a pass."""
        count = f"{len(self.pin)} pin{'' if len(self.pin) == 1 else 's'}"
        outcome = "" if self.origin.outcome.startswith("passed") else f" ({self.origin.outcome})"
        return f"{self.calibration}; {count}{outcome}"


def load(path: Path) -> Tuned:
    """Read a tuned.toml. Raises InputError as `recipe.load` does, and for a file that tune did not write;
    OSError for one that cannot be read."""
    table = toml.read(path)
    if MARK not in table:
        raise InputError(
            f"{path}: no [{MARK}] table, so tune did not write it; move the file away, or --set tuned=false"
        )
    try:
        return Tuned.model_validate(table)
    except ValidationError as error:
        raise InputError(f"{path}: {'; '.join(explain(error, Tuned))}") from error


def check_replaceable(path: Path) -> None:
    """Raise InputError where a file is there that `tune` did not write; OSError where that cannot be told."""
    try:
        table = toml.read(path)
    except FileNotFoundError:
        return
    except InputError as error:
        raise InputError(f"{error}; tune would write over it: move it away") from error
    if MARK not in table:
        raise InputError(f"{path} has no [{MARK}] table, so tune did not write it; move it away")


def write(path: Path, tuned: Tuned, comment: Sequence[str] = ()) -> None:
    """Write `tuned`, whole or not at all, below lines of comment, which nobody reads back.

    Raises InputError for a file there that `tune` did not write, OSError, naming the file, where it cannot be
    written.
    """
    check_replaceable(path)
    with replacing(path) as stream:
        stream.write(("\n".join(_lines(tuned, comment)) + "\n").encode())


def _lines(tuned: Tuned, comment: Sequence[str]) -> Iterator[str]:
    yield from map(toml.comment, comment)
    for header, section in (
        (f"[{MARK}]", tuned.origin),
        ("[calibration]", tuned.calibration),
        *(("[[pin]]", pin) for pin in tuned.pin),
    ):
        yield header
        for key, value in section.model_dump(exclude_defaults=True).items():
            yield f"{key} = {toml.value(value)}"
