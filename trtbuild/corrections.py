"""The bias corrections of a build: those of a manifest, those in the store, or measured."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from calibrators.shards import ShardSet
from calibrators.table import RangeTable
from calibrators.whole_file import replacing
from trtbuild import bias_correction, ranges_file
from trtbuild.engine import Engine
from trtbuild.errors import InputError
from trtbuild.model.model import Model
from trtbuild.model.scaling import to_json as scaled_to_json
from trtbuild.precision.map import PrecisionMap
from trtbuild.progress import say
from trtbuild.rewrite.biases import Corrections, from_json, to_json
from trtbuild.tables import batch_of
from trtbuild.targets.base import Target

SCHEMA_VERSION = 1


def corrections_of(
    engine: Engine,
    model: Model,
    precisions: PrecisionMap,
    table: RangeTable | None,
    shards: ShardSet | None,
    target: Target,
) -> Corrections:
    """What the recipe's `calibration.bias_correction` leads to; nothing where it is off or nothing is int8.

    Raises InputError in implicit mode, for a range file that is no manifest of a build with the same pins,
    and for samples that are missing.
    """
    if not engine.recipe.calibration.bias_correction or table is None:
        return {}
    if target.implicit:
        raise InputError(
            "biases cannot be corrected in implicit mode, where nobody knows what runs in int8: remove "
            "calibration.bias_correction, or build with --mode explicit (TensorRT 10 and later)"
        )
    if engine.ranges is not None:
        return _given(engine.ranges, precisions)
    assert shards is not None, "there is a table, and no file that it is from"
    depends = {
        "model": model.sha256,
        "equalized": scaled_to_json(model.scaled),
        "precision": precisions.to_dict(),
        "ranges": table.to_dict(),
        "shards": shards.fingerprint(),
    }
    digest = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()
    path = engine.builds / "ranges" / f"{digest[:16]}.biases.json" if engine.builds is not None else None
    found = _stored(path, digest) if path is not None else None
    if found is None:
        found = bias_correction.corrections(model, precisions, table, shards, batch=batch_of(engine))
        if path is not None:
            _keep(found, path, digest)
    return found


def _given(path: Path, precisions: PrecisionMap) -> Corrections:
    file = ranges_file.read(path, "--ranges")
    if file.manifest is None:
        raise InputError(
            f"{file.label} has ranges alone, and calibration.bias_correction needs samples, or the manifest "
            "of a build with corrected biases; give that, or remove the key"
        )
    if file.manifest.get("precision") != json.loads(json.dumps(precisions.to_dict())):
        raise InputError(
            f"{file.label} is of a build with other pins, and corrections depend on them; build without "
            "--ranges, or remove calibration.bias_correction"
        )
    try:
        return from_json(file.manifest.get("biases", {}))
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{file.label}: biases are damaged ({error}); copy the manifest again") from error


def _keep(found: Corrections, path: Path, digest: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"schema_version": SCHEMA_VERSION, "key": digest, "biases": to_json(found)}
    with replacing(path) as stream:
        stream.write(json.dumps(document).encode())


def _stored(path: Path, digest: str) -> Corrections | None:
    """Raises InputError for a damaged file."""
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if document["schema_version"] != SCHEMA_VERSION or document["key"] != digest:
            raise ValueError("of another key")
        found = from_json(document["biases"])
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}: {error}); delete it first") from error
    say(f"bias corrections: {path}, found before")
    return found
