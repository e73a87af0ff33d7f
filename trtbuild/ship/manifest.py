"""The manifest: everything that a build was made from and what came out, and the way back to a request."""

from __future__ import annotations

import datetime
from dataclasses import asdict
from pathlib import Path
from typing import Any

import trtbuild
from calibrators.errors import CalibratorError
from calibrators.table import RangeTable
from trtbuild.engine import Engine
from trtbuild.errors import InputError, one_line
from trtbuild.model.model import Model
from trtbuild.model.scaling import from_json, to_json
from trtbuild.precision.map import PrecisionMap
from trtbuild.recipe import InputSection
from trtbuild.rewrite import biases
from trtbuild.rewrite.equalize import restored
from trtbuild.ship import store
from trtbuild.ship.store import Build, Manifest
from trtbuild.targets.audit import Audit
from trtbuild.targets.base import Built, Request, Target


def key_of(request: Request, target: Target) -> str:
    """The key of the build that `request` leads to: it stands for everything that the manifest says."""
    return store.key_of(
        {
            "trtbuild": trtbuild.__version__,
            "model": request.model.sha256,
            "equalized": to_json(request.model.scaled),
            "precision": request.precisions.to_dict(),  # with its reasons, which the manifest shows
            "ranges": _ranges(None if request.calibration else request.table),
            "biases": biases.to_json(request.biases),
            "calibration": _calibration(request),
            "profiles": _profiles(request),
            "target": target.identity(request.recipe),
        }
    )


def compose(
    engine: Engine, request: Request, built: Built, audited: Audit, artifact: Path, key: str
) -> Manifest:
    """The manifest of what was built into `artifact`."""
    model = request.model
    return {
        "schema_version": store.SCHEMA_VERSION,
        "key": key,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(),
        "trtbuild": trtbuild.__version__,
        "engine": engine.name,
        "source": str((engine.folder if engine.builds else engine.model).resolve()),
        "model": {
            "path": str(model.path.resolve()),
            "sha256": model.sha256,
            "opset": model.normalisation.opset_before,
            "normalised_opset": model.normalisation.opset_after,
            "renamed_nodes": model.normalisation.renamed,
            "not_calibrated": model.unrunnable,
            "quantized": model.quantized,
            "equalized": to_json(model.scaled),
        },
        "target": built.facts,
        "precision": request.precisions.to_dict(),
        "ranges": _ranges(built.table or request.table),
        "biases": biases.to_json(request.biases),
        "calibration": _calibration(request),
        "profiles": _profiles(request),
        "audit": audited.to_dict(),
        "layers": [vars(layer) for layer in built.layers],
        "artifact": store.describe(artifact),
    }


def request_of(build: Build, engine: Engine, model: Model) -> Request:
    """The request that a stored build was made from. Raises InputError when its manifest is damaged.

    model: the file, opened; in the request it is equalized where the build's was.
    """
    manifest = build.manifest
    try:
        return Request(
            model=restored(model, from_json(manifest["model"].get("equalized", {}))),
            precisions=PrecisionMap.from_dict(manifest["precision"]),
            table=RangeTable.from_dict(manifest["ranges"]) if manifest["ranges"] else None,
            profiles={name: InputSection(**shapes) for name, shapes in manifest["profiles"].items()},
            recipe=engine.recipe,
            biases=biases.from_json(manifest.get("biases", {})),
        )
    except (KeyError, TypeError, AttributeError, ValueError, CalibratorError, InputError) as error:
        raise build.damaged(f"{type(error).__name__}: {one_line(error)}") from error


def _ranges(table: RangeTable | None) -> dict[str, Any] | None:
    return table.to_dict() if table else None


def _calibration(request: Request) -> dict[str, Any] | None:
    """How TensorRT itself found the ranges, if it did."""
    calibration = request.calibration
    return {"algorithm": calibration.algorithm, **asdict(calibration.key)} if calibration else None


def _profiles(request: Request) -> dict[str, Any]:
    return {name: shapes.model_dump() for name, shapes in request.profiles.items()}
