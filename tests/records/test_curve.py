import math

import pytest

from vae_sweep.records import reader
from vae_sweep.records.curve import CurveFile

ROWS = [(0, 1 / 3, 2.5, 1e-30), (25, 3.0, math.inf, 4.0), (50, -1e300, 2.0, 0.1)]
MORE = [(75, 1.0, 2.0, 3.0), (100, 1.5, 2.5, 3.5)]


@pytest.fixture
def curve(tmp_path) -> CurveFile:
    curve = CurveFile(tmp_path)
    assert curve.append(ROWS[:1]) is None
    assert curve.append(ROWS[1:]) is None
    return curve


def again(curve: CurveFile) -> CurveFile:
    """The same file in a later process."""
    return CurveFile(curve.path.parent)


def test_rows_come_back_as_the_floats_they_were(curve):
    text = "step,loss,mse,kl\n0,0.3333333333333333,2.5,1e-30\n25,3.0,inf,4.0\n"
    assert curve.path.read_text() == text + "50,-1e+300,2.0,0.1\n"
    rows = reader.read_rows(curve.path.parent, "training.csv")
    assert [tuple(row.values()) for row in rows] == ROWS


def test_nothing_is_written_before_there_is_a_row(tmp_path):
    curve = CurveFile(tmp_path)
    assert curve.append([]) is None
    assert curve.stated()["training_rows"] == "0"
    assert not curve.path.exists()


@pytest.mark.parametrize("torn", [b"", b"125,1.0,2", b"125,1.0,2.0,3.0\n7"])
def test_rows_beyond_the_checkpoint_are_cut_and_written_again_as_they_were(curve, torn):
    stated, before = curve.stated(), curve.path.read_bytes()
    curve.append(MORE)
    whole = curve.path.read_bytes()
    curve.path.write_bytes(whole + torn)
    later = again(curve)
    assert later.resume(stated) is None
    assert curve.path.read_bytes() == before
    later.append(MORE[:1])
    later.append(MORE[1:])
    assert curve.path.read_bytes() == whole


def test_of_a_checkpoint_before_the_first_row_nothing_is_left(tmp_path):
    curve = CurveFile(tmp_path)
    stated = curve.stated()
    curve.append(ROWS)
    assert again(curve).resume(stated) is None
    assert not curve.path.exists()


DAMAGES = {
    "a digit": lambda content: content.replace(b"2.5", b"2.6"),
    "a row missing": lambda content: content.replace(b"25,3.0,inf,4.0\n", b""),
    "torn": lambda content: content[:-3],
    "empty": lambda content: b"",
    "junk": lambda content: b"\xff\0",
    "other line ends": lambda content: content.replace(b"\n", b"\r\n"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_file_without_the_checkpoints_rows_is_put_aside_and_begins_anew(curve, case):
    stated = curve.stated()
    damaged = DAMAGES[case](curve.path.read_bytes())
    curve.path.write_bytes(damaged)
    later = again(curve)
    said = later.resume(stated)
    assert said.endswith(
        "lacks rows that its checkpoint states: kept as training.csv.old-1"
    )
    assert curve.path.with_name("training.csv.old-1").read_bytes() == damaged
    later.append(MORE)
    rows = reader.read_training(curve.path.parent, None)
    assert rows.steps == [75, 100]
    assert again(curve).resume(later.stated()) is None


@pytest.mark.parametrize("kind", ["missing", "a folder", "a dangling link"])
def test_what_is_no_file_is_put_aside_and_said(curve, kind):
    stated = curve.stated()
    curve.path.unlink()
    if kind == "a folder":
        curve.path.mkdir()
    elif kind == "a dangling link":
        curve.path.symlink_to("nowhere")
    later = again(curve)
    assert "training.csv" in later.resume(stated)
    later.append(MORE)
    assert reader.read_training(curve.path.parent, None).steps == [75, 100]


def test_a_checkpoint_of_an_earlier_version_has_no_rows_and_nothing_is_said(tmp_path):
    curve = CurveFile(tmp_path)
    assert curve.resume({"rows": "3"}) is None
    curve.append(MORE)
    assert reader.read_training(tmp_path, None).steps == [75, 100]


@pytest.mark.parametrize("altered", [b"", b"step,loss,mse,kl\n", b"other"])
def test_a_file_that_is_altered_while_a_run_trains_is_written_anew_whole(curve, altered):
    curve.path.write_bytes(altered)
    assert "was altered: kept as training.csv.old-1" in curve.append(MORE)
    assert curve.path.with_name("training.csv.old-1").read_bytes() == altered
    assert reader.read_training(curve.path.parent, None).steps == [0, 25, 50, 75, 100]


def test_a_file_that_is_removed_while_a_run_trains_is_written_anew_whole(curve):
    curve.path.unlink()
    assert curve.append(MORE) is None
    assert reader.read_training(curve.path.parent, None).steps == [0, 25, 50, 75, 100]
