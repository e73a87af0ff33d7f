"""The bias corrections of a build: those of a manifest, those in the store, or measured."""

from __future__ import annotations

import json

from calibrators.shards import ShardSet
from trtbuild import bias_correction, kept
from trtbuild.digest import of_json
from trtbuild.engine import Engine
from trtbuild.errors import InputError
from trtbuild.model.model import Model
from trtbuild.model.scaling import to_json as scaled_to_json
from trtbuild.precision.map import PrecisionMap
from trtbuild.ranges_file import RangesFile
from trtbuild.rewrite.biases import Corrections, from_json, to_json
from trtbuild.tables import Ranges, batch_of
from trtbuild.targets.base import Target

KEPT = "biases"


def corrections_of(
    engine: Engine,
    model: Model,
    precisions: PrecisionMap,
    ranges: Ranges,
    shards: ShardSet | None,
    target: Target,
) -> Corrections:
    """What the recipe's `calibration.bias_correction` leads to; nothing where it is off or nothing is int8.

    Raises InputError in implicit mode, for a range file that is no manifest of a build with the same pins,
    and for samples that are missing.
    """
    if not engine.recipe.calibration.bias_correction or ranges.table is None:
        return {}
    if target.implicit:
        raise InputError(
            "biases cannot be corrected in implicit mode, where nobody knows what runs in int8: build with "
            f"--mode explicit (TensorRT 10 and later), or {engine.without('bias_correction')}"
        )
    if ranges.file is not None:
        return _given(ranges.file, precisions)
    assert shards is not None, "there is a table, and no file that it is from"
    depends = {
        "model": model.sha256,
        "equalized": scaled_to_json(model.scaled),
        "precision": precisions.to_dict(),
        "ranges": ranges.table.to_dict(),
        "shards": shards.fingerprint(),
    }
    digest = of_json(depends)
    path = engine.builds / "ranges" / f"{digest[:16]}.biases.json" if engine.builds is not None else None
    found = kept.kept(path, digest, KEPT, from_json) if path is not None else None
    if found is None:
        found = bias_correction.corrections(model, precisions, ranges.table, shards, batch=batch_of(engine))
        if path is not None:
            kept.keep(path, digest, KEPT, to_json(found))
    return found


def _given(file: RangesFile, precisions: PrecisionMap) -> Corrections:
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
