"""Rotary position embeddings, and how checkpoints stretch them to longer contexts.

Source: Su et al., *RoFormer*, arXiv 2104.09864; linear interpolation: Chen et al., arXiv 2306.15595; YaRN: Peng,
Quesnelle, Fan, Shippole, *YaRN: Efficient Context Window Extension of Large Language Models*, arXiv 2309.00071;
`llama3`: the rule of Llama 3.1's release. Column j of a head is paired with column `j + d/2`, as Hugging Face's Llama
pairs them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..core import backends
from ..core.backends import Array

_NEEDED = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
}
TYPES = tuple(_NEEDED)
_TRAINED = "original_max_position_embeddings"
_NUMBERS = (
    *("rope_theta", "partial_rotary_factor", "factor", _TRAINED, "low_freq_factor", "high_freq_factor"),
    *("beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim"),
)


@dataclass(frozen=True)
class Rope:
    """The rotations of queries and keys by position.

    Attributes
    ----------
    frequencies : array of float64, shape (d/2,)
        Radians per position of each pair of columns.
    magnitude : float
        Factor of queries and keys: from YaRN's temperature, otherwise 1.
    theta : float
        Base of the frequencies before any stretching.
    """

    frequencies: np.ndarray
    magnitude: float
    theta: float

    @classmethod
    def of(cls, fields: Mapping[str, Any], head_dim: int, context: int) -> Rope:
        """Read the fields of a `config.json`, older (`rope_theta`, `rope_scaling`) or newer (`rope_parameters`).

        Raises
        ------
        ValueError
            A kind of stretching that is not implemented, a missing number, a field that must be a positive number and
            is not, or an odd `head_dim`.
        """
        if head_dim % 2:
            raise ValueError(f"head_dim must be even, got {head_dim}")
        given = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
        if not isinstance(given, dict):
            raise ValueError(f"rope_parameters must be an object of fields, got {given!r}")
        kind = given.get("rope_type", given.get("type", "default"))
        if kind not in TYPES:
            raise ValueError(f"rope_type must be one of {TYPES}, got {kind!r}")
        outside = {name: fields[name] for name in ("rope_theta", "partial_rotary_factor") if name in fields}
        inside = {_TRAINED: fields[_TRAINED]} if fields.get(_TRAINED) else {}
        given = {name: value for name, value in (outside | given | inside).items() if value is not None}
        if missing := [name for name in _NEEDED[kind] if name not in given]:
            raise ValueError(f"rope_type {kind!r} needs the numbers {missing}")
        for name in set(given).intersection(_NUMBERS):
            number = isinstance(given[name], (int, float)) and not isinstance(given[name], bool)
            if not (number and 0 < given[name] < math.inf):
                raise ValueError(f"{name} must be a positive number, got {given[name]!r}")
        if given.get("partial_rotary_factor", 1) != 1:
            raise ValueError(f"partial_rotary_factor must be 1, got {given['partial_rotary_factor']}")
        theta, trained = float(given.get("rope_theta", 10000)), given.get(_TRAINED, context)
        rope = cls(_frequencies(theta, head_dim), 1.0, theta)
        if kind == "linear":
            return replace(rope, frequencies=rope.frequencies / given["factor"])
        if kind == "llama3":
            return replace(rope, frequencies=_llama3(rope.frequencies, trained, given))
        if kind == "yarn":
            return rope.stretched(given["factor"], trained, given)
        return rope

    def stretched(self, factor: float, trained: int, given: Mapping[str, Any] | None = None) -> Rope:
        """Stretch by YaRN from a `trained` context to one `factor` times as long, without training.

        Pairs of columns that turn more than `beta_fast` times within the trained context keep their frequency, pairs
        that turn less than `beta_slow` times have it divided by the factor, and between the two the division is
        interpolated. Logits grow by `(0.1 ln(factor) + 1)^2`. The frequencies must not be stretched yet.
        """
        given = given or {}
        fast, slow = given.get("beta_fast", 32), given.get("beta_slow", 1)
        half = len(self.frequencies)

        def pair(turns: float) -> float:
            """Number of the pair that turns so often within the trained context [YaRN, section 3.2]."""
            return half * math.log(trained / (turns * 2 * math.pi)) / math.log(self.theta)

        low, high = pair(fast), pair(slow)
        if given.get("truncate", True):
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, 2 * half - 1)
        slowed = np.clip((np.arange(half) - low) / max(high - low, 0.001), 0, 1)
        frequencies = self.frequencies * (slowed / factor + 1 - slowed)
        return replace(self, frequencies=frequencies, magnitude=self.magnitude * _magnitude(factor, given))

    @property
    def scaled(self) -> bool:
        """Whether the frequencies are stretched: not those that theta gives."""
        return not np.array_equal(self.frequencies, _frequencies(self.theta, 2 * len(self.frequencies)))

    def turns(self, xp: Any, start: int, count: int) -> tuple[Array, Array]:
        """Cosines and sines of `count` positions from `start` on, (count, d/2) float32."""
        angles = np.arange(start, start + count)[:, None] * self.frequencies
        return tuple(backends.to_device((self.magnitude * f(angles)).astype(np.float32), xp) for f in (np.cos, np.sin))


def rotated(xp: Any, x: Array, turns: tuple[Array, Array]) -> Array:
    """Rows of x (..., n, d) turned by (cosines, sines) of their positions."""
    cosines, sines = turns
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    return xp.concatenate([first * cosines - second * sines, second * cosines + first * sines], axis=-1)


def _frequencies(theta: float, d: int) -> np.ndarray:
    return theta ** -(np.arange(0, d, 2) / d)


def _magnitude(factor: float, given: Mapping[str, Any]) -> float:
    def of(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1 if factor > 1 else 1.0

    if "attention_factor" in given:
        return float(given["attention_factor"])
    if "mscale" in given and "mscale_all_dim" in given:
        return of(given["mscale"]) / of(given["mscale_all_dim"])
    return of(1.0)


def _llama3(frequencies: np.ndarray, trained: float, given: Mapping[str, Any]) -> np.ndarray:
    """Frequencies divided by the factor below `low` turns within the trained context, kept above `high` turns."""
    low, high = given["low_freq_factor"], given["high_freq_factor"]
    if low >= high:
        raise ValueError(f"high_freq_factor must be above low_freq_factor ({low}), got {high}")
    turns = trained * frequencies / (2 * math.pi)  # within the trained context
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return frequencies * (kept + (1 - kept) / given["factor"])
