"""Every interleaving of processes that claim one run, by the code itself.

The operations on files are replaced by ones on a model of a folder. A process is run again
from its start for each step, on the results that its operations had so far, up to the one
that comes next: so its state is the list of those results, and equal states are met once.
Besides, a process may die between any two operations, and may be taken for dead though it
is not (a machine that was suspended, whose claim grew old) and go on later.
"""

from collections import Counter
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import pytest

from vae_sweep.records import claim as claims
from vae_sweep.records.claim import Stated


class Folder(PurePosixPath):
    def mkdir(self, **_: Any) -> None:
        pass


class Blocked(BaseException):
    """A process is about to do what it has no result of yet."""


class Player:
    """Gives a process the results of its operations so far, then stops it."""

    def __init__(self, results: tuple):
        self.left, self.next, self.blocked = list(results), None, Blocked()

    def do(self, *operation: Any) -> Any:
        if self.next is None and self.left:
            return self.left.pop(0)
        self.next = self.next or operation  # what it does while it is stopped is no matter
        raise self.blocked


player = Player(())


def script(process: "Process") -> str:
    """What a process does with the run, as training/take.py and execute.py do."""
    for _ in range(process.tries):
        claim = claims.take(Folder("run"))
        if claim is None:
            continue
        if player.do("took"):
            claim.remove()
            return "ended by another"
        for what in ("write", "stop" if process.stops else "end"):
            if not player.do(what, claim.stated.token):
                return "lost"
        claim.release() if process.stops else claim.remove()
        return "done"
    return "not had"


class Process(NamedTuple):
    name: str
    results: tuple = ()
    stops: bool = False  # by Ctrl-C, before the run has ended
    tries: int = 1  # to get the run
    holds: bool = False
    is_dead: bool = False
    is_taken_for_dead: bool = False


class State(NamedTuple):
    processes: tuple[Process, ...]
    files: tuple[tuple[int, bytes], ...] = ()  # number -> content of claims
    ended: bool = False  # whether summary.json says so

    def but(self, i: int, **changes: Any) -> "State":
        changed = self.processes[i]._replace(**changes)
        return self._replace(
            processes=(*self.processes[:i], changed, *self.processes[i + 1 :])
        )


@pytest.fixture
def model(monkeypatch):
    """The operations of claim.py, as ones that the player is asked for."""

    def own() -> Stated:
        return Stated(schema=3, token=player.do("own"))

    def read(path):
        content = player.do("read", number(path))
        return content and claims._Found(Stated.model_validate_json(content), 0.0)

    def alive(found, _):
        return not found.stated.released and player.do("alive", found.stated.token)

    def number(path) -> int:
        return int(claims.NAME.fullmatch(path.name)[1])

    _pending.clear()
    monkeypatch.setattr(claims, "_own", own)
    monkeypatch.setattr(claims, "_numbers", lambda _: player.do("numbers"))
    monkeypatch.setattr(claims, "_read", read)
    monkeypatch.setattr(claims, "_is_alive", alive)
    monkeypatch.setattr(claims, "_remove", lambda path: player.do("remove", number(path)))
    monkeypatch.setattr(
        claims, "create", lambda path, content: player.do("create", number(path), content)
    )
    monkeypatch.setattr(
        claims,
        "write_atomically",
        lambda path, content, sync: player.do("replace", number(path), content),
    )


_pending: dict[tuple, Any] = {}  # by what a process is and has had as results


def pending(process: Process) -> Any:
    """The operation that comes next; what the script returned, as a text, at its end."""
    global player
    key = process[:4]
    if key not in _pending:
        player = Player(process.results)
        try:
            _pending[key] = script(process)
        except Blocked:
            _pending[key] = player.next
    return _pending[key]


def token_of(content: bytes) -> str:
    return Stated.model_validate_json(content).token


def after(state: State, i: int) -> State:
    """The state when process `i` has done its next operation."""
    process = state.processes[i]
    operation = pending(process)
    what, *arguments = operation
    files, changes = dict(state.files), {}
    result: Any = None
    if what == "own":
        result = f"{process.name}.{len(process.results)}"
    elif what == "numbers":
        result = frozenset(files)
    elif what == "read":
        result = files.get(arguments[0])
    elif what == "alive":
        owner = next(p for p in state.processes if p.name == arguments[0].split(".")[0])
        result = not (owner.is_dead or owner.is_taken_for_dead)
    elif what == "create":
        result = arguments[0] not in files
        if result:
            files[arguments[0]] = arguments[1]
    elif what == "replace":
        files[arguments[0]] = arguments[1]
    elif what == "remove":
        files.pop(arguments[0], None)
    elif what == "took":
        result, changes["holds"] = state.ended, not state.ended
    else:  # writes are preceded by a look, in one step
        result = arguments[0] in map(token_of, files.values())
        assert result or process.is_taken_for_dead, "a live process lost its claim"
        if result:
            assert not state.ended, "written after the end"
            others = [p for p in state.processes if p is not process]
            assert not any(holds(state, p) for p in others), "written by two"
        changes["holds"] = result and what == "write"
        if what == "end" and result:
            state = state._replace(ended=True)
    state = state.but(i, results=(*process.results, result), **changes)
    return state._replace(files=tuple(sorted(files.items())))


def holds(state: State, process: Process) -> bool:
    """Whether a process would write to the run."""
    tokens = [token_of(content) for _, content in state.files]
    own = any(token.split(".")[0] == process.name for token in tokens)
    return process.holds and not process.is_dead and own


def check(state: State) -> None:
    holding = [p.name for p in state.processes if holds(state, p)]
    assert len(holding) <= 1, f"held by {holding}"


def check_last(state: State) -> None:
    """Where nobody goes on, whoever comes next gets the run, unless it has ended."""
    state = state._replace(processes=(*state.processes, Process("late")))
    i = len(state.processes) - 1
    while not isinstance(outcome := pending(state.processes[i]), str):
        state = after(state, i)
        check(state)
    assert state.ended, f"lost for ever: {outcome}"


def walk(processes: list[Process], harm: int) -> Counter[str]:
    """All states that can be reached, with at most `harm` deaths and mistakes."""
    start = State(tuple(processes))
    seen, stack, counts = {(start, harm)}, [(start, harm)], Counter()
    while stack:
        state, left = stack.pop()
        counts["states"] += 1
        check(state)
        found: list[tuple[State, int]] = []
        for i, process in enumerate(state.processes):
            if process.is_dead:
                continue
            if isinstance(outcome := pending(process), str):
                counts[outcome] += 1
                continue
            found.append((after(state, i), left))
            if left:
                found.append((state.but(i, is_dead=True), left - 1))
                if not process.is_taken_for_dead:
                    found.append((state.but(i, is_taken_for_dead=True), left - 1))
        if not found:
            counts["ends"] += 1
            check_last(state)
        for each in found:
            if each not in seen:
                seen.add(each)
                stack.append(each)
    return counts


CASES = {  # (by Ctrl-C, tries) of each process, and what goes wrong besides
    "two": ([(False, 2), (False, 2)], 3),
    "one of two is stopped": ([(True, 2), (False, 2)], 2),
    "three": ([(False, 1), (False, 1), (False, 1)], 1),
}


@pytest.mark.parametrize("case", CASES)
def test_never_two_hold_a_run_and_none_is_lost_for_ever(model, case):
    each, harm = CASES[case]
    processes = [
        Process(name, stops=stops, tries=tries)
        for name, (stops, tries) in zip("abc", each, strict=False)
    ]
    counts = walk(processes, harm)
    for outcome in ("done", "not had", "lost", "ended by another", "ends"):
        assert counts[outcome], f"no way leads to {outcome}"


def is_first_without_a_look(claim, number):
    return True


def is_first_that_leaves_the_old(claim, number):
    return max(claims._numbers(claim.path.parent)) == number


def take_in_place(folder):
    """Replaces a claim that is nobody's, as one would at first."""
    numbers = claims._numbers(folder)
    path = folder / "claim-1.json"
    claim = claims.Claim(path, claims._own())
    if not numbers:
        return claim if claims.create(path, claims._encoded(claim.stated)) else None
    found = claims._read(path)
    if found is not None and claims._is_alive(found, folder):
        return None
    claims.write_atomically(path, claims._encoded(claim.stated), sync=False)
    return claim if claim.is_held else None


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("_is_first", is_first_without_a_look),
        ("_is_first", is_first_that_leaves_the_old),
        ("take", take_in_place),
    ],
)
def test_the_walk_finds_what_is_wrong(model, monkeypatch, name, wrong):
    monkeypatch.setattr(claims, name, wrong)
    with pytest.raises(AssertionError, match=r"held by|written|lost its claim"):
        walk([Process("a"), Process("b"), Process("c")], 2)
