"""What a claim is: a statement, its assumptions, and a seeded trial that measures it.

Nothing here knows which paper a claim comes from, and nothing here decides anything: the statistics
are in `verdict`, the running of trials in `verify`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import sympy

Case = Mapping[str, Any]
"""Keyword arguments of a trial: JSON values only (they go to worker processes and into the ledger)."""


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
        Measured quantities of the instance (alpha, kappa, m, n, ...). The claim's assumptions and its
        vacuity are predicates over these names.
    """

    measured: float
    bound: float = float("nan")
    scale: float = 1.0
    facts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Probability:
    """`measured <= bound` fails with probability at most `p`, on every case."""

    p: float


@dataclass(frozen=True)
class Exact:
    """Holds on every instance up to rounding: `measured == bound`, or `measured <= bound`, within `rtol * scale`.

    For identities checked by enumeration, and for inequalities that admit no failure at all.
    """

    relation: str = "=="
    rtol: float = 1e-9


@dataclass(frozen=True)
class Mean:
    """`E[measured] = bound` with known standard deviation `scale`: an anytime-valid z-test.

    Supported only once a deviation of `resolution` (relative to `bound`) has been ruled out.
    """

    resolution: float


@dataclass(frozen=True)
class Growth:
    """`measured` (a critical sample size, bytes, seconds) grows no faster than the theory says.

    Attributes
    ----------
    variables : mapping of str to sympy.Expr
        For each variable, the theory's growth in it while the others are held fixed (`kappa**7`, `log(n)`).
        Every case carries `variable` (which one it varies); the trial's `facts[variable]` is the abscissa, so that
        a *measured* alpha or kappa can serve.
    machine : bool
        The size is seconds or bytes of this machine: it is reported apart, and no two runs agree on it to the byte.

    resolution : float
        Supported as soon as an excess exponent of `resolution` is ruled out: above 0 where the theory's exponent is
        thought to be tight, so that
        no amount of data would show the measured one below it.

    A trial that finds no size up to its cap returns `measured = inf`. A searched size must be interpolated: rounded
    to the grid of the search, alike in all replicates, it looks like growth.
    """

    variables: Mapping[str, sympy.Expr]
    machine: bool = False
    resolution: float = 0.0


Kind = Probability | Exact | Mean | Growth


@dataclass(frozen=True)
class Assumption:
    """A predicate over the trial's facts, e.g. `m >= d_v*srank/(eps**2*delta)`."""

    name: str
    predicate: sympy.Basic


@dataclass(frozen=True)
class Drop:
    """Cases on which one assumption (by name) is false; the ledger shows what happens then."""

    assumption: str
    cases: tuple[Case, ...]


@dataclass(frozen=True)
class Sabotage:
    """A deliberately broken variant: its `change` overrides keyword arguments of the trial, and the verdict must turn
    to refuted.
    """

    name: str
    what: str
    change: Case


@dataclass(frozen=True)
class Vacuity:
    """When the theorem says nothing: `predicate` over the facts (`m_theorem >= n`).

    `onset`, if given, is an expression over the facts for the value of `variable` from which the statement begins to
    bite.
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
    title : str
        One line, plain words.
    statement : sympy expression
        Rendered to LaTeX and MathML.
    kind : Probability, Exact, Mean or Growth
    trial : callable
        `trial(rng, xp, **case) -> Trial`, a module-level function; `rng` a `numpy.random.Generator`, `xp` the array
        namespace.
        One call is one independent measurement.
    cases : mapping of effort to tuple of Case
        Efforts "smoke", "standard", "full". A `standard` or `full` that is missing falls back to the next smaller.
    max_trials : mapping of effort to int
        Trials per case at most (replicates per grid point for `Growth`, exactly). Same fall-back.
    remark : str
        What a reader must know to read the verdict: hidden constants, conventions, what was derived here.
    reported : str
        Of an empirical claim, what the paper measured and on what; empty for what it proves. Refuted then means: not so
        here.
    """

    id: str
    paper: str
    source: str
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
    remark: str = ""
    reported: str = ""

    def at(self, table: Mapping[str, Any], effort: str) -> Any:
        """Entry of `cases` or `max_trials` for an effort, falling back to the next smaller one."""
        order = ("smoke", "standard", "full")
        if effort not in order:
            raise ValueError(f"effort must be one of {order}, got {effort!r}")
        for name in reversed(order[: order.index(effort) + 1]):
            if name in table:
                return table[name]
        raise ValueError(f"claim {self.id} has no entry for effort {effort!r}")
