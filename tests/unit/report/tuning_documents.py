"""Documents of `tune` as a search makes them, for the tests of what is shown of them."""

from __future__ import annotations

import math
from typing import Any

Document = dict[str, Any]
NODES = 51
GOLDEN, MAX_DROP = 0.985, 0.01
SETTINGS = (
    *(("auto", 0.5, False), ("auto", 0.5, True), ("auto", None, False), ("percentile:99.99", 0.5, False)),
    *(("percentile:99.99", None, False), ("minmax", 0.5, False), ("minmax", None, False)),
)
ORDER = (5, 3, 1, 7, 2, 27, 9, 12)
"""The convolutions that the search pins, one after the other."""


def label(method: str, equalize: float | None, corrected: bool) -> str:
    return ", ".join([method, *["equalized"] * (equalize is not None), *["biases corrected"] * corrected])


def trial(number: int, pins: list[str], figure: float, **given: Any) -> Document:
    """One of a search with a metric; all that follows from its figure does."""
    method, equalize, corrected = given.pop("setting", SETTINGS[0])
    drop = GOLDEN - figure
    interval = [drop - 0.0125, drop + 0.0075]
    passed = drop <= MAX_DROP
    failing = f"metric metric.py:exact_match: seen {figure:.4f}, wanted at least {GOLDEN - MAX_DROP:g}"
    return {
        **{"number": number, "method": method, "equalize": equalize, "bias_correction": corrected},
        **{"label": label(method, equalize, corrected), "pins": pins, "pinned": len(pins)},
        **{"share": len(pins) / NODES, "error": 0.002 * 0.7 ** len(pins), "figure": figure, "drop": drop},
        **{"interval": interval, "passed": passed, "margin": interval[1] <= MAX_DROP},
        **{"failing": [] if passed else [failing], "why": "best setting", "front": False, **given},
    }


def measure(nsr: float | None, score: float | None = None) -> Document:
    halves = None if nsr is None else nsr * 1.25
    return {"nsr": nsr, "kl": nsr and nsr * 12, "halves": [nsr and nsr * 0.8, halves], "score": score}


def sensitive(rank: int, node: str, **given: Any) -> Document:
    nsr = 0.04 / rank**1.5
    return {
        **{"node": node, "op_type": "Conv" if "Conv" in node else "MatMul", "rank": rank, "pinned": False},
        "ranks_of_halves": [rank, max(1, rank + (3 if rank % 4 == 0 else -1))],
        "alone": measure(nsr, 0.97),
        **{"activations": measure(nsr * 0.97), "weights": measure(nsr * 0.02)},
        **{"reverted": measure(0.12 - nsr, 0.93), **given},
    }


def tuned() -> Document:
    """A search on ocr-rec: settings, then eight pins one by one, then the drop of those that are useless."""
    figures = (0.8375, 0.9175, 0.93, 0.945, 0.94, 0.9575, 0.97, 0.9775, 0.985)
    trials = [trial(1, [], 0.7, setting=SETTINGS[6], why="the recipe without more pins", error=None)]
    trials += [trial(2 + i, [], 0.83 - i / 50, setting=SETTINGS[i + 1]) for i in range(3)]
    pins = [f"p2o.Conv.{index}" for index in ORDER]
    for count, figure in enumerate(figures):
        why = f"+ {pins[count - 1]}" if count else "best setting"
        trials.append(trial(len(trials) + 1, pins[:count], figure, why=why))
    for left, figure in (("p2o.Conv.3", 0.9875), ("p2o.Conv.7", 0.9925)):
        pins = [name for name in pins if name != left]
        trials.append(trial(len(trials) + 1, pins, figure, why=f"without {left}"))
    for row in trials:
        row["front"] = all(
            row["figure"] > other["figure"] or row is other
            for other in trials
            if other["pinned"] <= row["pinned"]
        )
    best = trials[-1]
    assert (best["pinned"], best["front"], best["margin"]) == (6, True, True)
    return {
        **{"engine": "ocr-rec", "target": "onnxruntime"},
        "model": {"path": "model.onnx", "sha256": "ab" * 32},
        **{"samples": {"gate": 400, "draw": 64, "seed": 0}, "metric": "metric.py:exact_match"},
        **{"golden": GOLDEN, "max_drop": MAX_DROP, "lowerable": NODES, "own_pins": 0, "budget": 0.2},
        **{"most_pins": 10, "outcome": "passed with margin", "best": best["number"], "interrupted": False},
        "trials": trials,
        "settings": [
            {"label": label(*s), "method": s[0], "equalize": s[1], "bias_correction": s[2], "error": error}
            for s, error in zip(SETTINGS, (0.0015, 0.0016, 0.0021, 0.008, 0.011, 0.09, None), strict=True)
        ],
        "pins": [
            {
                **{"node": name, "op_type": "Conv"},
                **{"error": best["error"], "error_without": 0.003 + 1e-4 * n},
                **{"figure": best["figure"], "figure_without": 0.955 + n / 400, "latency_ms": None},
                "reason": f"tune: without it exact_match is {0.955 + n / 400:.4f}",
            }
            for n, name in enumerate(best["pins"])
        ],
        "sensitivity": {
            **{"samples": 16, "agreement": 0.93},
            **{"metric": "metric.py:exact_match", "all": measure(0.12, 0.91)},
            "nodes": [
                sensitive(rank, f"p2o.Conv.{index}" if index < 38 else f"p2o.MatMul.{index - 38}")
                for rank, index in enumerate([*ORDER, *(i for i in range(NODES) if i not in ORDER)], 1)
            ],
        },
        "engines": [],
        "given": [],
        "written": "engines/ocr-rec/tuned.toml",
    }


def without_metric() -> Document:
    """The figure is the least SQNR of the outputs, in dB: no golden's figure, nothing lost, no interval."""
    document = tuned()
    for row in document["trials"]:
        row |= {"figure": 20 - 10 * math.log10(1 - row["figure"]), "drop": None, "interval": None}
    for pin in document["pins"]:
        pin |= {"figure": 36.5, "figure_without": 33.0}
    return {**document, "metric": None, "golden": None, "max_drop": None, "outcome": "passed"}


def single(**given: Any) -> Document:
    """The recipe passes as it is: one trial."""
    only = {**trial(1, [], 0.9925, why="the recipe without more pins", front=True), **given}
    gate = "failed" if not only["passed"] else "passed with margin" if only["margin"] else "passed"
    nothing: Document = {"settings": [], "pins": [], "sensitivity": None, "engines": [], "written": None}
    return {**tuned(), "trials": [only], "best": 1, "outcome": gate, **nothing}


def explained(**given: Any) -> Document:
    """What `--explain` has of the first node of the ranking."""
    found = tuned()["sensitivity"]
    nothing = {"channels": None, "spread": None}
    inputs = [
        {"tensor": "hardswish_1.tmp_0", "constant": False, "amax": 3.1, "method": "percentile:99.99"}
        | {"channels": 120, "spread": 380.0},
        {"tensor": "conv2d_5.w_0", "constant": True, "amax": 0.75, "method": None, **nothing},
    ]
    node = {**found["nodes"][0], "inputs": inputs, "precision": "int8", "reason": "default", **given}
    seen = {key: found[key] for key in ("samples", "agreement", "all", "metric")}
    return {"engine": "ocr-rec", "node": node, "sensitivity": seen, "of": NODES}
