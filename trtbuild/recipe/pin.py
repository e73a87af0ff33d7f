"""`[[pin]]`: one rule, in the recipe or on the command line."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import Field, ValidationError, model_validator

from trtbuild.errors import InputError
from trtbuild.names import matcher
from trtbuild.recipe.explain import explain
from trtbuild.recipe.section import Precision, Section, as_value_error

SELECTORS = ("name", "type", "trt_type", "pattern", "position", "weights_below")


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
            with as_value_error():
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
            raise InputError(f"--pin {text}: {explain(error, Pin)[0]}") from error


def _number(kind: type[int] | type[float], text: str) -> int | float | str:
    """The number that `text` is, or the text itself: the section then says what it wants instead."""
    try:
        return kind(text)
    except ValueError:
        return text
