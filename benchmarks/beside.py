"""What a sweep does beside its training, each for a process of its own.

    python -m benchmarks.beside planned [overrides of vae_sweep.run]
    python -m benchmarks.beside listed|claimed|read|drawn runs/<sweep>

Imports are in the functions, so that each process has only its own.
"""

import sys
import tempfile
from pathlib import Path

from vae_sweep.config import RunConfig


def planned(*overrides: str) -> None:
    """Composes, validates, locates and plans points that are not there."""
    from vae_sweep.command import entry

    def grid(configs: list[RunConfig]) -> None:
        from vae_sweep.data.dataset import Datasets
        from vae_sweep.training.locate import locate
        from vae_sweep.training.plan import plans
        from vae_sweep.training.prepare import prepare

        points = prepare(locate(configs, Datasets()), print)
        print(*plans(points, len(points)), sep="\n")

    sys.argv[1:] = overrides
    entry.main(grid, "")


def listed(sweep: str) -> None:
    """Lists the runs of `sweep` in a folder of its own, as a command does before it
    trains, and reads the list."""
    from vae_sweep.records import reader, run_folder

    runs = reader.read_sweep(Path(sweep))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run_folder.enter(folder)
        assert run_folder.list_runs(folder, runs) is None
        assert reader.read_sweep(folder).keys() == runs.keys()


def claimed(sweep: str) -> None:
    """Claims as many runs as `sweep` has in a folder of its own, asks who has each, and
    gives them back."""
    from vae_sweep.records import claim, reader

    with tempfile.TemporaryDirectory() as name, claim.Claims() as claims:
        folders = [Path(name) / run_id for run_id in reader.read_sweep(Path(sweep))]
        for folder in folders:
            assert claims.take(folder) is not None
        for folder in folders:
            assert claim.is_held(folder)
            claims.end(folder)
            assert not claim.is_held(folder)


def read(sweep: str) -> None:
    """`vae_sweep.results`."""
    import vae_sweep

    print(vae_sweep.results(sweep))


def drawn(sweep: str) -> None:
    """Reads a sweep, prints its table, and writes table.csv and overview.png."""
    from vae_sweep.records import results
    from vae_sweep.reporting import overview, tables
    from vae_sweep.reporting.console import Console

    found = results.read(sweep)
    tables.print_table(found, Console(least=120))
    with tempfile.TemporaryDirectory() as name:
        tables.save_table(found, Path(name))
        overview.save_overview(found, Path(name))


if __name__ == "__main__":
    {f.__name__: f for f in (planned, listed, claimed, read, drawn)}[sys.argv[1]](
        *sys.argv[2:]
    )
