"""The rows of metrics.csv and training.csv, as numbers and as the bytes that hold them."""

import copy
import csv
import hashlib
import io
import math
from array import array
from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise


class Rows:
    """The whole lines of a table: header, then a line per step."""

    def __init__(self, content: bytes, known: bool = False):
        """Of a file.

        Args:
            content: Its lines, each with its line feed; the first is the header.
            known: Whether a digest says that vae-sweep wrote them. They are parsed, and
                refused, when their columns or numbers are asked for: thousands never are.

        Raises:
            ValueError: They are no table of numbers with rising steps.
        """
        self.content = content
        if not known:
            _ = self._table

    @cached_property
    def _table(self) -> "tuple[tuple[str, ...], array[float]]":
        """Columns, and numbers row by row."""
        if not self.content:
            return (), array("d")
        text = self.content.decode()
        header, numbers = _plain(text) or _quoted(text)
        if len(set(header)) < len(header) or "step" not in header:
            raise ValueError("it needs one column step")
        steps = numbers[header.index("step") :: len(header)]
        whole = all(math.isfinite(s) and s >= 0 and s % 1 == 0 for s in steps)
        if not whole or any(b <= a for a, b in pairwise(steps)):
            raise ValueError("its steps do not rise")
        return tuple(header), numbers

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the header; none of an empty file."""
        return self._table[0]

    @property
    def numbers(self) -> "array[float]":
        """Row by row, in the order of the columns; nan where a cell is empty."""
        return self._table[1]

    def __len__(self) -> int:
        return len(self.numbers) // max(len(self.columns), 1)

    def __getitem__(self, index: int) -> dict[str, float]:
        """A row, column -> number."""
        width = len(self.columns)
        start = range(len(self))[index] * width
        return dict(zip(self.columns, self.numbers[start : start + width], strict=True))

    def __iter__(self) -> Iterator[dict[str, float]]:
        return (self[index] for index in range(len(self)))

    @property
    def steps(self) -> list[int]:
        """The step of each row."""
        if not self.columns:
            return []
        place = self.columns.index("step")
        return [*map(int, self.numbers[place :: len(self.columns)])]

    @property
    def lines(self) -> list[bytes]:
        """The header and the rows, each with its line feed."""
        return [line + b"\n" for line in self.content.split(b"\n")[:-1]]

    def first(self, count: int) -> "Rows":
        """The header and `count` rows; nothing at all of no rows."""
        return Rows(b"".join(self.lines[: count + 1]) if count else b"")

    def followed_by(self, line: bytes) -> "Rows":
        """These rows and one more, of a later step."""
        row, more = Rows(self.lines[0] + line), copy.copy(self)
        more.content = self.content + line
        more._table = self.columns, self.numbers + row.numbers
        return more

    @property
    def sha256(self) -> str:
        """The digest of `content`."""
        return hashlib.sha256(self.content).hexdigest()


def _plain(text: str) -> "tuple[list[str], array[float]] | None":
    """Header and numbers of a table as vae-sweep writes it, which csv needs longer for;
    None of any other."""
    head, *lines = text.split("\n")[:-1]
    header, widths = head.split(","), {line.count(",") for line in lines}
    if widths - {len(header) - 1} or '"' in text or "\r" in text:
        return None
    cells = ",".join(lines).replace(",,", ",nan,").replace(",,", ",nan,").split(",")
    if cells[-1] == "":
        cells[-1] = "nan"
    try:
        return header, array("d", map(float, cells if lines else ()))
    except ValueError:
        return None


def _quoted(text: str) -> "tuple[list[str], array[float]]":
    """The same of any table; raises ValueError."""
    try:
        header, *rows = csv.reader(io.StringIO(text), strict=True)
    except csv.Error as error:
        raise ValueError(error) from None
    cells = [float(cell or "nan") for row in rows for cell in row]
    if any(len(row) != len(header) for row in rows):
        raise ValueError("a row has other columns")
    if len(rows) != text.count("\n") - 1:
        raise ValueError("a row spans lines")
    return header, array("d", cells)
