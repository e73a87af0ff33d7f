"""How well recognised lines agree with their labels: one sample at a time, 1 is best."""

import functools
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

import numpy as np
import onnx

MODEL = Path(__file__).with_name("model.onnx")
BLANK = 0


def exact_match(outputs: Mapping[str, np.ndarray], label: str) -> tuple[float, float]:
    """Whether the line is right, and how sure the model is: the largest probability, mean over time."""
    (probabilities,) = outputs.values()
    return float(decode(outputs) == label), float(probabilities.max(axis=2).mean())


def character_accuracy(outputs: Mapping[str, np.ndarray], label: str) -> float:
    """1 - edit distance / length of the label, at least 0."""
    return max(0.0, 1 - edit_distance(decode(outputs), label) / len(label))


def decode(outputs: Mapping[str, np.ndarray]) -> str:
    """Greedy CTC on the only output, (1, time, classes): one of each run of equal classes, no blanks."""
    (probabilities,) = outputs.values()
    (classes,) = probabilities.argmax(axis=2).tolist()
    return "".join(character_set()[index] for index, _ in groupby(classes) if index != BLANK)


@functools.cache
def character_set() -> list[str]:
    """Class index -> character: the blank, what the model's metadata lists, the space."""
    model = onnx.load(MODEL, load_external_data=False)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return ["", *metadata["character"].splitlines(), " "]


def edit_distance(a: str, b: str) -> int:
    """Levenshtein's: insertions, deletions and substitutions from a to b."""
    row = list(range(len(b) + 1))
    for i, char_a in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, char_b in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (char_a != char_b))
    return row[-1]
