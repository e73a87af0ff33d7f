"""Lines of text for the benchmarks of ocr-rec, as its prepare.py renders them, from other seeds."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

ENGINE = Path("engines/ocr-rec")
PER_SHARD = 16


def render(folder: Path, count: int, seed: int) -> dict[str, str]:
    """Write shards of PER_SHARD lines into `folder`; returns what they say, by sample name."""
    prepare = _prepare()
    fonts = [
        prepare.packaged(package, f"files/{name}")
        for package, names in prepare.FONTS.items()
        for name in names
    ]
    random = np.random.default_rng(seed)
    folder.mkdir()
    labels: dict[str, str] = {}
    for start in range(0, count, PER_SHARD):
        stem = f"{start // PER_SHARD:04}"
        lines = [prepare.draw_line(fonts, random) for _ in range(min(PER_SHARD, count - start))]
        np.savez(folder / f"{stem}.npz", x=np.stack([prepare.network_input(image) for image, _ in lines]))
        labels |= {f"{stem}:{row}": text for row, (_, text) in enumerate(lines)}
    return labels


def _prepare() -> Any:
    spec = importlib.util.spec_from_file_location("prepare", ENGINE / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    prepare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prepare)
    return prepare
