"""Odd command lines end in a line or train, whatever is typed; see odd_configs.py."""

import threading

import pytest
from odd_configs import (
    Foreign,
    _limited,
    drawn,
    folder_with_images,
    outcome,
    through_command,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(folder_with_images(tmp_path))
    return tmp_path


def test_nothing_foreign_leaves_configuration_and_validation(folder):
    drawn(50, outcome)


def test_nothing_foreign_leaves_the_command(folder):
    drawn(2, lambda typed: through_command(typed, folder))


def test_a_foreign_exception_and_a_hang_are_noticed(folder, monkeypatch):
    monkeypatch.setattr("odd_configs._accepted", lambda typed: 1 // 0)
    with pytest.raises(Foreign, match="ZeroDivisionError"):
        outcome(["seed=1"])
    with pytest.raises(Foreign), _limited(1):
        threading.Event().wait()
