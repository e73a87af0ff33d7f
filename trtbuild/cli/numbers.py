"""Numbers on the command line."""

from __future__ import annotations

import math
from typing import Any

import click


class Number(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic from click 8.2 on
    """A finite number, which may be a fraction."""

    name = "number"

    def __init__(self, positive: bool = False) -> None:
        self._positive = positive

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        top, slash, bottom = str(value).partition("/")
        try:
            number = float(top) / (float(bottom) if slash else 1)
        except (ValueError, ZeroDivisionError):
            number = math.nan
        if not math.isfinite(number) or (self._positive and number <= 0):
            wanted = "a number above 0" if self._positive else "a number"
            self.fail(f"{value!r}: expected {wanted}, such as 0.5 or 1/255", param, ctx)
        return number
