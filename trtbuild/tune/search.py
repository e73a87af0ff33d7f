"""The search: settings first, as they cost no speed; then pins, one after the other; then without each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from trtbuild.golden.metric_file import Metric
from trtbuild.progress import say
from trtbuild.ranges.error import clearly_less, harm
from trtbuild.recipe.tuned import Setting
from trtbuild.tune.findings import Findings, Judged, Measured, ranked
from trtbuild.tune.flips import flipped
from trtbuild.tune.journal import Journal
from trtbuild.tune.judge import Judge, Judgement
from trtbuild.tune.lab import Lab
from trtbuild.tune.latency import Latencies
from trtbuild.tune.sensitivity import Sensitivity
from trtbuild.tune.trial import OWN, Trial

METHODS = ("auto", "percentile:99.99", "minmax")
EQUALIZE = 0.5
CORRECTED = 2
"""Settings that are tried with biases corrected too."""
JUDGED = 3
"""Settings without pins that the gate judges."""
RACING = 6
"""Settings that pins are searched for at once: the one that is best without pins need not be so with two."""
JUDGED_A_ROUND = 2
SCANNED = 8
"""Feeds of the draw for the scan: on ocr-rec they rank the nodes as 64 do, but for one in fifty draws."""
FLIPPED = 16
"""Feeds for the choice of the next pin, which is measured on the whole draw."""
LEFT = 24
"""Nodes that may be the next pin, after the first: those that would have helped most before."""
MEASURED = 2
"""Of these, how many are measured on the whole draw."""


@dataclass(frozen=True)
class Limits:
    """most: nodes that may be pinned, the recipe's own among them. margin: go on until the gate passes with
    one. repairs: equalization and bias correction are tried where the recipe does not ask for them.
    latencies: what pins cost; most_ms: what all may cost; by_latency: the next pin is the one that lowers the
    error most for what it costs. score: the metric, where the sensitivity of nodes is to tell it too."""

    most: int
    margin: bool = True
    repairs: bool = True
    latencies: Latencies | None = None
    most_ms: float = math.inf
    by_latency: bool = False
    score: Metric | None = None


_TINY = 1e-12
_SHORTEST_MS = 1e-4
"""Costs below count as this: one of nothing would make every gain infinite."""


class _Racer(NamedTuple):
    """A setting with the pins so far, and what may be the next."""

    now: Measured
    left: Sequence[str]


class Search:
    """One search over one engine. It is decided by the seed of the draw and what was measured, which goes
    through the journal. `findings` grows while `run` runs: whoever interrupts it has them."""

    def __init__(self, lab: Lab, judge: Judge, journal: Journal, own: Setting, limits: Limits) -> None:
        """own: the recipe's."""
        self._lab, self._judge, self._journal = lab, judge, journal
        self._own, self._limits = own, limits
        self.findings = Findings()

    def run(self) -> Findings:
        """Raises what calibrating, running and scoring raise."""
        self._try(Trial(self._own), OWN)
        if not self._done:
            self._try_settings()
        if not self._done:
            self._try_pins()
        self._try_without()
        return self.findings

    @property
    def _best(self) -> Judged:
        best = self.findings.best
        assert best is not None, "the recipe as it is was judged first"
        return best

    @property
    def _done(self) -> bool:
        judgement = self._best.judgement
        return judgement.margin if self._limits.margin else judgement.passed

    def _try_settings(self) -> None:
        """All on the draw, the best by the gate. Biases are corrected last: that costs most to find, and what
        it takes off the error shows in the metric least."""
        for setting in self._settings():
            self._measure(Trial(setting))
        best = ranked(self.findings.measured)
        for measured in best[:JUDGED]:
            self._try(measured.trial, "a setting without pins")
            if self._done:
                return
        for measured in best[: CORRECTED if self._limits.repairs else 0]:
            self._try_corrected(measured, "a setting without pins")
            if self._done:
                return

    def _settings(self) -> Iterator[Setting]:
        """The recipe's first."""
        yield self._own
        amounts = (self._own.equalize, None, EQUALIZE) if self._limits.repairs else (self._own.equalize,)
        for equalize in dict.fromkeys(amounts):
            for method in dict.fromkeys((self._own.method, *METHODS)):
                setting = Setting(method=method, equalize=equalize)
                if equalize is not None and not self._lab.equalizes(setting):
                    break  # nor would it with another method
                if setting != self._own:
                    yield setting

    def _measure(self, trial: Trial) -> None:
        """A setting that leads to the same model as an earlier one is left out."""
        digest = self._digest(trial.setting)
        same = [found for found in self.findings.measured if self._digest(found.trial.setting) == digest]
        if same:
            say(f"{trial.setting}: the same as {same[0].trial.setting}")
            return
        measured = Measured(trial, self._errors(trial))
        say(f"{trial.setting}: typical error {measured.error:.3g}")
        self.findings.measured.append(measured)

    def _digest(self, setting: Setting) -> str:
        return self._journal.recall(
            "ranges", setting.model_dump(), lambda: self._lab.ranges_digest(setting), str, str
        )

    def _try_pins(self) -> None:
        """Each setting gets the pin that lowers its error most, and again, until the gate passes one of them
        or no more may be set. From time to time the worse half is left behind."""
        found = [each for each in ranked(self.findings.measured) if not each.trial.setting.bias_correction]
        own = [each for each in self.findings.measured if each.trial.setting == self._own]
        first = list({each.trial: each for each in [*own, *found[:RACING]]}.values())
        racing = [_Racer(each, self._lab.candidates) for each in first]
        while racing := [further for each in racing if (further := self._further(each)) is not None]:
            racing.sort(key=lambda each: each.now.harm)
            for place, each in enumerate(racing[:JUDGED_A_ROUND]):
                why = "a pin" if len(each.now.trial.pins) == 1 else f"{len(each.now.trial.pins)} pins"
                self._try(each.now.trial, why)
                if place == 0 and self._limits.repairs and not self._done:
                    self._try_corrected(each.now, why)
                if self._done:
                    return
            if len(racing[0].now.trial.pins) % 2 == 0:
                racing = racing[: max(JUDGED_A_ROUND, len(racing) // 2)]
        say("no more pins: the budget is used up")

    def _try_corrected(self, found: Measured, why: str) -> None:
        """With biases corrected, where that clearly brings the outputs nearer."""
        trial = found.trial.with_setting(bias_correction=True)
        if trial != found.trial and clearly_less(self._errors(trial), found.errors):
            self._try(trial, f"{why}, biases corrected")

    def _further(self, racer: _Racer) -> _Racer | None:
        """With one pin more; None where none is allowed. It need not lower the error: the one after it may,
        and in the end those go that are not needed."""
        now, left = racer
        trials = {node: self._lab.with_pin(now.trial, node) for node in left}
        allowed = [node for node in left if self._allowed(trials[node])]
        if not allowed:
            return None
        errors = self._flipped(now.trial, allowed)
        order = sorted(errors, key=lambda node: -self._gain(now, trials[node], errors[node]))
        measured = [Measured(trials[node], self._errors(trials[node])) for node in order[:MEASURED]]
        best = max(measured, key=lambda each: self._gain(now, each.trial, each.harm))
        say(f"{best.trial.setting}, {' + '.join(best.trial.pins)}: typical error {best.error:.3g}")
        left = [node for node in order[:LEFT] if node not in best.trial.pins]
        return _Racer(best, left or [node for node in self._lab.candidates if node not in best.trial.pins])

    def _allowed(self, trial: Trial) -> bool:
        fits = self._lab.precisions(trial).budgeted <= self._limits.most
        return fits and self.cost_of(trial) <= self._limits.most_ms

    def _gain(self, now: Measured, trial: Trial, error: float) -> float:
        """By what factor a pin lowers the error, as a logarithm; by latency, of each millisecond."""
        gain = math.log(max(now.harm, _TINY)) - math.log(max(error, _TINY))
        if not self._limits.by_latency or gain <= 0:
            return gain
        return gain / max(self.cost_of(trial) - self.cost_of(now.trial), _SHORTEST_MS)

    def cost_of(self, trial: Trial) -> float:
        """Milliseconds that the trial's pins cost, as far as that was measured."""
        latencies = self._limits.latencies
        return latencies.cost_of(trial.pins) if latencies is not None else 0.0

    def _try_without(self) -> None:
        """The best trial without each of its pins, until none can go."""
        best = None
        while best != self._best:
            best = self._best
            for node in best.trial.pins:
                self._try(best.trial.without(node), f"without {node}")

    def _try(self, trial: Trial, why: str) -> None:
        """Have the gate judge the trial, once."""
        if self.findings.of(trial) is not None:
            return
        errors = self._errors(trial)
        judgement = self._journal.recall(
            "judgement",
            trial.to_dict(),
            lambda: self._judge.judge(self._lab.side(trial), self._lab.precisions(trial)),
            Judgement.to_dict,
            Judgement.from_dict,
        )
        pinned = self._lab.precisions(trial).budgeted
        found = Judged(trial, errors, len(self.findings.judged) + 1, pinned, why, judgement)
        self.findings.judged.append(found)
        say(f"trial {found.number}, {why}: {described(found)}")

    def _errors(self, trial: Trial) -> tuple[float, ...]:
        return self._journal.recall(
            "errors",
            trial.to_dict(),
            lambda: self._lab.errors(trial),
            list,
            lambda found: tuple(map(float, found)),
        )

    def _flipped(self, trial: Trial, nodes: Sequence[str]) -> dict[str, float]:
        """Node -> the harm done with it in float too."""

        def measure() -> dict[str, float]:
            reference = self._lab.reference.first(FLIPPED)
            found = flipped(self._lab.base(trial), self._lab.flips(trial, nodes), reference)
            return {each.flip.node: harm(each.nsr) for each in found}

        of = {**trial.to_dict(), "nodes": list(nodes), "feeds": FLIPPED}
        return self._journal.recall("pins", of, measure, dict, dict)


def sensitivity(lab: Lab, journal: Journal, trial: Trial, score: Metric | None) -> Sensitivity:
    """Of every node, with the setting of the trial. score: what each is to be scored with too."""
    return journal.recall(
        "sensitivity",
        {**trial.to_dict(), "feeds": SCANNED, "score": score.name if score else None},
        lambda: lab.scan(trial, SCANNED, score),
        Sensitivity.to_dict,
        Sensitivity.from_dict,
    )


def described(found: Judged) -> str:
    judgement = found.judgement
    drop = "" if judgement.drop is None else f", drop {judgement.drop:.4f}"
    interval = " (95 %: {:.4f} to {:.4f})".format(*judgement.interval) if judgement.interval else ""
    outcome = ("fails", "passes", "passes with a margin")[judgement.level]
    pins = "1 pin" if found.pinned == 1 else f"{found.pinned} pins"
    return f"{found.trial.setting}, {pins}: {judgement.figure:.4f}{drop}{interval}, {outcome}"
