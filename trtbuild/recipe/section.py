"""What every table of the recipe is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from calibrators.errors import CalibratorError
from trtbuild.errors import InputError

Precision = Literal["int8", "fp16", "bf16", "fp32"]
Shape = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False)]  # strict: TOML has lists only


class Section(BaseModel):
    """A table of the recipe: frozen, no unknown keys, no silent conversions of text to numbers, no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


@contextmanager
def as_value_error() -> Iterator[None]:
    """Let pydantic add the place in the recipe to an error of ours."""
    try:
        yield
    except (InputError, CalibratorError) as error:
        raise ValueError(str(error)) from error
