"""How what a sweep costs beside its training grows with its points, up to 10,000.

    python -m benchmarks.growth [--folder FOLDER] [--most N] [--note TEXT]

Makes sweeps of finished runs (benchmarks.fabricated), then measures each cost in a process
of its own: CPU seconds, wall seconds and peak memory, imports included. Writes the table,
with the slope of each cost over the upper half of the sizes (1: proportional to the points,
2: quadratic), into benchmarks/README.md, and draws benchmarks/growth.png.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from math import log
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

HERE = Path(__file__).parent
SIZES = (100, 300, 1_000, 2_000, 5_000, 10_000)
ROUNDS = 3  # of each cost
REPORTED = 5_000  # points, up to which a page is written; browsers take more, people not
OPENED = 2_000  # points, up to which a browser opens it
SEEDS = 5
CORES = os.cpu_count() or 1
GROUPS = (
    "norm=unit,minus1_1,zscore,zscore_global",
    "head=linear,tanh,tanh_rescaled,hardtanh,sigmoid_rescaled",
)
TINY = (
    *("data=npz", "data.path=images.npz", "data.cache=cache", "model=small"),
    *("model.widths=[4,8]", "model.latent=8", "train.workers=1", "log.wandb.mode=disabled"),
)
BEGIN, END = "<!-- growth: python -m benchmarks.growth -->", "<!-- end of growth -->"


class Cost(NamedTuple):
    """Of a process: CPU and wall seconds, and its peak memory in MB; that is at least this
    process's own, which therefore imports little."""

    cpu: float
    wall: float
    memory: float


Medians = dict[str, dict[int, Cost]]  # of each cost, by points


def overrides(points: int, sweep: str) -> list[str]:
    """A grid of so many points, a multiple of 100."""
    betas = ",".join(f"{0.1 * 1.05**k:.4g}" for k in range(points // (20 * SEEDS)))
    return [*GROUPS, f"beta={betas}", f"seed=range({SEEDS})", *TINY, f"sweep={sweep}"]


COSTS: dict[str, Callable[[str, int], list[str]]] = {  # (sweep, points) -> arguments
    "composed, validated, planned": lambda sweep, n: [
        *("-m", "benchmarks.beside", "planned", *overrides(n, "new"))
    ],
    "listed (sweep.json)": lambda sweep, n: ["-m", "benchmarks.beside", "listed", sweep],
    "claimed and given back": lambda sweep, n: [
        "-m",
        "benchmarks.beside",
        "claimed",
        sweep,
    ],
    "vae-sweep status": lambda sweep, n: ["-m", "vae_sweep.status", sweep],
    "vae_sweep.results": lambda sweep, n: ["-m", "benchmarks.beside", "read", sweep],
    "table and overview.png": lambda sweep, n: ["-m", "benchmarks.beside", "drawn", sweep],
    "all points asked for again": lambda sweep, n: [
        *("-m", "vae_sweep.run", *overrides(n, Path(sweep).name))
    ],
    "vae-sweep report": lambda sweep, n: ["-m", "vae_sweep.report", sweep],
}
REPORT = "vae-sweep report"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="keeps the sweeps, for another time")
    parser.add_argument("--most", type=int, default=SIZES[-1], help="points of a sweep")
    parser.add_argument("--note", default="idle machine", help="of what else ran")
    typed = parser.parse_args()
    sizes = [n for n in SIZES if n <= typed.most]
    with tempfile.TemporaryDirectory() as temporary:
        folder: Path = typed.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        spent: dict[str, dict[int, list[Cost]]] = {name: {} for name in COSTS}
        pages: dict[int, float] = {}  # points -> MB
        _save_images(folder / "images.npz")
        for n in sizes:
            _fabricate(folder, n)
            for name, command in COSTS.items():
                if name == REPORT and n > REPORTED:
                    continue
                arguments = command(f"runs/n{n}", n)
                spent[name][n] = [cost(folder, *arguments) for _ in range(ROUNDS)]
                _say(name, n, spent[name][n])
            if n <= REPORTED:
                pages[n] = (folder / f"runs/n{n}/report.html").stat().st_size / 1e6
        opened = max(n for n in pages if n <= OPENED)
        clicks = _clicks(folder / f"runs/n{opened}/report.html")
    medians = _medians(spent)
    text = _section(medians, pages, opened, clicks, typed.note)
    print(text)
    _write(HERE / "README.md", text)
    _draw(medians, HERE / "growth.png")


def _medians(spent: dict[str, dict[int, list[Cost]]]) -> Medians:
    return {
        name: {
            n: Cost(*map(statistics.median, zip(*costs, strict=True)))
            for n, costs in by_size.items()
        }
        for name, by_size in spent.items()
    }


def _save_images(path: Path) -> None:
    """In a process of its own: this one imports no torch."""
    if not path.exists():
        code = "import sys; from pathlib import Path; from benchmarks import fabricated\n"
        code += "fabricated.save_images(Path(sys.argv[1]))"
        subprocess.run([sys.executable, "-c", code, path.absolute()], check=True)


def _fabricate(folder: Path, points: int) -> None:
    """A sweep of finished runs, by as many processes as there are cores, which share it;
    what a kept folder has of it is found again."""
    start = perf_counter()
    arguments = ["-m", "benchmarks.fabricated", *overrides(points, f"n{points}")]
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(cost, folder, *arguments) for _ in range(CORES)]:
            done.result()
    print(f"{points:6,d} points are there after {perf_counter() - start:.0f} s", flush=True)


def cost(folder: Path, *arguments: str) -> Cost:
    """Of a Python process in `folder`, whose output is left out."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    with tempfile.TemporaryFile() as log:
        start = perf_counter()
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
        )
        _, status, used = os.wait4(process.pid, 0)
        wall = perf_counter() - start
        log.seek(0)
        said = log.read().decode()
    process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{said[-2000:]}")
    return Cost(used.ru_utime + used.ru_stime, wall, used.ru_maxrss / 1024)


def _clicks(page: Path) -> dict[str, float]:
    """Milliseconds until a page answers; none without a browser."""
    from benchmarks.page import milliseconds

    try:
        return milliseconds(page)
    except (ImportError, FileNotFoundError) as error:
        print(f"no browser has looked at the page: {error}")
        return {}


def _say(name: str, points: int, costs: list[Cost]) -> None:
    cells = "; ".join(f"{c.cpu:.1f} s of CPU, {c.memory:.0f} MB" for c in costs)
    print(f"{points:6,d}  {name:30s} {cells}", flush=True)


def slope(values: dict[int, float]) -> float:
    """The exponent k of a cost that grows as points^k, by least squares in a log-log plot
    over the upper half of the sizes.

    Args:
        values: Points -> cost, of at least two sizes.
    """
    upper = list(values.items())[len(values) // 2 :]
    if len(upper) < 2:
        upper = list(values.items())
    linear = statistics.linear_regression(*zip(*_logs(upper), strict=True))
    return linear.slope


def _logs(pairs: list[tuple[int, float]]) -> list[tuple[float, float]]:
    return [(log(points), log(value)) for points, value in pairs]


SHOWN = {
    "cpu": ("CPU, s", ".1f"),
    "wall": ("wall, s", ".1f"),
    "memory": ("peak, MB", ".0f"),
}


def _section(
    medians: Medians,
    pages: dict[int, float],
    opened: int,
    clicks: dict[str, float],
    note: str,
) -> str:
    """What benchmarks/README.md says of it: `pages` are MB by points, `clicks` ms on the
    page of `opened` runs."""
    sizes = list(next(iter(medians.values())))
    width = max(map(len, medians))
    lines = []
    for field, (title, style) in SHOWN.items():
        heads = "".join(f"{n:8,d}" for n in sizes)
        lines.append(f"{title:{width}}{heads}   slope")
        for name, by_size in medians.items():
            values = {n: getattr(cost, field) for n, cost in by_size.items()}
            cells = "".join(
                f"{values[n]:8{style}}" if n in values else f"{'':8}" for n in sizes
            )
            lines.append(f"{name:{width}}{cells}{slope(values):8.2f}".rstrip())
        lines.append("")
    cells = "".join(f"{pages[n]:8.1f}" for n in pages)
    lines.append(f"{'report.html, MB':{width}}{cells}")
    table = "\n".join(lines)
    said = ", ".join(f"{name} {value:.0f}" for name, value in clicks.items())
    browser = (
        f"In Chromium, ms until the next frame of the page of {opened:,} runs, medians "
        f"of 5: {said}."
    )
    return "\n".join(
        [
            f"Medians, n = {ROUNDS}; {note}; {CORES} cores ({platform.machine()}), Python "
            f"{platform.python_version()}, torch {version('torch')}.",
            *("", "```text", table, "```", ""),
            *([browser, ""] if clicks else []),
            "![Each cost over the number of points](growth.png)",
        ]
    )


def _write(path: Path, text: str) -> None:
    """Puts `text` between the marks of a file."""
    content = path.read_text()
    before, _, rest = content.partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def _draw(medians: Medians, path: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    from vae_sweep.reporting import style

    with style.drawn():
        sizes = list(next(iter(medians.values())))
        figure = Figure(figsize=(10, 4.4), layout="constrained", dpi=130)
        frames = figure.subplots(1, 2)
        panels = {"cpu": ("CPU time", "CPU, s"), "memory": ("Peak memory", "MB")}
        for axes, (field, (title, y)) in zip(frames, panels.items(), strict=True):
            style.name_axes(axes, title, "points", y)
            axes.set(xscale="log", yscale="log")
            for hue, (name, by_size) in enumerate(medians.items()):
                values = {n: getattr(cost, field) for n, cost in by_size.items()}
                axes.plot(
                    *zip(*values.items(), strict=True),
                    color=style.LIGHT.colors[hue],
                    marker="osD^vPX*"[hue],
                    markersize=5,
                    lw=1.4,
                    label=f"{name}: {slope(values):.2f}",
                )
            axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
            axes.xaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
            axes.yaxis.set_minor_locator(NullLocator())
        low, high = frames[0].get_ylim()
        ends = sizes[0], sizes[-1]
        for power, dots in ((1, ":"), (2, "--")):
            line = [low * (n / ends[0]) ** power for n in ends]
            quiet = style.LIGHT.quiet
            name = f"slope {power}"
            frames[0].plot(ends, line, color=quiet, ls=dots, lw=1, zorder=1, label=name)
        frames[0].set_ylim(low, high)
        handles, names = frames[0].get_legend_handles_labels()
        figure.legend(
            handles,
            names,
            loc="outside lower center",
            ncols=3,
            fontsize=8,
            frameon=False,
            title="and the slope of its CPU time over the upper half of the sizes",
            title_fontsize=8,
        )
        figure.savefig(path)


if __name__ == "__main__":
    main()
