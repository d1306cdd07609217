import io
from pathlib import Path

import pytest
from rich.console import Console

from vae_sweep.records.summary import Summary
from vae_sweep.reporting import progress
from vae_sweep.reporting.progress import AROUND, Display, Shown, duration, in_steps

ROW = {"step": 40.0, "val/psnr": 18.256, "val/kl": 12.34}
RUNS = [Path(f"run{i}") for i in range(4)]


@pytest.fixture
def clock(monkeypatch):
    """Seconds, which pass where a test says so."""

    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def console_of(width=80, height=24, terminal=True) -> Console:
    return Console(
        file=io.StringIO(),
        force_terminal=terminal,
        width=width,
        height=height,
        legacy_windows=False,
        color_system="standard" if terminal else None,
    )


def display_of(console: Console, n=4, total=100, processes=2) -> Display:
    labels = [f"zscore · tanh · β {i}" for i in range(n)]
    points = {Path(f"run{i}"): Shown(label, 0, total) for i, label in enumerate(labels)}
    return Display(console, points, processes)


def lines_of(display: Display) -> list[str]:
    """What a terminal shows, without colors."""
    plain = console_of(display.console.width, display.console.height, terminal=False)
    plain.print(display._render())
    return [line.rstrip() for line in plain.file.getvalue().splitlines()]


def test_without_a_terminal_there_is_a_line_per_evaluation(clock):
    console = console_of(width=120, terminal=False)
    with display_of(console) as display:
        display.advance(RUNS[:1], 0)
        clock.now += 4
        display.advance(RUNS[:1], 40)
        display.row(RUNS[0], ROW)
        display.ended(RUNS[0], Summary(status="finished"))
        display.ended(RUNS[1], Summary(status="diverged", diverged_at=7))
        display.ended(RUNS[2], Summary(status="failed", reason="no memory"))
    assert console.file.getvalue().splitlines() == [
        # 360 of 400 steps are left, at 40 steps in 4 s
        "zscore · tanh · β 0  step 40/100  PSNR 18.26 dB  KL 12.3 nats  10 steps/s  "
        "36 s left",
        "zscore · tanh · β 1  diverged at step 7: its loss is not finite",
        "zscore · tanh · β 2  failed: no memory",
    ]


def test_before_the_first_step_it_says_what_is_waited_for(clock):
    display = display_of(console_of())
    clock.now += 12
    first, header, *points = lines_of(display)
    assert first == "starting 2 processes · 12 s"
    assert header.split() == [
        "point",
        "step",
        "steps/s",
        "PSNR",
        "dB",
        "KL",
        "nats",
        "left",
    ]
    assert points[0].split() == ["zscore", "·", "tanh", "·", "β", "0", "0/100", "waiting"]
    assert len(points) == 4


def test_points_stay_in_the_order_of_the_grid(clock):
    display = display_of(console_of())
    display.advance(RUNS[2:], 0)
    clock.now += 2
    display.advance(RUNS[2:], 50)
    display.row(RUNS[3], ROW)
    display.ended(RUNS[3], Summary(status="finished"))
    head, _, *points = lines_of(display)
    assert [line[:18] for line in points] == [
        f"zscore · tanh · β {i}"[:18] for i in range(4)
    ]
    assert points[2].split()[-3:] == ["25", "2", "s"]
    assert points[2].split()[6] == "50/100"
    assert points[3].split()[6:] == ["50/100", "18.26", "12.3", "finished"]
    # run 3 has ended: 150 of 400; 250 are left, at 100 in 2 s
    assert head.startswith("1 of 4 ended ")
    assert head.endswith("37 % · 50 steps/s · 5 s left")


def test_what_went_wrong_is_red_and_has_its_step(clock):
    console = console_of()
    display = display_of(console)
    display.advance(RUNS, 30)
    display.ended(RUNS[1], Summary(status="diverged", diverged_at=7))
    console.print(display._render())
    [line] = [x for x in console.file.getvalue().splitlines() if "diverged" in x]
    assert "\x1b[31m" in line
    assert "7/100" in line


def test_of_more_points_than_lines_those_that_train_come_first(clock):
    console = console_of(height=AROUND + 3)
    display = display_of(console, n=9)
    runs = [Path(f"run{i}") for i in range(9)]
    display.advance(runs[:1], 100)
    display.ended(runs[0], Summary(status="finished"))
    display.advance(runs[5:7], 10)
    display.ended(runs[1], Summary(status="diverged", diverged_at=3))
    _, _, *points, last = lines_of(display)
    assert [line.split()[5] for line in points] == ["5", "6", "1"]
    assert last == "and 1 finished, 5 waiting"
    assert len(lines_of(display)) < console.height


@pytest.mark.parametrize("width", [40, 80, 120])
def test_every_width_shows_steps_and_time(clock, width):
    display = display_of(console_of(width=width))
    display.advance(RUNS, 0)
    clock.now += 1
    display.advance(RUNS, 25)
    lines = lines_of(display)
    assert all(len(line) <= width for line in lines)
    assert lines[2].split()[-3:] == ["25/100", "3", "s"] if width == 40 else True
    assert ("steps/s" in lines[1]) == (width > 40)


def test_messages_that_waited_and_arrive_at_once_are_no_rate(clock):
    display = display_of(console_of())
    display.advance(RUNS[:1], 191)
    clock.now += 0.001
    display.advance(RUNS[:1], 200)
    assert (display.points[RUNS[0]].rate, display._left()) == (0, None)
    clock.now += 0.999
    display.advance(RUNS[:1], 201)
    assert display.points[RUNS[0]].rate == pytest.approx(10)


def test_a_cohort_that_is_tried_again_has_a_new_rate(clock):
    display = display_of(console_of())
    display.advance(RUNS, 0)
    clock.now += 1
    display.advance(RUNS, 80)
    clock.now += 100
    display.advance(RUNS[:1], 20)
    clock.now += 2
    display.advance(RUNS[:1], 40)
    assert display.points[RUNS[0]].rate == 10


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (9000, "2.5 h"),
     (172800, "2 days")],
)  # fmt: skip
def test_durations(seconds, said):
    assert duration(seconds) == said


def test_rates_have_three_digits():
    assert [in_steps(r) for r in (0.0523, 9.876, 99.6, 1234.5)] == [
        *("0.0523", "9.88", "100", "1,234"),
    ]
