"""Tests of a verdict that may stop after any trial without inflating their error: rates, means, identities.

Every test here is a non-negative supermartingale under its null hypothesis, started at 1: a gambler's wealth in a game
that is fair or worse. Ville's inequality: the probability that the wealth *ever* reaches 1/level is at most `level`. So
a claim is refuted as soon as the wealth against it reaches 1/level, supported as soon as the wealth against its
contrary reaches 1/(1 - CONFIDENCE), and both may be looked at after every trial. Sources: Ville 1939; Robbins 1970;
Howard, Ramdas, McAuliffe, Sekhon 2021 (confidence sequences); Wang, Ramdas 2023 (Catoni-style confidence sequences).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import Any, Literal, Protocol

import numpy as np
import scipy
from numpy.typing import ArrayLike

CONFIDENCE = 0.99
"""Of every limit that is reported, each on its own side."""
SUPPORT = -math.log1p(-CONFIDENCE)
"""Log wealth that rules a hypothesis out with CONFIDENCE."""

Outcome = Literal["supported", "refuted", "undecided", "vacuous"]
Side = Literal["above", "below"]

_FOREVER = 10**9  # trials after which a decision is not worth announcing
_BETS = 2.0 ** -np.arange(8)  # of a mean test: each detects deviations of its size, in standard deviations per trial


class SequentialTest(Protocol):
    """What the tests below have in common; `update` takes one more trial."""

    trials: int
    failures: int

    def update(self, measured: float, bound: float, scale: float) -> None: ...
    @property
    def p_value(self) -> float: ...
    @property
    def outcome(self) -> Outcome: ...
    def limits(self) -> tuple[float, float]: ...
    def reason(self) -> str: ...


# --------------------------------------------------------------------------------------------------------------- rates
def log_wealth(failures: ArrayLike, trials: ArrayLike, p: ArrayLike, against: Side) -> Any:
    """Log of the beta-binomial mixture martingale against a hypothesis on a failure rate.

    `against="below"` tests `rate <= p` with bets on rates above `p`; `against="above"` tests `rate >= p` with bets
    below. The mixture over the alternatives is Jeffreys' prior Beta(1/2, 1/2) cut to their side of `p`. With theta on
    that side, E[(theta/p)^x ((1-theta)/(1-p))^(1-x)] <= 1 whenever the hypothesis holds, so each term is a
    supermartingale, and so is the mixture. Vectorised; real counts are allowed.
    """
    k, t, p = np.asarray(failures), np.asarray(trials), np.asarray(p)
    a, b = k + 0.5, t - k + 0.5  # the posterior of Jeffreys' prior
    mass = scipy.special.betaincc if against == "below" else scipy.special.betainc  # of the alternatives' side of p
    with np.errstate(divide="ignore"):  # no mass left there: far from the data, and a wealth of 0
        evidence = scipy.special.betaln(a, b) + np.log(mass(a, b, p))
    prior = scipy.special.betaln(0.5, 0.5) + np.log(mass(0.5, 0.5, p))
    return evidence - prior - scipy.special.xlogy(k, p) - scipy.special.xlog1py(t - k, -p)


def rate_limits(failures: int, trials: int) -> tuple[float, float]:
    """Lower and upper limit of a failure rate, each valid at all times at once with probability CONFIDENCE.

    The rates that `log_wealth` has not ruled out. Wider than Clopper and Pearson's limits, which hold only for a
    number of trials fixed in advance.
    """
    smallest, largest = 1e-300, 1 - 1e-16
    rate = min(max(failures / trials, smallest), largest) if trials else 0.5

    def limit(against: Side, edge: float) -> float:
        def excess(p: float) -> Any:
            return log_wealth(failures, trials, p, against) - SUPPORT

        return float(scipy.optimize.brentq(excess, rate, edge, xtol=1e-15))

    lower = limit("below", smallest) if log_wealth(failures, trials, smallest, "below") > SUPPORT else 0.0
    upper = limit("above", largest) if log_wealth(failures, trials, largest, "above") > SUPPORT else 1.0
    return lower, upper


def trials_to_decide(failures: int, trials: int, p: float, level: float) -> int | None:
    """Trials after which `ProbabilityTest` would decide if the observed rate persisted; None for 10^9 and more."""
    if trials == 0:
        return None
    rate = failures / trials
    against: Side = "below" if rate > p else "above"
    target = -math.log(level) if rate > p else SUPPORT
    horizon = range(trials, _FOREVER)
    waiting = bisect_left(horizon, True, key=lambda t: bool(log_wealth(rate * t, t, p, against) >= target))
    return horizon[waiting] if waiting < len(horizon) else None


class ProbabilityTest:
    """Test of "the failure rate is at most `p`"; a trial fails when not `measured <= bound` (NaN fails).

    The p-value is 1 over the highest wealth so far of the beta-binomial mixture (`log_wealth`). Refuted when it is at
    most `level`, supported when the upper limit of the rate is at most `p`. Error rates: refuted although the rate is
    `p` or less, at most `level`; supported although it is above `p`, at most 1 - CONFIDENCE.
    """

    def __init__(self, p: float, level: float) -> None:
        if not 0 < p < 1:
            raise ValueError(f"p must lie strictly between 0 and 1, got {p}")
        self.p, self.level = p, level
        self.trials = self.failures = 0
        self._against = self._for = 0.0  # highest log wealth so far against `rate <= p`, and against `rate >= p`

    def update(self, measured: float, bound: float, scale: float = 1.0) -> None:
        self.trials += 1
        self.failures += not measured <= bound
        self._against = max(self._against, float(log_wealth(self.failures, self.trials, self.p, "below")))
        self._for = max(self._for, float(log_wealth(self.failures, self.trials, self.p, "above")))

    @property
    def p_value(self) -> float:
        return math.exp(-self._against)

    @property
    def outcome(self) -> Outcome:
        if self.p_value <= self.level:
            return "refuted"
        return "supported" if self._for >= SUPPORT else "undecided"

    def limits(self) -> tuple[float, float]:
        return rate_limits(self.failures, self.trials)

    def reason(self) -> str:
        counts = f"{self.failures} of {self.trials} trials failed"
        lower, upper = self.limits()
        if self.outcome == "refuted":
            p_value = f"p-value {self.p_value:.2g}, level {self.level:.2g}"
            return f"{counts}, a rate above the promised {self.p:g} ({p_value})"
        if self.outcome == "supported":
            rate = min(upper, self.p)
            return f"{counts}: the rate is at most {rate:.3g} with 99 percent confidence, promised {self.p:g}"
        needed = trials_to_decide(self.failures, self.trials, self.p, self.level)
        more = "the rate is too close to the promised one to tell apart"
        if needed:
            more = f"{needed} trials at this rate would decide"
        return f"{counts}: the rate is between {lower:.3g} and {upper:.3g}, promised {self.p:g}; {more}"


# --------------------------------------------------------------------------------------------------------------- means
def catoni(x: ArrayLike) -> Any:
    """Catoni's influence function sign(x) log(1 + |x| + x^2/2), like x near 0: exp(catoni(x)) <= 1 + x + x^2/2."""
    x = np.asarray(x)
    return np.sign(x) * np.log1p(np.abs(x) + 0.5 * x * x)


def _log_factors(z: np.ndarray) -> np.ndarray:
    """Log of the factor by which a trial multiplies each bet's wealth: catoni(lambda z) - lambda^2/2, (..., bets)."""
    return catoni(z[..., None] * _BETS) - 0.5 * _BETS**2


def _log_average(logs: np.ndarray) -> Any:
    """Log of the wealth of a gambler who gave every bet the same share at the start."""
    return scipy.special.logsumexp(logs, axis=-1, b=1 / len(_BETS))


class MeanTest:
    """z-test of `E[measured] = bound` with known standard deviation `scale`; it needs no normality.

    With z = (measured - bound)/scale, E exp(catoni(lambda z) - lambda^2/2) <= 1 for *any* distribution of mean 0 and
    variance 1, so the product over trials is a supermartingale for each bet lambda; the wealth is the average over
    lambda = +-1, +-1/2, ..., +-1/128. (The normal mixture of Robbins is one only for sub-Gaussian z: with a rare,
    large z, such as an indicator with a small probability, it alarms falsely.) For deviations up to one standard
    deviation per trial it is as fast as the z-test up to the price of the average, log 16.

    Trials may differ in bound and scale. What they share is the relative deviation rho, E[measured] = bound + rho
    |bound|: the limits are those of rho, translated to the mean by the average bound. Refuted when rho = 0 is
    rejected at `level`; supported when rho >= resolution and rho <= -resolution are both ruled out with CONFIDENCE
    and rho = 0 is not. A NaN is an infinite deviation.
    """

    def __init__(self, resolution: float, level: float) -> None:
        if not resolution > 0:
            raise ValueError(f"resolution must be positive, got {resolution}")
        self.resolution, self.level = resolution, level
        self.trials = self.failures = 0
        self._z: list[float] = []  # standardized deviations from the bound
        self._unit: list[float] = []  # a relative deviation of 1, in standard deviations
        self._bounds: list[float] = []
        self._logs = np.zeros((4, len(_BETS)))  # of the four gamblers in `update`, by bet
        self._against_zero = self._highest = 0.0  # log wealth against rho = 0: now, and its highest so far
        self._against_beyond = 0.0  # the lesser of the log wealths against rho >= resolution and rho <= -resolution

    def update(self, measured: float, bound: float, scale: float) -> None:
        if not (0 < scale < math.inf and 0 < abs(bound) < math.inf):
            values = f"got bound {bound} and scale {scale}"
            raise ValueError(f"a mean needs a finite bound other than 0 and a finite scale above 0, {values}")
        self.trials += 1
        z = (measured - bound) / scale
        z = math.inf if math.isnan(z) else z
        self._z.append(z)
        self._unit.append(abs(bound) / scale)
        self._bounds.append(bound)
        # Four gamblers bet that their standardized variable has a positive mean. Where the hypothesis that they bet
        # against holds, it has mean 0 or less: rho <= 0, rho >= 0, rho >= resolution, rho <= -resolution.
        shift = self.resolution * self._unit[-1]
        self._logs += _log_factors(np.array([z, -z, shift - z, z + shift]))
        up, down, below_resolution, above_minus_resolution = _log_average(self._logs)
        self._against_zero = float(np.logaddexp(up, down) - math.log(2))  # half of the stake on either sign
        self._highest = max(self._highest, self._against_zero)
        self._against_beyond = float(min(below_resolution, above_minus_resolution))

    @property
    def p_value(self) -> float:
        return math.exp(-self._highest)

    @property
    def outcome(self) -> Outcome:
        if self.p_value <= self.level:
            return "refuted"
        return "supported" if self._against_beyond >= SUPPORT > self._against_zero else "undecided"

    def relative_limits(self) -> tuple[float, float]:
        """Lower and upper limit of rho, each valid at all times at once with probability CONFIDENCE."""
        z, unit = np.array(self._z), np.array(self._unit)
        if not np.isfinite(z).all():
            return math.nan, math.nan

        def excess(rho: float, sign: int) -> float:
            """Log wealth of bets upwards (sign 1: it falls with rho) or downwards (it rises), less SUPPORT."""
            return float(_log_average(np.sum(_log_factors(sign * (z - rho * unit)), axis=0))) - SUPPORT

        def limit(sign: int) -> float:
            """The rho at which the wealth reaches SUPPORT, bracketed from the observed mean."""
            middle, step = float(np.mean(z) / np.mean(unit)), -sign / float(np.mean(unit))
            far, near = step, 0.0  # trials may disagree so much that even their mean is ruled out
            while excess(middle + far, sign) < 0:
                far *= 2
                if abs(far) > 2**40:
                    return math.copysign(math.inf, far)
            while excess(middle + near, sign) >= 0:
                near = 2 * near - step
            return float(scipy.optimize.brentq(excess, middle + near, middle + far, args=(sign,), xtol=1e-15))

        return limit(1), limit(-1)

    def limits(self) -> tuple[float, float]:
        """Limits of the mean."""
        center = float(np.mean(self._bounds))
        lower, upper = self.relative_limits()
        return center + lower * abs(center), center + upper * abs(center)

    def reason(self) -> str:
        lower, upper = self.relative_limits()
        span = f"relative deviation between {lower:.2g} and {upper:.2g} after {self.trials} trials"
        if self.outcome == "refuted":
            return f"{span}, not 0 (p-value {self.p_value:.2g}, level {self.level:.2g})"
        if self.outcome == "supported":
            return f"{span}, within {self.resolution:g} with 99 percent confidence"
        return f"{span}; a deviation of {self.resolution:g} is not ruled out yet"


def mean_log_wealth(deviations: ArrayLike) -> np.ndarray:
    """Log wealth after each trial of the bets on a positive mean, for standardized deviations (..., trials)."""
    z = np.asarray(deviations, dtype=float)
    elapsed = np.arange(1, z.shape[-1] + 1)
    logs = [np.cumsum(catoni(bet * z), axis=-1) - 0.5 * bet**2 * elapsed for bet in _BETS]
    return np.logaddexp.reduce(logs, axis=0) - math.log(len(_BETS))


# ------------------------------------------------------------------------------------------------------ no exceptions
class ExactTest:
    """`measured == bound`, or `<=`, within `rtol * scale` on every trial: one failure refutes. NaN fails.

    Supported by `required` trials without a failure; the limits are those of the failure rate, for the record.
    """

    def __init__(self, relation: str, rtol: float, required: int) -> None:
        if relation not in ("==", "<="):
            raise ValueError(f"relation must be '==' or '<=', got {relation!r}")
        self.relation, self.rtol, self.required = relation, rtol, required
        self.trials = self.failures = 0
        self._excess = 0.0  # of the failure, relative to the scale

    def update(self, measured: float, bound: float, scale: float) -> None:
        self.trials += 1
        excess = measured - bound if self.relation == "<=" else abs(measured - bound)
        if not excess <= self.rtol * scale:
            self.failures += 1
            self._excess = excess / scale if scale else math.inf

    @property
    def p_value(self) -> float:
        return 0.0 if self.failures else 1.0

    @property
    def outcome(self) -> Outcome:
        if self.failures:
            return "refuted"
        return "supported" if self.trials >= self.required else "undecided"

    def limits(self) -> tuple[float, float]:
        return rate_limits(self.failures, self.trials)

    def reason(self) -> str:
        if self.failures:
            return f"trial {self.trials - 1} is off by {self._excess:.3g} of its scale, rounding allows {self.rtol:g}"
        return f"no counterexample in {self.trials} instances"
