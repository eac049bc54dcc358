"""What [HA24] reports of trained decoders: perplexity with approximate layers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import sympy as sp

from ....lab.models import open_model
from ....theory.claim import Claim, Probability, Sabotage, Trial
from .replaced_layers import AFTER, BEFORE, HYPER, HYPER_SINKS, SINKS, ZERO, Passage, methods


def relative_loss(rng: np.random.Generator, xp: Any, *, n: int, method: str = HYPER, model: str = "tiny") -> Trial:
    """Log-perplexity of a fresh passage with the last half of the layers approximate, over exact attention's.

    `method`: HyperAttention with blocks and samples of n/16 keys, without or with sinks, or `ZERO` (a sabotage).
    """
    opened = open_model(model, backend=xp.__name__)
    tokens, layers = opened.passage(rng, n), opened.decoder.config.layers
    first = layers - layers // 2
    passage = Passage(opened.decoder, tokens, [first])
    last = dict.fromkeys(range(first, layers), methods(n, rng)[method])
    exact, approximate = passage.read({}).nats, passage.read(last).nats
    facts = {"n": n, "perplexity": math.exp(exact), "replaced_perplexity": math.exp(approximate)}
    return Trial(approximate / exact, math.log(AFTER) / math.log(BEFORE), facts=facts)


TRADE = sp.Le(sp.log(sp.Symbol("PPL_hyper")) / sp.log(sp.Symbol("PPL_exact")), sp.log(sp.Float(AFTER)) / sp.log(BEFORE))
ZEROS = Sabotage("zero", "the replaced layers answer 0", {"method": ZERO})

CLAIMS = (
    Claim(
        id="ha24.perplexity-half",
        paper="HA24",
        source="Abstract and Section 4 (ChatGLM2-6B at 32k tokens)",
        basis="reported",
        title="With half of the layers approximate, log-perplexity grows by no more than reported (tiny)",
        model="tiny",
        statement=TRADE,
        kind=Probability(0.5),
        trial=relative_loss,
        cases={"smoke": ({"n": 512},), "standard": ({"n": 2048},)},
        max_trials={"smoke": 30, "standard": 400},
        sabotages=(ZEROS,),
        restated="62bce33: the number of layers stood in the cases, two of the four that the model that ships has",
        reported="perplexity 5.6 becomes 6.3 for 50 percent less inference time",
        remark=(
            "On the typical text: the promise is that at least every other passage does so well. Perplexities of bytes "
            "and of tokens do not compare, so their logarithms' ratio is tested: log 6.3 / log 5.6 = 1.068. The last "
            "half of the layers is replaced (the paper patches from the end), blocks and samples of n/16 keys each, "
            "exact up to n/8: more generous than the paper's 256 of 32768. No key is exempt, as in the paper. The "
            "authors' public code takes 2 to the power of the loss in nats; by the usual definition 5.6 and 6.3 may "
            "then be 12.0 and 14.2. The logarithms' ratio is the same."
        ),
    ),
    Claim(
        id="ha24.perplexity-half-sinks",
        paper="HA24",
        source="Section 4; exempt keys are not in the paper",
        basis="property",
        title=f"The reported trade with the first {SINKS} keys exact in the approximate half of the layers (tiny)",
        model="tiny",
        statement=TRADE,
        kind=Probability(0.5),
        trial=relative_loss,
        cases={"smoke": ({"n": 512, "method": HYPER_SINKS},), "standard": ({"n": 2048, "method": HYPER_SINKS},)},
        max_trials={"smoke": 30, "standard": 400},
        sabotages=(ZEROS,),
        remark=(
            "As ha24.perplexity-half, but the first keys, on which many models put most of their attention, are in "
            "every query's exact part. Where this holds and ha24.perplexity-half does not, the reported trade needs "
            "them there."
        ),
    ),
)
