"""How bad a tensor is, as a document says it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

Row = Mapping[str, Any]


def sqnr(difference: Row) -> float:
    """dB. In a document null stands for infinite: equal tensors, or noise where the golden is all zero."""
    if difference["sqnr_db"] is not None:
        return float(difference["sqnr_db"])
    return -math.inf if difference["max_abs"] else math.inf


def problem(row: Row) -> str | None:
    """Why the gate fails by this tensor alone: it was not compared, or has NaN or Inf of its own."""
    found = row["difference"]
    if found is None:
        return f"not compared: {row['problem']}"
    unmatched = found["nonfinite_unmatched"]
    return f"{unmatched} NaN or Inf that the golden lacks" if unmatched else None


def worst_first(rows: Iterable[Row]) -> list[Row]:
    """Those that were compared and differ; NaN and Inf that the golden lacks first, then the lowest SQNR."""
    differ = [
        row
        for row in rows
        if row["difference"] and (problem(row) is not None or sqnr(row["difference"]) < math.inf)
    ]
    return sorted(differ, key=lambda row: (problem(row) is None, sqnr(row["difference"])))
