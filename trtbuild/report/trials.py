"""What a document of `tune` says of its trials: which count, what is drawn of them, and in which words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from trtbuild.report.axis import Axis, nice
from trtbuild.tune.document import best_of
from trtbuild.tune.trial import OWN

Document = Mapping[str, Any]
Trial = Mapping[str, Any]

LEAST_SQNR = "least SQNR of the outputs"
"""The figure where there is no metric."""
FAR = 5
"""Times that what counts spans, below the lowest of it: see `figures_axis`."""
SIMILAR = 0.1
"""Ranks no farther apart than this share of all nodes (or one) say the same."""


def front_of(document: Document) -> list[Trial]:
    """From the fewest pins to the most."""
    front = [trial for trial in document["trials"] if trial["front"]]
    return sorted(front, key=lambda trial: (trial["pinned"], trial["number"]))


def telling(document: Document) -> list[Trial]:
    """The front, the best and the recipe as it stands, each once, from the fewest pins to the most."""
    shown = [trial for trial in document["trials"] if counts(document, trial) or trial["why"] == OWN]
    return sorted(shown, key=lambda trial: (trial["pinned"], trial["number"]))


def gate_of(trial: Trial) -> str:
    return ("passed with margin" if trial["margin"] else "passed") if trial["passed"] else "failed"


def metric_of(document: Document) -> str:
    """What `figure` is."""
    return document["metric"] or f"{LEAST_SQNR}, dB"


def figure_text(document: Document, value: float | None) -> str:
    return fixed(value, 4 if document["metric"] else 1)


def fixed(value: float | None, digits: int = 4) -> str:
    """Nothing of magnitude 0 gets a sign."""
    return "-" if value is None else f"{round(value, digits) + 0.0:.{digits}f}"


def interval_text(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else f"{fixed(interval[0])} to {fixed(interval[1])}"


def error_text(value: float | None) -> str:
    """A noise-to-signal ratio; in the document null stands for infinite."""
    return "infinite" if value is None else f"{value:.3g}"


def error_without_text(pin: Mapping[str, Any]) -> str:
    """Null stands for infinite here too, but where the search did not judge the best without this pin."""
    judged = pin["error_without"] is not None or pin["figure_without"] is not None
    return error_text(pin["error_without"]) if judged else "-"


def sqnr_text(nsr: float | None) -> str:
    """The same in dB of signal to noise."""
    if nsr is None:
        return "no signal"
    return f"{-10 * math.log10(nsr):.1f}" if nsr > 0 else "equal"


def headline(document: Document) -> str:
    """What came out, in one line: everything that comes after the outcome itself."""
    best = best_of(document)
    lost = ""
    if best["drop"] is not None:
        sure = f", 95 %: {interval_text(best['interval'])}" if best["interval"] else ""
        lost = (
            f" against the golden's {fixed(document['golden'])} "
            f"(lost {fixed(best['drop'])}{sure}; at most {document['max_drop']:g})"
        )
    figure = figure_text(document, best["figure"])
    figure = f"{document['metric']} {figure}" if document["metric"] else f"{LEAST_SQNR} {figure} dB"
    return f"{figure}{lost}, {pinned_text(document, best)}, {best['label']}"


def pinned_text(document: Document, trial: Trial) -> str:
    own = f", {document['own_pins']} of them by the recipe" if document["own_pins"] else ""
    return f"{trial['pinned']} of {document['lowerable']} nodes pinned ({trial['share']:.1%}{own})"


def budget_text(document: Document) -> str | None:
    if document["most_pins"] is None:
        return None
    share = "" if document["budget"] is None else f" ({document['budget']:.1%} of {document['lowerable']})"
    return f"budget: {document['most_pins']} pinned nodes{share}"


def limits_of(document: Document) -> dict[str, float]:
    """The lines that figures are held against, by what they are; none without a metric."""
    if document["golden"] is None:
        return {}
    return {"golden": document["golden"], "gate": document["golden"] - document["max_drop"]}


def counts(document: Document, trial: Trial) -> bool:
    return bool(trial["front"] or trial["number"] == document["best"])


def figures_axis(document: Document, most: int, *, intervals: bool) -> Axis | None:
    """The scale of the figures; None where no trial has one. What counts (the front, the best, the limits) is
    on it, with its intervals if so asked, and of all trials three quarters at least; left out are those `FAR`
    below: a method that ruins everything must not squeeze the rest."""
    drawn = [trial for trial in document["trials"] if trial["figure"] is not None]
    if not drawn:
        return None
    counting = [trial for trial in drawn if counts(document, trial)]
    anchors = [*(trial["figure"] for trial in counting), *limits_of(document).values()]
    figures = sorted(trial["figure"] for trial in drawn)
    lowest = figures[len(figures) // 4]
    if anchors:
        lowest = min(lowest, min(anchors) - FAR * (max(anchors) - min(anchors)))
    ends = [
        document["golden"] - lost for trial in counting for lost in (trial["interval"] or ()) if intervals
    ]
    return Axis.around([*anchors, *ends, *(figure for figure in figures if figure >= lowest)], most)


def pins_axis(document: Document, most: int) -> Axis:
    """The scale of the pinned nodes: whole numbers, at most `most` steps."""
    pinned = [trial["pinned"] for trial in document["trials"]]
    span = max(pinned) - min(pinned)
    step = max(1, round(nice(span / (most - 1)))) if span else 1
    low = min(pinned) // step * step
    return Axis(low, max(math.ceil(max(pinned) / step) * step, low + step), step)


def is_certain(sensitivity: Mapping[str, Any], ranks: tuple[int, int], nodes: int) -> bool:
    """Whether both halves of the samples put a node at about the same rank of so many. Where their rankings
    cannot be compared, as with one sample, they confirm nothing."""
    return sensitivity["agreement"] is not None and abs(ranks[0] - ranks[1]) <= max(1, SIMILAR * nodes)
