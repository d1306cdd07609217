"""Seven of the kills of `make survival`, one of each kind, which `make long` runs."""

import sys

import pytest

from .carry_out import Laboratory
from .plan import KINDS, Case, cases, small

pytestmark = pytest.mark.slow

if not sys.platform.startswith("linux"):
    pytest.skip("processes are found in /proc", allow_module_level=True)


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory) -> Laboratory:
    return Laboratory(tmp_path_factory.mktemp("survival"))


@pytest.mark.long
@pytest.mark.parametrize("case", small(), ids=lambda case: f"case{case.number}")
def test_a_killed_sweep_leaves_nothing_behind_and_ends_equal(laboratory, case: Case):
    outcome = laboratory.carry_out(case)
    assert [failure for kill in outcome.kills for failure in kill.failures] == []
    assert outcome.failures == []
    assert outcome.kills  # the sweep lasted until the first of them


def test_the_kills_are_of_all_kinds():
    kinds = [kill.kind for case in small() for kill in case.kills]
    assert sorted(kinds) == sorted(KINDS)


def test_a_plan_follows_from_its_seed_and_a_third_of_it_comes_early():
    drawn = [case for case, _ in zip(cases(3), range(200), strict=False)]
    again = [case for case, _ in zip(cases(3), range(200), strict=False)]
    other = [case for case, _ in zip(cases(4), range(200), strict=False)]
    assert drawn == again != other
    kills = [kill for case in drawn for kill in case.kills]
    assert sum(kill.phase == "first 3 s" for kill in kills) > len(kills) / 3
    for case in drawn:
        for kill in case.kills:
            if kill.kind == "worker SIGKILL":
                assert case.grid.has_workers
                assert kill.phase in ("first 3 s", "training")
