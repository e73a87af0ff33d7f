"""How well a text detector marks the lines of a page: one page at a time, 1 is best."""

from collections.abc import Mapping, Sequence

import numpy as np

THRESHOLD = 0.3
"""Above it PP-OCR counts a pixel as text."""


def pixel_f1(outputs: Mapping[str, np.ndarray], label: Sequence[Sequence[float]]) -> float:
    """The F1 score of the pixels of the only output, (1, 1, height, width). label: the boxes that hold text,
    (left, top, right, bottom) in pixels."""
    (probabilities,) = outputs.values()
    found = probabilities[0, 0] > THRESHOLD
    wanted = np.zeros(found.shape, dtype=bool)
    for left, top, right, bottom in label:
        wanted[round(top) : round(bottom), round(left) : round(right)] = True
    both = int((found & wanted).sum())
    return 2 * both / max(1, int(found.sum()) + int(wanted.sum()))
