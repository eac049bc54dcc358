"""The model that ships can do what its card says, and what the experiments need of it."""

import numpy as np
import pytest

from sublinattn.lab.comparison.answers import exact_answers
from sublinattn.lab.models import TINY, open_model
from sublinattn.lab.run import Run
from sublinattn.lm.retrieval import documents
from sublinattn.methods.subgen.studies.line_retrieval import over_slots


@pytest.fixture(scope="module")
def model():
    return open_model(backend="numpy")


def test_it_is_small_and_has_heads_of_64(model):
    config = model.decoder.config
    assert sum(path.stat().st_size for path in TINY.iterdir()) < 16e6
    assert config.head_dim == 64 and model.decoder.trained == 2048


def test_it_answers_line_retrieval(model):
    """The card measured 99 of 100 or more at each length: fewer than 10 of 12 with probability below 3e-4 at 0.99."""
    rng = np.random.default_rng(0)
    for nbytes, count in ((256, 12), (1024, 12)):
        assert exact_answers(model, documents(rng, nbytes, count))["right"].sum() >= 10


def test_more_context_makes_held_out_text_more_certain(model):
    """The card: 1.376 bits per byte after 128 bytes, 1.140 after 1024, of text whose bytes take 8 without a model."""
    rng = np.random.default_rng(2)
    bits = []
    for _ in range(12):
        tokens = model.passage(rng, 1024)
        bits.append([model.decoder.losses(tokens[-n:])[-64:].mean() / np.log(2) for n in (128, 1024)])
    short, long = np.mean(bits, axis=0)
    assert long < short < 2 and long < 1.6


def test_subgen_answers_once_it_has_far_more_slots_than_tokens():
    """Towards the exact limit: 83 of 100 documents at 4 slots a token, none at 1/4 (notebook 21 at standard effort)."""
    rows = over_slots(Run(backend="numpy"))
    right = rows.groupby("slots")["right"].sum()
    assert right[1 / 4] == 0 and right[4] >= 2 and (rows.groupby("slots").size() == 4).all()
