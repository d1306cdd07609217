"""Takes points up: claims each, and looks again at what its folder holds by then."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from vae_sweep.records import loggers
from vae_sweep.records.claim import Claims
from vae_sweep.records.run_folder import RecordsChanged
from vae_sweep.records.summary import Summary
from vae_sweep.training import extend
from vae_sweep.training.extend import Begun
from vae_sweep.training.prepare import Prepared, resumed


class Takes(NamedTuple):
    """How the points of a command are taken up.

    `seen` is what the command saw of the ended runs that it is to repeat: what another
    process made of one since is not repeated. `begun` is what those begin with that go on
    from another run. Both are by folder.
    """

    claims: Claims
    seen: Mapping[Path, Summary]
    begun: Mapping[Path, Begun]

    def planned(self, p: Prepared) -> Prepared:
        """A point with the step that it goes on from, as far as is known before it is
        taken; changes nothing.

        Raises:
            UserError: A later version of vae-sweep wrote its checkpoint.
        """
        path, seen = p.folder.path, self.seen.get(p.folder.path)
        if path in self.begun:
            return p._replace(step=self.begun[path].state.step)
        if seen is not None and _starts_over(p, seen):
            return p._replace(step=0)
        return p._replace(step=p.folder.begun())

    def take(self, p: Prepared, say: Callable[[str], None]) -> Prepared | Summary | None:
        """The point, which is this process's now, and goes on from its checkpoint; its
        summary where another process has ended it; None where another trains it."""
        folder = p.folder
        for done in folder.clear_way():
            say(done)
        folder.claim = self.claims.take(folder.path)
        if folder.claim is None:
            return None
        for done in folder.repair():
            say(done)
        summary, complaint = folder.ended()
        if complaint:
            say(f"{folder.path}: {complaint}")
        if summary is not None:
            if summary != self.seen.get(folder.path):
                self.claims.end(folder.path)
                return summary
            if _starts_over(p, summary):
                folder.start_over()
        if extend.is_due(p):
            folder.begin_with(*(self.begun.get(folder.path) or extend.begun(p)))
        try:
            return resumed([p], say)[0]
        except RecordsChanged as error:
            say(f"{folder.path}: {error} before the run trained")
            return None

    def end(self, p: Prepared) -> None:
        """A run has ended: it is this process's until its loggers have heard all of it."""
        self.claims.end(p.folder.path, lambda: loggers.owes(p.config))

    def give_up(self, p: Prepared) -> None:
        """A run has not ended, and this process does not train it any more."""
        self.claims.give_up(p.folder.path)


def _starts_over(p: Prepared, summary: Summary) -> bool:
    """Whether a run that is to be repeated does not go on from its checkpoint."""
    return summary.status != "failed" or p.config.rerun == "all"
