"""When a validation loss has stopped falling: lower the learning rate, then end."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum

__all__ = ["Stopping", "StoppingRule", "Verdict"]


class Verdict(Enum):
    """What to do after a validation."""

    BEST = "best"
    CONTINUE = "continue"
    LOWER_RATE = "lower rate"
    STOP = "stop"


@dataclass(frozen=True)
class StoppingRule:
    """Patience and what happens when it ends."""

    patience_steps: int
    """Optimiser steps without improvement; at least `minimum_checks` validations go by too."""
    rate_drops: int
    """Times that the learning rate falls, from the best weights, before the fit ends."""
    minimum_gain: float = 0.0
    """Share of the loss by which it must fall for patience to start anew; any smaller improvement
    still becomes the best."""
    minimum_checks: int = 2


@dataclass(frozen=True)
class Stopping:
    """State of early stopping; immutable, so that a checkpoint can hold it."""

    best: float = math.inf
    best_epoch: int = -1
    reference: float = math.inf
    """Loss that the next improvement must beat by `minimum_gain`."""
    patient_since: int = 0
    """Step at which patience last started anew."""
    checks: int = 0
    """Validations since then."""
    drops: int = 0

    def check(
        self, rule: StoppingRule, value: float, *, epoch: int, step: int
    ) -> tuple[Stopping, Verdict]:
        """Take note of a validation loss; return the new state and what to do."""
        is_best = value < self.best
        now = replace(self, best=value, best_epoch=epoch) if is_best else self
        gain = rule.minimum_gain * abs(self.reference) if math.isfinite(self.reference) else 0.0
        if value < self.reference - gain:
            return replace(now, reference=value, patient_since=step, checks=0), Verdict.BEST
        now = replace(now, checks=now.checks + 1)
        waited = step - now.patient_since
        if waited >= rule.patience_steps and now.checks >= rule.minimum_checks:
            if now.drops >= rule.rate_drops:
                return now, Verdict.STOP
            lowered = replace(
                now, drops=now.drops + 1, reference=now.best, patient_since=step, checks=0
            )
            return lowered, Verdict.LOWER_RATE
        return now, Verdict.BEST if is_best else Verdict.CONTINUE
