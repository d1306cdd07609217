"""training.csv of a run: loss, MSE and KL of training batches, appended before each
checkpoint.

A run's results never depend on it: what does not fit is put aside, and it begins anew.
"""

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from vae_sweep.files import append, put_aside, write_atomically
from vae_sweep.records.reader import CURVE, TRAINING

HEADER = (",".join(CURVE) + "\n").encode()


class CurveFile:
    """training.csv in a run's `folder`, as the process that trains the run writes it."""

    def __init__(self, folder: Path):
        self.path = folder / TRAINING
        self._kept: bytes | None = None  # what the file holds, once this process writes

    @property
    def whole(self) -> bytes:
        """Its header and whole rows."""
        if self._kept is not None:
            return self._kept
        content = self._content()
        return content[: content.rfind(b"\n") + 1]

    @property
    def sha256(self) -> str:
        """The digest of `whole`."""
        return hashlib.sha256(self.whole).hexdigest()

    def stated(self) -> dict[str, str]:
        """What a checkpoint states of the rows that belong to it."""
        rows = max(0, self.whole.count(b"\n") - 1)
        return {"training_rows": str(rows), "training_sha256": self.sha256}

    def resume(self, about: Mapping[str, str]) -> str | None:
        """Cuts the rows beyond those of the checkpoint that states `about`; of none, as of
        an earlier version's, or where they are not there, the file begins anew.

        Returns what was put aside, and why.
        """
        self._kept = None
        content, kept = self._content(), self.of(about)
        if kept is not None:
            if kept != content and kept:
                write_atomically(self.path, kept)
            elif kept != content:
                self.path.unlink()
            return None
        if not self._is_there():
            missing = about.get("training_rows", "0") != "0"
            return f"{self.path} is missing: a new one is begun" if missing else None
        return f"{self.path} lacks rows that its checkpoint states: {self._set_aside()}"

    def of(self, about: Mapping[str, str]) -> bytes | None:
        """The header and rows of the checkpoint that states `about`, nothing of none; None
        where they are not there."""
        rows = about.get("training_rows", "")
        count = int(rows) if rows.isdecimal() else 0
        lines = self._content().splitlines(keepends=True)
        kept = b"".join(lines[: count + 1]) if count else b""
        right = about.get("training_sha256") == hashlib.sha256(kept).hexdigest()
        return kept if right else None

    def begin_with(self, content: bytes) -> None:
        """Begins with the header and rows of another run, or with none."""
        self._kept = None
        if content:
            write_atomically(self.path, content)
        else:
            self.path.unlink(missing_ok=True)

    def append(self, rows: Iterable[Iterable[float]]) -> str | None:
        """Adds rows of later steps than those that are there: CURVE, step by step.

        Returns what was put aside: a file that somebody altered while the run trained is
        written anew.
        """
        cells = ((f"{step:.0f}", *map(repr, values)) for step, *values in rows)
        lines = "".join(",".join(row) + "\n" for row in cells).encode()
        if not lines:
            return None
        before, content = self.whole, self._content()
        self._kept = (before or HEADER) + lines
        if before and content == before:
            append(self.path, len(before), lines)
            return None
        altered = self._is_there() and content != before
        said = f"{self.path} was altered: {self._set_aside()}" if altered else None
        write_atomically(self.path, self._kept)
        return said

    def _content(self) -> bytes:
        with suppress(OSError):
            return self.path.read_bytes() if self.path.is_file() else b""
        return b""

    def _is_there(self) -> bool:
        return self.path.exists() or self.path.is_symlink()

    def _set_aside(self) -> str:
        return f"kept as {put_aside(self.path).name}"
