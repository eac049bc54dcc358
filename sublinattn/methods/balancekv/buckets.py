"""BalanceKV with buckets: a merge and reduce for each class of value norms, and one for the normaliser.

Source: [BKV25] Kochetkova, Sheth, Han, Zandieh, Kapralov, *Streaming Attention Approximation via Discrepancy Theory*,
arXiv 2502.07861, NeurIPS 2025: Algorithm 1 (BalanceKV) and Theorem 3.1. The main text was read, the appendix with the
proof was not.

A walk balances in units of the longest value: where a few values are long, the many short ones count for nothing in it,
and their signs are coins. Algorithm 1 therefore sends token j to the merge and reduce of class i, `2^(i-1) <= ||v_j|| <
2^i` (lines 5 and 6), which balances `exp(s <k, k'>) <v, v'>`, and to that of the normaliser, where its value is the
number 1 (line 11). The answer is the sum of all classes' sums over the normaliser's (line 13). A class that is small
against the longest value so far is erased (line 8).

Cost: that of `BalanceKVCache` for each class and once for the normaliser, whose slots have `d + 2` numbers.

Guarantee: Theorem 3.1, an answer within `eps ||softmax(s K q)||_2 ||V||_F` (Equation 2) of attention for `t` of the
order of `sqrt(d) exp(2 s r^2) / eps`, up to logarithms, if no query or key is longer than r. Theorem 3.4, of one merge
and reduce, has `max|v|` in place of `||V||_F / sqrt(n)`.

Differs from the paper in:

1. `buckets` is the number of classes that are kept, where line 8 erases those with `2^i <= eps / (2n) exp(-s r^2)
   v_max`. None is erased that line 8 keeps if `2^(1 - buckets)` is no larger than that factor of `v_max`.
2. Values of norm 0 are in no class.
3. No entry of an answer is larger than `v_max`, since none of attention is: two sums of their own tokens may have a
   quotient of any size.
4. What `balancekv` and `walk` say of a merge and reduce; `levels` bounds that of each class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...core import backends, checks
from ...core.backends import Array
from ...core.exact import Partial
from ...primitives.reservoir import squared_norms
from ..caches.base import ratio_of, softmax_weighted
from .balancekv import BalanceKVCache

NORMALISER = "normaliser"
"""Name of the merge and reduce whose values are 1."""
_ABOVE = 2**11  # what makes every class's number positive, in the seeds


class BucketedBalanceKVCache(BalanceKVCache):
    """Halves of halves of the tokens, for each class of value norms and for the normaliser [BKV25, Algorithm 1].

    Parameters
    ----------
    batch : int
        `t`, of each class and of the normaliser: tokens that are halved at once, even.
    buckets : int
        Classes that are kept: a value shorter than `2^-buckets` of the longest so far is in none of them. Of a stream
        of n tokens the paper keeps `log2(2 n exp(s r^2) / eps) + 1`.
    pairs, centred, c, scale, levels, rng
        As for `BalanceKVCache`.

    Notes
    -----
    Exact up to `batch` tokens, but for erased classes. The state is a function of the seed, the head and the tokens:
    the same for any chunks, on the CPU to the bit. Merged caches hold both caches' halves, class by class; caches with
    bounded levels do not merge.

    Numerator and normaliser come from different tokens, so that their errors do not cancel as those of `BalanceKVCache`
    do; and the classes share the bytes. This pays where norms differ widely. Rows in half precision are stored in
    float32.

    Examples
    --------
    >>> import numpy as np
    >>> from sublinattn import BucketedBalanceKVCache
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 4096, 8))
    >>> v[:5] *= 1000
    >>> cache = BucketedBalanceKVCache(batch=64, rng=0).update(k, v)
    >>> cache.attend(q[:2]).shape, cache.classes[0]
    ((2, 8), [0, 1, 2, 3, 12])
    """

    PARAMETERS = (*BalanceKVCache.PARAMETERS, "buckets")

    def __init__(
        self,
        batch: int,
        *,
        buckets: int = 16,
        pairs: bool = False,
        centred: bool = False,
        c: float | None = None,
        scale: float | None = None,
        levels: int | None = None,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        super().__init__(batch, pairs=pairs, centred=centred, c=c, scale=scale, levels=levels, rng=rng)
        self.buckets = checks.integer("buckets", buckets, minimum=1)
        self._kind = MergeAndReduce  # of the parts: sabotages replace it
        self._parts: list[dict[str, MergeAndReduce]] = []  # of each problem, by the number of the class or NORMALISER
        self._largest: list[float] = []  # of each problem, v_max

    @classmethod
    def _slot_numbers(cls, d: int, d_v: int, parameters: Mapping[str, Any]) -> int:
        return cls(2, **parameters).buckets * (d + d_v + 1) + d + 2

    @property
    def classes(self) -> list[list[int]]:
        """Of each problem, in C order, the classes i with tokens, of norms from `2^(i-1)` to `2^i`, in order."""
        return [sorted(int(name) for name in parts if name != NORMALISER) for parts in self._parts]

    # ----------------------------------------------------------------------------------------------------------- tokens
    def _absorb(self, xp: Any, k: Array, v: Array) -> None:
        self._begin(len(k))
        norms = np.sqrt(squared_norms(v))
        numbers = self._numbers(norms)  # line 5
        k, v = backends.widened(k), backends.widened(v)
        one = xp.ones((1, k.shape[1], 1), v.dtype)
        for head in range(len(k)):
            self._largest[head] = max(self._largest[head], float(norms[head].max()))  # line 7
            lowest = self._erase(head)
            for number in np.unique(numbers[head][numbers[head] >= lowest]):  # line 6
                rows = backends.to_device(np.flatnonzero(numbers[head] == number), xp)
                self._part(head, str(number)).take(xp, k[head][rows][None], v[head][rows][None])
            self._part(head, NORMALISER).take(xp, k[head][None], one)  # line 11

    def _numbers(self, norms: np.ndarray) -> np.ndarray:
        """The class i of each norm, `2^(i-1) <= norm < 2^i`; of 0 one below all."""
        return np.where(norms > 0, np.frexp(norms)[1], -_ABOVE)

    def _begin(self, heads: int) -> None:
        if not self._parts:
            self._parts, self._largest = [{} for _ in range(heads)], [0.0] * heads

    def _part(self, head: int, name: str) -> MergeAndReduce:
        """The merge and reduce of a class, or of the normaliser; a new one has draws of its own."""
        if name not in self._parts[head]:
            own = 0 if name == NORMALISER else int(name) + _ABOVE
            options: dict[str, Any] = {name: getattr(self, name) for name in BalanceKVCache.PARAMETERS}
            self._parts[head][name] = self._kind(**options, rng=np.random.default_rng([self._seeds[0], head, own]))
        return self._parts[head][name]

    def _erase(self, head: int) -> int:
        """Erase what is small against `v_max` (line 8); returns the lowest class that is kept."""
        if not self._largest[head]:
            return 1 - _ABOVE
        lowest = int(np.frexp(self._largest[head])[1]) - self.buckets + 1
        for name in [str(number) for number in self.classes[head] if number < lowest]:
            del self._parts[head][name]
        return max(lowest, 1 - _ABOVE)

    # ---------------------------------------------------------------------------------------------------------- answers
    def _attend(self, xp: Any, q: Array, scale: float) -> Array:
        return self._answers(xp, range(len(self._parts)), q, scale)[1]

    def partial(self, xp: Any, heads: Sequence[int], q: Array, scale: float) -> Partial:
        """Softmax sums of the queries (heads, c, d) of some problems: the normaliser's, and the answers times it."""
        below, answers = self._answers(xp, heads, q, scale)
        return Partial(below.m, below.l, answers * below.l[..., None])

    def _answers(self, xp: Any, heads: Sequence[int], q: Array, scale: float) -> tuple[Partial, Array]:
        """Of some problems the softmax sums of the normaliser, and the answers."""
        q, numbers = backends.widened(q), self.classes
        normalisers = [[self._parts[head][NORMALISER]] for head in heads]
        classes = [[self._parts[head][str(number)] for number in numbers[head]] for head in heads]
        below = softmax_weighted(xp, q, *_side_by_side(xp, normalisers), scale=scale)
        if not any(classes):
            return below, xp.zeros((*q.shape[:-1], self._width["v"]), q.dtype)
        above = softmax_weighted(xp, q, *_side_by_side(xp, classes), scale=scale)
        bound = backends.to_device(np.array([self._largest[head] for head in heads], q.dtype)[:, None, None], xp)
        answers = ratio_of(xp, [(above.m, above.o)], [(below.m, below.l[..., None])], bound)  # line 13
        return below, xp.where(below.l[..., None] == 0, 0, answers)  # the normaliser may have no token left

    def _take(self, xp: Any, other: Any, theirs: dict[str, Array]) -> None:
        self._begin(len(other._parts))
        for head, parts in enumerate(other._parts):
            self._largest[head] = max(self._largest[head], other._largest[head])
            lowest = self._erase(head)
            for name, part in parts.items():
                if name == NORMALISER or int(name) >= lowest:
                    self._part(head, name).merge(part)

    # ---------------------------------------------------------------------------------------------- saved and moved
    def contents(self) -> dict[str, Array]:
        """The arrays that `save` writes: `<head>.<class>.<name>`, the class by its number or "normaliser"."""
        return {
            f"{head}.{name}.{array}": x
            for head, parts in enumerate(self._parts)
            for name, part in sorted(parts.items())
            for array, x in part.contents().items()
        }

    def _arrays(self) -> list[Array]:
        return list(self.contents().values())

    def _follow(self, xp: Any, name: str) -> None:
        for parts in self._parts:
            for part in parts.values():
                part._follow(xp, name)

    def _about(self) -> dict[str, Any]:
        about = super()._about()
        parts = [{name: part._about() for name, part in parts.items()} for parts in self._parts]
        return {**about, "state": {"seeds": self._seeds, "largest": self._largest}, "parts": parts}

    def _restore(self, about: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        super()._restore(about, {})
        self._begin(len(about["parts"]))
        self._largest = about["state"]["largest"]
        for head, parts in enumerate(about["parts"]):
            for name, its in parts.items():
                prefix = f"{head}.{name}."
                own = {full.removeprefix(prefix): x for full, x in arrays.items() if full.startswith(prefix)}
                self._part(head, name)._restore(its, own)


class MergeAndReduce(BalanceKVCache):
    """One problem's halves, balanced for the sum of the values alone."""

    BOTH_SUMS = False

    def take(self, xp: Any, k: Array, v: Array) -> None:
        """Take checked rows, keys (1, c, d) and values (1, c, d_v), in the working dtype."""
        self._width, self._dtype, self._row_dtype = {"k": k.shape[-1], "v": v.shape[-1]}, k.dtype, k.dtype
        self._absorb(xp, k, v)
        self.tokens_seen += k.shape[1]


def _side_by_side(xp: Any, heads: Sequence[Sequence[MergeAndReduce]]) -> tuple[Array, Array, Array]:
    """Keys, values and log-weights of each problem's parts, (B, m, ...); empty slots fill up the shorter problems."""
    parts = [[part.contents() for part in parts] for parts in heads]
    sizes = [sum(len(x["log_weights"][0]) for x in stored) for stored in parts]
    first = next(stored[0] for stored in parts if stored)
    slots = {
        name: xp.full((len(heads), max(sizes), *x.shape[2:]), -np.inf if name == "log_weights" else 0, x.dtype)
        for name, x in first.items()
    }
    for head, (stored, size) in enumerate(zip(parts, sizes, strict=True)):
        if stored:
            for name, x in slots.items():
                x[head, :size] = xp.concatenate([part[name][0] for part in stored])
    return slots["keys"], slots["values"], slots["log_weights"]
