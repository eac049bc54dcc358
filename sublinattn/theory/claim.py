"""What a claim is: a statement, its assumptions, a seeded trial that measures it, and the kind of statement it makes.

The kind names the statistic that decides the claim: `sequential` has the tests of probabilities, identities and means,
`growth` the fit of exponents. A kind's `test(level, limit)` makes the test of one case, which is refuted at the p-value
`level` and gets `limit` trials at most.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import sympy

from . import growth, sequential

if TYPE_CHECKING:
    from .adversary import Search

ID = re.compile(r"[a-z0-9]+\.[a-z0-9-]+")
"""What a claim can be called; files have its name."""

Case = Mapping[str, Any]
"""Keyword arguments of a trial: JSON values only (they go to worker processes and into the ledger)."""


def listed(case: Case) -> str:
    """A case in words: `n=64, d=8`, the settings of a nested workload in line with the others."""
    return ", ".join(listed(value) if isinstance(value, Mapping) else f"{name}={value}" for name, value in case.items())


@dataclass(frozen=True)
class Trial:
    """One measurement.

    Attributes
    ----------
    measured : float
        The quantity that the claim is about.
    bound : float
        What the claim says of it: an upper bound, or for an identity the exact value. Unused (nan) by `Growth`.
    scale : float
        `Exact`: the magnitude that rounding is relative to. `Mean`: the exact standard deviation of `measured`.
    facts : mapping of str to float
        Further measurements on the same input (alpha, kappa, m, n, ...), of which assumptions and vacuity speak.
    """

    measured: float
    bound: float = float("nan")
    scale: float = 1.0
    facts: Mapping[str, float] = field(default_factory=dict)


def evaluate(expression: sympy.Basic, facts: Mapping[str, float]) -> Any:
    """Value of `expression` with its symbols replaced, by name, by the measurements; ValueError if one is missing."""
    names, function = _function(expression)
    if missing := [name for name in names if name not in facts]:
        raise ValueError(f"{expression} speaks of {missing}, which the trial does not report (facts {sorted(facts)})")
    return function(*(float(facts[name]) for name in names))


@cache
def _function(expression: sympy.Basic) -> tuple[tuple[str, ...], Any]:
    symbols = sorted(expression.free_symbols, key=str)
    return tuple(map(str, symbols)), sympy.lambdify(symbols, expression, "numpy")


# --------------------------------------------------------------------------------------------------------------- kinds
@dataclass(frozen=True)
class Probability:
    """`measured <= bound` fails with probability at most `p`, on every case."""

    p: float

    def test(self, level: float, limit: int) -> sequential.SequentialTest:
        return sequential.ProbabilityTest(self.p, level)


@dataclass(frozen=True)
class Exact:
    """Holds on every instance up to rounding: `measured == bound`, or `measured <= bound`, within `rtol * scale`."""

    relation: str = "=="
    rtol: float = 1e-9

    def test(self, level: float, limit: int) -> sequential.SequentialTest:
        return sequential.ExactTest(self.relation, self.rtol, limit)


@dataclass(frozen=True)
class Mean:
    """`E[measured] = bound` with known standard deviation `scale`.

    Supported only once a deviation of `resolution` (relative to `bound`) has been ruled out.
    """

    resolution: float

    def test(self, level: float, limit: int) -> sequential.SequentialTest:
        return sequential.MeanTest(self.resolution, level)


@dataclass(frozen=True)
class Quantity:
    """What the title of a growth claim speaks of, where its trial returns another size.

    That size is `quantity**power * variable**shift`: an error that is to fall like n^-0.1 is measured as error times
    n^0.1 (shift 0.1), bytes that are to grow at least like n as n over bytes (power -1, shift 1).
    """

    name: str
    latex: str
    power: int = 1
    shift: float = 0.0

    def exponent(self, of_size: float) -> float:
        """Exponent of the quantity, given that of the size."""
        return (of_size - self.shift) / self.power


@dataclass(frozen=True)
class Growth:
    """`measured` (a critical sample size, bytes, seconds) grows no faster than the theory says, over the cases' grid.

    That is no verdict on an O(), whose local exponents may be larger (`growth`). A trial that finds no size up to its
    cap returns `measured = inf` and the measurement `cap`. A searched size must be interpolated: rounded to the grid of
    the search, alike in all replicates, it looks like growth.

    Attributes
    ----------
    variables : mapping of str to sympy.Expr
        For each variable, the theory's growth in it while the others are held fixed (`kappa**7`, `log(n)`). Every case
        carries `variable` (which one it varies); the trial's `facts[variable]` is the abscissa, so that a *measured*
        alpha or kappa can serve.
    machine : bool
        The size is seconds or bytes of this machine, on which no two runs agree: it is reported apart.
    resolution : mapping of str to float
        For each variable the tolerance on its exponent, 0 if absent, a quarter of the theory's exponent on the grid at
        most. Needed where the bound is tight: with 0 such a claim could never be supported. A theory that is constant
        in a variable allows none: put the tolerance into the theory (`n**0.1`) and say so in the title.
    quantity : Quantity, optional
        What the title speaks of, if that is not the size that the trial returns.
    """

    variables: Mapping[str, sympy.Expr]
    machine: bool = False
    resolution: Mapping[str, float] = field(default_factory=dict)
    quantity: Quantity | None = None

    def __post_init__(self) -> None:
        if unknown := set(self.resolution) - set(self.variables):
            raise ValueError(f"resolution of {sorted(unknown)}, the variables are {sorted(self.variables)}")

    def fit(self, variable: str, points: Sequence[Sequence[Trial]], level: float) -> growth.Fit:
        """Fit the growth in `variable` to the replicates at each grid point; `level` is the p-value that refutes."""
        theory = self.variables[variable]

        def table(value: Callable[[Trial], float]) -> np.ndarray:
            return np.array([[value(trial) for trial in point] for point in points], dtype=float)

        fit = growth.fit(
            table(lambda t: t.facts[variable]),
            table(lambda t: t.measured),
            table(lambda t: evaluate(theory, t.facts)),
            cap=table(lambda t: t.facts.get("cap", math.nan)),
            resolution=self.resolution.get(variable, 0.0),
            level=level,
            variable=variable,
            theory=sympy.latex(theory),
        )
        if self.quantity is None or math.isnan(fit.measured_exponent):
            return fit
        measured, claimed = map(self.quantity.exponent, (fit.measured_exponent, fit.theory_exponent))
        side = "most" if self.quantity.power > 0 else "least"
        own = f"exponent of {self.quantity.name} {measured:.3g}, at {side} {claimed:.3g} is claimed"
        return replace(fit, reason=f"{own}; as fitted: {fit.reason}")


class GrowthTest:
    """The test of one variable of a `Growth` claim: a fit of all its cases, once each has all its replicates."""

    def __init__(self, kind: Growth, variable: str, cases: Sequence[int], *, level: float, limit: int) -> None:
        self._kind, self._variable, self._level, self._limit = kind, variable, level, limit
        self._points: dict[int, list[Trial]] = {i: [] for i in cases}
        self.fit: growth.Fit | None = None

    def update(self, case: int, trial: Trial) -> None:
        self._points[case].append(trial)
        if min(map(len, self._points.values())) == self._limit:
            self.fit = self._kind.fit(self._variable, list(self._points.values()), self._level)

    @property
    def trials(self) -> int:  # 0 before the fit
        return sum(map(len, self._points.values())) if self.fit else 0

    @property
    def failures(self) -> int:  # trials that found no size
        return sum(math.isinf(t.measured) for point in self._points.values() for t in point)

    @property
    def outcome(self) -> sequential.Outcome:
        return self.fit.outcome if self.fit else "undecided"

    @property
    def p_value(self) -> float:
        return self.fit.p_value if self.fit else 1.0

    def limits(self) -> tuple[float, float]:
        return math.nan, math.nan  # those of the exponent are in `fit`

    def reason(self) -> str:
        return self.fit.reason if self.fit else "not fitted yet"


Kind = Probability | Exact | Mean | Growth


# -------------------------------------------------------------------------------------------------------------- claims
Basis = Literal["theorem", "reported", "reading", "derived", "implementation", "property"]

BASES: Mapping[Basis, str] = {
    "theorem": "what a paper proves, as it states it or with constants derived here",
    "reported": "what a paper measured in an experiment",
    "reading": "our formalisation of a loose sentence of a paper",
    "derived": "a statement of ours about a method, its variant or its constants, proved here",
    "implementation": "this code: its time and bytes at fixed sizes, or that it computes and draws what it says",
    "property": "a finding that no paper states",
}
"""What a claim can rest on. Only a refuted "theorem" contradicts a paper's mathematics, so each is counted apart."""


@dataclass(frozen=True)
class Assumption:
    """A predicate over the trial's measurements, e.g. `m >= d_v*srank/(eps**2*delta)`."""

    name: str
    predicate: sympy.Basic


@dataclass(frozen=True)
class Drop:
    """Cases on which one assumption (by name) is false; the ledger shows what happens then."""

    assumption: str
    cases: tuple[Case, ...]


@dataclass(frozen=True)
class Sabotage:
    """A deliberately broken variant, which must be refuted: `change` overrides keyword arguments of the trial.

    `breaks` says what the change alters: the algorithm, as an author might get it wrong; the bound, or what is compared
    with it; or the opponent that a method is compared with. Only the first shows that the claim guards the algorithm.
    """

    name: str
    what: str
    change: Case
    breaks: Literal["algorithm", "bound", "opponent"] = "algorithm"


@dataclass(frozen=True)
class Vacuity:
    """When the theorem says nothing: a predicate over the measurements (`m_theorem >= n`).

    `onset` is, as an expression over the measurements, the value of `variable` from which the theorem says something.
    """

    predicate: sympy.Basic
    variable: str = "n"
    onset: sympy.Expr | None = None


@dataclass(frozen=True)
class Claim:
    """A statement of a paper that a machine can check.

    Attributes
    ----------
    id : str
        `<paper>.<slug>`, lower case.
    paper, source : str
        Key in `references.bib`; theorem, lemma, equation or algorithm.
    basis : str
        What the statement rests on, a key of `BASES`.
    title : str
        One line, plain words.
    statement : sympy expression
        Rendered to LaTeX and MathML.
    kind : Probability, Exact, Mean or Growth
    trial : callable
        `trial(rng, xp, **case) -> Trial`, a module-level function: one independent measurement.
    cases : mapping of effort to tuple of Case
        Efforts "smoke", "standard", "full". A `standard` or `full` that is missing falls back to the next smaller.
    max_trials : mapping of effort to int
        Trials per case at most (replicates per grid point for `Growth`, exactly). Same fall-back.
    search : Search, optional
        How an adversary looks for a counterexample; of inequalities without exception only.
    remark : str
        What a reader must know to read the verdict: hidden constants, conventions, what was derived here.
    source_checked : bool
        Whether the statement was compared with the text of its source; False where that text could not be read.
    restated : str
        Where statement, grid or resolution were changed after a first run: "<commit>: <why>", with the last commit that
        had the former ones. A test holds it.
    reported : str
        Of an empirical claim, what the paper measured and on what; empty for what it proves. Refuted then means: not so
        here.
    model : str
        Of a claim about a trained decoder, the model that its trials open: they take it as the keyword `model`, and the
        title ends with it in brackets. The suite states such claims of "tiny", the model that ships (see `on`).
    origin : str
        Of a claim made by `on`, the id of the one that it was made of.

    Examples
    --------
    >>> import numpy as np
    >>> import sympy
    >>> from sublinattn.theory import verify
    >>> from sublinattn.theory.claim import Claim, Exact, Sabotage, Trial
    >>> def trial(rng, xp, *, n, factor=1):
    ...     x = rng.standard_normal(n)
    ...     return Trial(factor * abs(x).sum(), n**0.5 * np.linalg.norm(x), facts={"n": n})
    >>> bound = sympy.Le(sympy.Symbol("one"), sympy.sqrt(sympy.Symbol("n")) * sympy.Symbol("two"))
    >>> claim = Claim(
    ...     id="own.norms",
    ...     paper="HA24",
    ...     source="Cauchy and Schwarz",
    ...     basis="derived",
    ...     title="The sum of absolute values is at most sqrt(n) times the norm",
    ...     statement=bound,
    ...     kind=Exact("<="),
    ...     trial=trial,
    ...     cases={"smoke": ({"n": 10}, {"n": 1000})},
    ...     max_trials={"smoke": 20},
    ...     sabotages=(Sabotage("twice", "the sum counts twice", {"factor": 2}),),
    ... )
    >>> verify(claim).outcome
    'supported'
    """

    id: str
    paper: str
    source: str
    basis: Basis
    title: str
    statement: sympy.Basic
    kind: Kind
    trial: Callable[..., Trial]
    cases: Mapping[str, tuple[Case, ...]]
    max_trials: Mapping[str, int]
    assumptions: tuple[Assumption, ...] = ()
    drops: tuple[Drop, ...] = ()
    sabotages: tuple[Sabotage, ...] = ()
    vacuity: Vacuity | None = None
    search: Search | None = None
    remark: str = ""
    source_checked: bool = True
    restated: str = ""
    reported: str = ""
    model: str = ""
    origin: str = ""

    def __post_init__(self) -> None:
        if not ID.fullmatch(self.id):
            raise ValueError(f"id must be <paper>.<slug> of a-z, 0-9 and, in the slug, hyphens, got {self.id!r}")
        if self.model and not self.title.endswith(f" ({self.model})"):
            raise ValueError(f"the title of {self.id} must end with its model, ({self.model}), got {self.title!r}")

    def on(self, model: str) -> Claim:
        """The same statement about another model: "smollm2", or a checkpoint's folder or file; itself if it has none.

        The id ends with the model's name then: `ha24.perplexity-half-smollm2`.
        """
        if self.model in ("", model):
            return self
        name = re.sub(r"[^a-z0-9]+", "-", Path(model).stem.lower()).strip("-")

        def given(cases: tuple[Case, ...]) -> tuple[Case, ...]:
            return tuple({**case, "model": model} for case in cases)

        return replace(
            self,
            id=f"{self.origin or self.id}-{name}",
            title=f"{self.title.removesuffix(f' ({self.model})')} ({model})",
            cases={effort: given(cases) for effort, cases in self.cases.items()},
            drops=tuple(replace(drop, cases=given(drop.cases)) for drop in self.drops),
            restated="",
            model=model,
            origin=self.origin or self.id,
        )

    @property
    def machine(self) -> bool:
        """Whether it is about seconds or bytes of this machine, where nothing else may run while it is tried."""
        return isinstance(self.kind, Growth) and self.kind.machine

    def at(self, table: Mapping[str, Any], effort: str) -> Any:
        """Entry of `cases` or `max_trials` for an effort, falling back to the next smaller one."""
        order = ("smoke", "standard", "full")
        if effort not in order:
            raise ValueError(f"effort must be one of {order}, got {effort!r}")
        for name in reversed(order[: order.index(effort) + 1]):
            if name in table:
                return table[name]
        raise ValueError(f"claim {self.id} has no entry for effort {effort!r}")

    @property
    def file(self) -> Path:
        """Where the trial stands."""
        return Path(inspect.unwrap(self.trial).__code__.co_filename)

    @property
    def where(self) -> str:
        """`file:line` of the trial; a file of this package is named from the folder that holds the package."""
        line, root = inspect.unwrap(self.trial).__code__.co_firstlineno, Path(__file__).parents[2]
        return f"{self.file.relative_to(root) if self.file.is_relative_to(root) else self.file.name}:{line}"
