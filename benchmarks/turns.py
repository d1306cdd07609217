"""Ways to do a thing, measured in turns, so that whatever else runs hits all of them."""

from collections.abc import Callable, Mapping


def in_turns(
    ways: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, list[float]]:
    """What each of `ways` returns, seconds, in each of `rounds`; one before warms up."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            spent = way()
            if turn:
                found[name].append(spent)
    return found
