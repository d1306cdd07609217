"""Python objects as options, against what Hydra's parser makes of the lines."""

import re
from pathlib import Path

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hypothesis import given
from hypothesis import strategies as st

from vae_sweep.command.keywords import lines
from vae_sweep.errors import UserError

TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1)
SCALARS = st.one_of(
    *(st.none(), st.booleans(), st.integers(), TEXT),
    st.floats(allow_nan=False, allow_infinity=False),
)
VALUES = SCALARS | st.lists(SCALARS).map(tuple)


def read(line: str):
    """What Hydra reads: a value, or of a sweep a list of them."""
    [override] = OverridesParser.create().parse_overrides([line])
    if not override.is_sweep_override():
        return plain(override.value())
    return [plain(value) for value in override.sweep_iterator()]


def plain(value):
    if isinstance(value, list):
        return tuple(map(plain, value))
    return value.text if isinstance(value, QuotedString) else value


def same(a, b) -> bool:
    """Equal, and of equal type: True is not 1."""
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@given(VALUES)
def test_a_value_is_read_as_it_is(value):
    [line] = lines({"data.path": value})
    assert same(read(line), value), line


@given(st.lists(VALUES, min_size=2))
def test_a_list_is_an_axis(values):
    [line] = lines({"data.path": values})
    assert same(read(line), values), line


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"norm": "unit", "head": ["tanh", "linear"]}, ["norm=unit", "head=tanh,linear"]),
        ({"model.widths": (4, 8)}, ["model.widths=[4,8]"]),
        ({"model.widths": [(4, 8), (8,)]}, ["model.widths=[4,8],[8]"]),
        ({"seed": range(3)}, ["seed=0,1,2"]),
        ({"seed": [7]}, ["seed=7"]),
        ({"beta": np.array([0.5, 1.0])}, ["beta=0.5,1.0"]),
        ({"beta": np.float32(0.5)}, ["beta=0.5"]),
        ({"data.path": Path("my images")}, ["data.path='my images'"]),
        ({"head": "mine:SOFTSIGN"}, ["head=mine:SOFTSIGN"]),
        ({"log": []}, ["log=[]"]),
        ({"log": ["wandb", "mine:LOGGER"]}, ["log=[wandb,mine:LOGGER]"]),
        ({"log": "wandb"}, ["log=[wandb]"]),
        ({"train": {"steps": 500, "lr": [1e-3, 1e-4]}},
         ["train.steps=500", "train.lr=0.001,0.0001"]),
        ({"rerun": None}, ["rerun=null"]),
        ({"sweep": "true"}, ["sweep='true'"]),
    ],
)  # fmt: skip
def test_lines_are_those_that_one_types(options, expected):
    assert lines(options) == expected


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seed": []}, "a grid has at least one point, got seed=[]"),
        ({"model.widths": [[4, 8]]}, "is a tuple, as model.widths=[(4, 8), ...]"),
        ({"head": object}, "head takes text, numbers, True, False or None"),
        ({"hydra.mode": "RUN"}, "hydra.mode is Hydra's"),
        ({"~log": 1}, "named by a key as train.steps, got '~log'"),
        ({3: 1}, "named by a key as train.steps, got 3"),
    ],
)
def test_what_is_no_option_is_refused(options, said):
    with pytest.raises(UserError, match=re.escape(said)):
        lines(options)
