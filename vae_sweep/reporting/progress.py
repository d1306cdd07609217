"""What a person sees while a grid trains: a live display, or plain lines in a log."""

import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from vae_sweep.system import stop

COLUMNS = {  # column -> (header, format)
    "val/mse_pixel": ("MSE pixel", ".5f"),
    "val/psnr": ("PSNR dB", ".2f"),
    "val/kl": ("KL nats", ".1f"),
    "val/active_units": ("active", ".0f"),
}
SHOWN = 12  # runs in the live table; a larger grid shows those that moved last


class Display:
    """Shows `total` run-steps (one step of one run each) of `runs` runs as they pass."""

    def __init__(self, console: Console, total: int, runs: int):
        self.console, self.runs = console, runs
        self.rows: dict[str, Mapping[str, float]] = {}
        self.total, self.done = total, 0
        # since when steps are timed, and how many were before: processes start slowly
        self.since: tuple[float, int] | None = None
        self.bar = Progress(
            TextColumn("training"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("run-steps · {task.fields[rate]:.0f}/s ·"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
        )
        self.task = self.bar.add_task("training", total=total, rate=0.0)
        self.live = Live(console=console, get_renderable=self._render)

    def __enter__(self) -> "Display":
        if self.console.is_terminal:
            self.live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.console.is_terminal:
            self.live.__exit__(kind, error, traceback)

    def advance(self, run_steps: int) -> None:
        """So many steps of one run have passed."""
        self.done += run_steps
        if self.since is None:
            self.since = time.perf_counter(), self.done
        self.bar.update(self.task, advance=run_steps, rate=self._rate())

    def _rate(self) -> float:
        """Run-steps per second; 0 while not known."""
        if self.since is None:
            return 0.0
        started, before = self.since
        return (self.done - before) / max(time.perf_counter() - started, 1e-9)

    def row(self, run_id: str, row: Mapping[str, float]) -> None:
        """A run was evaluated."""
        self.rows.pop(run_id, None)
        self.rows[run_id] = row
        if self.console.is_terminal:
            return
        numbers = "  ".join(
            f"{header} {row[key]:{form}}" for key, (header, form) in COLUMNS.items()
        )
        self.say(f"step {row['step']:.0f}  {run_id}  {numbers}  {self._eta()}")

    def _eta(self) -> str:
        rate = self._rate()
        if rate == 0 or self.done >= self.total:
            return ""
        return f"{(self.total - self.done) / rate:.0f} s left"

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def stopping(self) -> bool:
        """Whether SIGTERM or SIGINT asks to end."""
        return stop.requested()

    def _render(self) -> Group:
        table = Table(box=None, pad_edge=False)
        table.add_column("run", overflow="ellipsis", no_wrap=True)
        for header in ("step", *(header for header, _ in COLUMNS.values())):
            table.add_column(header, justify="right")
        for run_id, row in list(self.rows.items())[-SHOWN:]:
            cells = [f"{row[key]:{form}}" for key, (_, form) in COLUMNS.items()]
            table.add_row(run_id, f"{row['step']:.0f}", *cells)
        hidden = len(self.rows) - SHOWN
        note = [Text(f"... and {hidden} more runs")] if hidden > 0 else []
        return Group(self.bar, table, *note)
