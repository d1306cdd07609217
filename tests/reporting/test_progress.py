import io

from rich.console import Console

from vae_sweep.reporting.progress import COLUMNS, SHOWN, Display

ROW = {"step": 40.0, **dict.fromkeys(COLUMNS, 1.25)}


def console_of(terminal: bool) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=terminal, width=100, legacy_windows=False
    )


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_without_a_terminal_there_are_plain_lines():
    console = console_of(terminal=False)
    with Display(console, total=200, runs=2) as display:
        for _ in range(40):
            display.advance(2)
        display.row("zscore-tanh", ROW)
        display.say("zscore-tanh diverged")
    lines = text_of(console).splitlines()
    assert lines[0].startswith("step 40  zscore-tanh  MSE pixel 1.25000  PSNR dB 1.25")
    assert lines[0].endswith("s left")
    assert lines[1:] == ["zscore-tanh diverged"]
    assert "\x1b" not in text_of(console)


def test_a_terminal_shows_bar_and_rows_and_counts_run_steps():
    console = console_of(terminal=True)
    with Display(console, total=200, runs=2) as display:
        for _ in range(40):
            display.advance(2)
        display.row("zscore-tanh", ROW)
    text = text_of(console)
    assert "80/200" in text
    assert "zscore-tanh" in text
    assert "PSNR dB" in text


def test_a_large_grid_shows_the_rows_that_moved_last():
    console = console_of(terminal=True)
    with Display(console, total=10, runs=SHOWN + 3) as display:
        for i in range(SHOWN + 3):
            display.row(f"run{i:02d}", ROW)
    last = text_of(console).rpartition("run-steps")[2]
    assert "run02" not in last
    assert "run14" in last
    assert "and 3 more runs" in last
