"""Whether the most probable file type is the labelled one."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

LABELS = Path(__file__).with_name("labels.json")


def top1(outputs: Mapping[str, np.ndarray], label: str) -> tuple[float, float]:
    """Whether it is, and how sure the model is of that type."""
    (probabilities,) = outputs.values()
    return float(labels()[int(probabilities.argmax())] == label), float(probabilities.max())


@functools.cache
def labels() -> list[str]:
    """Class index -> file type, as prepare.py found it beside the packaged model."""
    names: list[str] = json.loads(LABELS.read_text())
    return names
