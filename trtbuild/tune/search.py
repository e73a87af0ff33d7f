"""The search: settings first, as they cost no speed; then pins, one after the other; then without each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trtbuild.progress import say
from trtbuild.ranges.error import typical
from trtbuild.recipe.tuned import Setting
from trtbuild.tune.findings import Findings, Judged, Measured, ranked
from trtbuild.tune.flips import flipped
from trtbuild.tune.journal import Journal
from trtbuild.tune.judge import Judge, Judgement
from trtbuild.tune.lab import Lab
from trtbuild.tune.sensitivity import Sensitivity
from trtbuild.tune.trial import Trial

METHODS = ("auto", "percentile:99.99", "minmax")
EQUALIZE = 0.5
CORRECTED = 2
"""Settings that are tried with biases corrected too."""
JUDGED = 3
"""Settings without pins that the gate judges."""
PINNED = 2
"""Settings that pins are searched for, one after the other, until one passes."""
CANDIDATES = 12
"""Nodes of either ranking that may be pinned."""
SCANNED = 16
FLIPPED = 32
"""Feeds of the draw for the scan, and for the choice of the next pin, which is measured on the whole draw."""
TRIED = 3
"""Nodes that are measured before it is said that none lowers the error."""


@dataclass(frozen=True)
class Limits:
    """most: nodes that may be pinned, the recipe's own among them. margin: go on until the gate passes with
    one. repairs: equalization and bias correction are tried where the recipe does not ask for them."""

    most: int
    margin: bool = True
    repairs: bool = True


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
        self._try(Trial(self._own), "the recipe without more pins")
        if not self._done:
            self._try_settings()
        for measured in ranked(self.findings.measured)[:PINNED]:
            if self._done:
                break
            self._try_pins(measured)
        self._try_without()
        self._sensitivity(self._best.trial.with_pins(()))
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
        """All on the draw, the best by the gate."""
        for setting in self._settings():
            self._measure(Trial(setting))
        if self._limits.repairs:
            for measured in ranked(self.findings.measured)[:CORRECTED]:
                self._measure(measured.trial.with_setting(bias_correction=True))
        for measured in ranked(self.findings.measured)[:JUDGED]:
            self._try(measured.trial, "a setting without pins")
            if self._done:
                return

    def _settings(self) -> Iterator[Setting]:
        """The recipe's first."""
        yield self._own
        amounts = (self._own.equalize, None, EQUALIZE) if self._limits.repairs else (self._own.equalize,)
        for equalize in dict.fromkeys(amounts):
            for method in dict.fromkeys((self._own.method, *METHODS)):
                setting = Setting(method=method, equalize=equalize)
                if setting != self._own and (equalize is None or self._lab.equalizes(setting)):
                    yield setting

    def _measure(self, trial: Trial) -> None:
        if all(trial != found.trial for found in self.findings.measured):
            measured = Measured(trial, self._errors(trial))
            say(f"{trial.setting}: typical error {measured.error:.3g}")
            self.findings.measured.append(measured)

    def _try_pins(self, measured: Measured) -> None:
        """The pin that lowers the error most, and again, until the gate passes or no more may be set."""
        now, left = measured, self._candidates(measured.trial)
        while left and not self._done:
            found = self._next(now, left)
            if found is None:
                say(f"{now.trial.setting}: no other pin within the budget lowers the error")
                return
            (node,) = set(found.trial.pins) - set(now.trial.pins)
            self._try(found.trial, f"+ {node}")
            now, left = found, [name for name in left if name != node]

    def _candidates(self, trial: Trial) -> list[str]:
        """Those nodes that do the most harm alone, and whose return to float helps most."""
        nodes = {node.node: node for node in self._sensitivity(trial).nodes}
        free = [name for name in self._lab.candidates() if name in nodes]
        harm = sorted(free, key=lambda name: -nodes[name].alone.nsr)
        help_ = sorted(free, key=lambda name: nodes[name].reverted.nsr if nodes[name].reverted else 0.0)
        chosen = {*harm[:CANDIDATES], *help_[:CANDIDATES]}
        return [name for name in free if name in chosen]

    def _next(self, now: Measured, nodes: Sequence[str]) -> Measured | None:
        """The trial with the one pin more that lowers the error most; None where none does."""
        errors = self._flipped(now.trial, nodes)
        trials = [self._lab.with_pin(now.trial, node) for node in sorted(errors, key=errors.__getitem__)]
        allowed = [trial for trial in trials if self._lab.precisions(trial).budgeted <= self._limits.most]
        found = (Measured(trial, self._errors(trial)) for trial in allowed[:TRIED])
        return next((measured for measured in found if measured.error < now.error), None)

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
        """Node -> the typical error with it in float too."""

        def measure() -> dict[str, float]:
            reference = self._lab.reference.first(FLIPPED)
            found = flipped(self._lab.base(trial), self._lab.flips(trial, nodes), reference)
            return {each.flip.node: typical(each.nsr) for each in found}

        of = {**trial.to_dict(), "nodes": list(nodes), "feeds": FLIPPED}
        return self._journal.recall("pins", of, measure, dict, dict)

    def _sensitivity(self, trial: Trial) -> Sensitivity:
        """Of every node in the trial's setting. That of the setting first asked for is part of the
        findings."""
        found = self._journal.recall(
            "sensitivity",
            {**trial.to_dict(), "feeds": SCANNED},
            lambda: self._lab.scan(trial, SCANNED),
            Sensitivity.to_dict,
            Sensitivity.from_dict,
        )
        self.findings.sensitivity = self.findings.sensitivity or found
        return found


def described(found: Judged) -> str:
    judgement = found.judgement
    drop = "" if judgement.drop is None else f", drop {judgement.drop:.4f}"
    interval = " (95 %: {:.4f} to {:.4f})".format(*judgement.interval) if judgement.interval else ""
    outcome = ("fails", "passes", "passes with a margin")[judgement.level]
    pins = "1 pin" if found.pinned == 1 else f"{found.pinned} pins"
    return f"{found.trial.setting}, {pins}: {judgement.figure:.4f}{drop}{interval}, {outcome}"
