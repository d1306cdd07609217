"""What a person sees while a grid trains: a live display, or plain lines in a log."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vae_sweep.records.summary import Summary
from vae_sweep.system import stop

NARROW = 64  # columns, below which PSNR, KL and rates are left out
MOST = 40  # points shown, however high the terminal; a notebook says 100 lines
AROUND = 4  # lines of the display that are no points, and one that stays free
KNOWN_S = 1.0  # seconds, before which no rate is stated: what waited arrives at once
NOTEBOOK_S = 1.0  # seconds between updates in a notebook, where each is sent to a browser
STYLES = {"diverged": "red", "failed": "red", "finished": "green", "waiting": "dim"}


class Shown(NamedTuple):
    """A point as the display names it, and the updates it goes on from and is to have."""

    label: str
    step: int
    total: int


@dataclass
class _State:
    """How far a point is; `began` says when it was at which step first."""

    label: str
    step: int
    total: int
    began: tuple[float, int] | None = None
    at: float = 0.0
    row: Mapping[str, float] | None = None
    ended: Summary | None = None

    @property
    def status(self) -> str:
        if self.ended is not None:
            return self.ended.status
        return "training" if self.began else "waiting"

    @property
    def rate(self) -> float:
        """Steps per second, evaluations included; 0 while not known."""
        if self.began is None or self.at - self.began[0] < KNOWN_S:
            return 0.0
        return (self.step - self.began[1]) / (self.at - self.began[0])

    @property
    def left(self) -> float | None:
        """Seconds; None while not known."""
        return (self.total - self.step) / self.rate if self.rate else None


class Display:
    """Shows how far the points of a grid are, in their order.

    Args:
        console: Where; a live display on a terminal and in a notebook, else a line for each
            evaluation.
        points: Folder -> what is shown of the point.
        processes: In which they train.
    """

    def __init__(self, console: Console, points: Mapping[Path, Shown], processes: int = 1):
        self.console, self.processes = console, processes
        self.points = {path: _State(*shown) for path, shown in points.items()}
        self.opened = time.monotonic()
        self.since: float | None = None  # the first step: processes start slowly
        self.passed = 0  # steps since then, of all points
        self.live = Live(console=console, get_renderable=self._render)
        self.cell: Any = None  # a notebook's
        self.updated = 0.0
        self._stack = ExitStack()

    def __enter__(self) -> "Display":
        if self.console.is_terminal:
            self._stack.enter_context(self.live)
        elif self.console.is_jupyter:
            from IPython.display import display

            self.cell = display(self._render(), display_id=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()
        self._update(now=True)

    def advance(self, runs: Sequence[Path], step: int) -> None:
        """These runs train, and have made `step` updates."""
        now = time.monotonic()
        self.since = now if self.since is None else self.since
        for run in runs:
            point = self.points[run]
            if point.began is None or step < point.step:  # a cohort that is tried again
                point.began = now, step
            self.passed += max(0, step - point.step)
            point.step, point.at = step, now
        self._update()

    def row(self, run: Path, row: Mapping[str, float]) -> None:
        """A run was evaluated."""
        point = self.points[run]
        point.row = row
        self._update()
        if not self._is_live:
            self.say("  ".join(filter(None, self._line(point))))

    def ended(self, run: Path, summary: Summary) -> None:
        """A run has ended: finished, diverged or failed."""
        point = self.points[run]
        point.ended = summary
        self._update()
        if self._is_live:
            return
        if summary.status == "diverged":
            at = f"diverged at step {summary.diverged_at}: its loss is not finite"
            self.say(f"{point.label}  {at}")
        elif summary.status == "failed":
            self.say(f"{point.label}  failed: {summary.reason}")

    def leave(self, run: Path) -> None:
        """A point is another process's, and no more shown."""
        rest = {path: point for path, point in self.points.items() if path != run}
        self.points = rest  # a thread draws the others
        self._update()

    def say(self, text: str) -> None:
        """Prints a line above the display."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def stopping(self) -> bool:
        """Whether SIGTERM or SIGINT asks to end."""
        return stop.requested()

    @property
    def _is_live(self) -> bool:
        return self.console.is_terminal or self.cell is not None

    def _update(self, now: bool = False) -> None:
        """Sends the display to a notebook; a terminal's is drawn by a thread of its own."""
        if self.cell is not None and (now or time.monotonic() - self.updated > NOTEBOOK_S):
            self.cell.update(self._render())
            self.updated = time.monotonic()

    def _line(self, point: _State) -> list[str]:
        """A point's last evaluation, in a log."""
        row = point.row or {}
        left = self._left()
        return [
            point.label,
            f"step {row['step']:.0f}/{point.total}",
            f"PSNR {row['val/psnr']:.2f} dB",
            f"KL {_nats(row['val/kl'])} nats",
            f"{in_steps(point.rate)} steps/s" if point.rate else "",
            f"{duration(left)} left" if left else "",
        ]

    def _rate(self) -> float:
        """Steps per second, of all points together."""
        if self.since is None or time.monotonic() - self.since < KNOWN_S:
            return 0.0
        return self.passed / (time.monotonic() - self.since)

    def _left(self) -> float | None:
        """Seconds until all points have ended; None while not known."""
        open_ = [point for point in self.points.values() if point.ended is None]
        steps, rate = sum(point.total - point.step for point in open_), self._rate()
        alone = [point.left or 0.0 for point in open_]
        return max([steps / rate, *alone]) if rate else None

    def _render(self) -> Table:
        grid = Table.grid(expand=True)
        grid.add_row(self._head())
        grid.add_row(self._table())
        hidden = Counter(p.status for p in self.points.values()) - Counter(
            p.status for p in self._chosen()
        )
        if hidden:
            counted = ", ".join(f"{n} {status}" for status, n in hidden.items())
            grid.add_row(Text(f"and {counted}", "dim"))
        return grid

    def _head(self) -> Table | Text:
        """The bar of the whole grid; before the first step, what is waited for."""
        if self.since is None:
            several = f"{self.processes} processes" if self.processes > 1 else "training"
            waited = time.monotonic() - self.opened
            return Text(f"starting {several} · {waited:.0f} s", "bold")
        total = sum(point.total for point in self.points.values())
        made = sum(
            point.step if point.ended is None else point.total
            for point in self.points.values()
        )
        ended = sum(point.ended is not None for point in self.points.values())
        counted = f"{ended} of {len(self.points)} ended"
        said = [f"{100 * made // max(total, 1)} %", f"{in_steps(self._rate())} steps/s"]
        left = self._left()
        said += [f"{duration(left)} left"] if left else []
        if self.console.width < NARROW:
            return Text(" · ".join([counted, said[0], *said[2:]]), "bold")
        line = Table.grid(padding=(0, 1), expand=True)
        line.add_column(no_wrap=True)
        line.add_column(ratio=1)
        line.add_column(no_wrap=True, justify="right")
        bar = ProgressBar(total=total, completed=made)
        line.add_row(Text(counted, "bold"), bar, " · ".join(said))
        return line

    def _chosen(self) -> list[_State]:
        """The points that are shown: all in their order, or, where they do not fit, those
        that train first, then those that went wrong, then those that wait."""
        room = max(1, min(self.console.height - AROUND, MOST))
        points = list(self.points.values())
        if len(points) <= room:
            return points
        order = ("training", "diverged", "failed", "waiting", "finished")
        return sorted(points, key=lambda point: order.index(point.status))[:room]

    def _table(self) -> Table:
        wide = self.console.width >= NARROW
        table = Table(box=None, pad_edge=False, expand=True, header_style="dim")
        table.add_column("point", ratio=1, overflow="ellipsis", no_wrap=True)
        headers = ["steps/s", "PSNR dB", "KL nats"] if wide else []
        longest = max((len(str(point.total)) for point in self.points.values()), default=1)
        widths = {"step": 2 * longest + 1, "left": len("finished")}
        for header in ("step", *headers, "left"):
            least = widths.get(header, len(header))  # so that nothing moves while it runs
            table.add_column(header, justify="right", no_wrap=True, min_width=least)
        for point in self._chosen():
            status, row = point.status, point.row or {}
            if status == "training" and not row.get("step"):
                row = {}  # that of the untrained network would look like a result
            step = point.step
            if point.ended is not None and point.ended.diverged_at is not None:
                step = point.ended.diverged_at
            cells = [escape(point.label), f"{step}/{point.total}"]
            if wide:
                training = status == "training" and point.rate
                cells.append(in_steps(point.rate) if training else "")
                cells.append(f"{row['val/psnr']:.2f}" if row else "")
                cells.append(_nats(row["val/kl"]) if row else "")
            known = point.left
            remains = "" if known is None else duration(known)
            cells.append(remains if status == "training" else status)
            table.add_row(*cells, style=STYLES.get(status))
        return table


def _nats(value: float) -> str:
    """In the seven characters of a column."""
    return f"{value:.1f}" if value < 99999.95 else f"{value:.1e}"


def duration(seconds: float) -> str:
    """`8 s`, `3 min`, `2.5 h`, `4 days`."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            number = seconds / size
            return f"{number:.1f} {unit}" if unit == "h" else f"{number:.0f} {unit}"
    return f"{seconds:.0f} s"


def in_steps(rate: float) -> str:
    """Steps per second, in three digits or more: `0.25`, `12.3`, `1,234`."""
    return f"{rate:,.0f}" if rate >= 99.5 else f"{rate:.3g}"
