"""`shards check`: what is in a folder of shards, and which samples are no good."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from calibrators.check import InputFigures, check, specs_of
from calibrators.shards import ShardSet
from trtbuild.engine import Engine
from trtbuild.model.model import Model
from trtbuild.progress import track
from trtbuild.tables import open_shards


def check_folder(folder: Path, engine: Engine | None) -> dict[str, Any]:
    """The command's document. Without an engine the shards are held against the first of them, and axis 0
    counts samples.

    Raises ShardError for a folder without shards, and, naming the file, for one that is damaged or does
    not fit the model.
    """
    if engine is None:
        shards = ShardSet.open(folder, specs_of(folder))
    else:
        shards = open_shards(folder, engine, Model.open(engine.model))
    *_, findings = track(check(shards), "checking, shards", len(shards.shards), lambda _: 1)
    return {
        "folder": str(folder),
        "model": str(engine.model) if engine else None,
        "batched": shards.batched,
        "shards": len(shards.shards),
        "samples": findings.samples,
        "inputs": {name: _figures(found) for name, found in findings.inputs.items()},
        "nonfinite": [asdict(flaw) for flaw in findings.nonfinite],
        "constant": [asdict(flaw) for flaw in findings.constant],
        "duplicates": findings.duplicates,
        "passed": findings.passed,
    }


def _figures(found: InputFigures) -> dict[str, Any]:
    shapes = [{"shape": list(shape), "samples": count} for shape, count in found.shapes.most_common()]
    return {
        "dtype": found.dtype,
        "shapes": shapes,
        "min": found.minimum,
        "max": found.maximum,
        "mean": found.mean,
        "nan": found.nan,
        "inf": found.inf,
    }
