"""Continues a run to more steps: `extend=RUN`, a new point that begins with what another
run left.

Its rows are those of a run that was trained to all its steps at once, to the last bit on
CPU, since that is asked of the schedules, the settings and the images beforehand.
"""

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vae_sweep.config import RunConfig, expanded
from vae_sweep.errors import UserError
from vae_sweep.records import claim, reader
from vae_sweep.records.checkpoint import State, is_whole
from vae_sweep.records.curve import CurveFile
from vae_sweep.records.find import run_folder, short_hash
from vae_sweep.records.reader import Unreadable
from vae_sweep.records.results import flattened
from vae_sweep.records.rows import Rows
from vae_sweep.records.run_folder import RunFolder
from vae_sweep.training.locate import Located
from vae_sweep.training.prepare import Prepared
from vae_sweep.training.step import state_shape
from vae_sweep.vae import schedules

LENGTH = ("train.steps", "train.epochs")  # keys that may differ


class Begun(NamedTuple):
    """What a run that is continued leaves to the new point."""

    state: State
    rows: Rows
    training: bytes  # training.csv


def is_due(p: Prepared) -> bool:
    """Whether a point is to begin with another run, and has not yet."""
    own = (p.folder.path / name for name in ("state.safetensors", "summary.json"))
    return p.config.extend is not None and not any(path.exists() for path in own)


def begun(p: Prepared) -> Begun:
    """What the run that `p` extends leaves to it; reads only.

    Raises:
        UserError: There is no such run, it is not the same but for its length, its
            schedules would have been others, or it kept too little to go on.
    """
    name = p.config.extend
    assert name is not None
    path = run_folder(name, expanded("runs", p.config.runs))
    try:
        config, summary = reader.read_config(path), reader.read_summary(path)
    except Unreadable as error:
        raise UserError(f"extend={name}: {path}/{error}; leave extend out") from None
    steps = config.train.total_steps(len(p.dataset.splits.train))
    _check_settings(p, config, steps)
    if p.steps <= steps:
        raise UserError(
            f"extend={name} needs more steps than the run's {steps}, got {p.steps}; "
            f"set train.steps={2 * steps}, or leave extend out"
        )
    if summary is not None and summary.status == "diverged":
        raise UserError(
            f"extend={name} diverged at step {summary.diverged_at} and cannot be "
            f"continued; leave extend out, and lower train.lr"
        )
    if claim.is_held(path):
        raise UserError(f"extend={name}: {path} trains now; wait for it, or stop it")
    kept = RunFolder(config, p.dataset.fingerprint, steps)
    kept.path, kept.curve = path, CurveFile(path)  # which may have been moved
    if kept.stated_identity() != kept.identity:
        raise UserError(
            f"extend={name} was trained on other images than data={p.config.data.name} now "
            f"has; leave extend out"
        )
    shape = state_shape(p.config, p.point, p.dataset.shape)
    state, rows, training = kept.left(shape, steps)
    if state is None:
        raise UserError(
            f"extend={name} has no checkpoint to continue from; leave extend out"
        )
    _check_schedules(p, config, steps, state.step)
    if not is_whole(state):
        raise UserError(
            f"extend={name} needs the run's optimizer state, which was not kept when it "
            f"finished; leave extend out to train from the first step, and set "
            f"log.optimizer_state=true for runs that are to be continued"
        )
    every = p.config.train.eval_every
    due = state.step % every == 0
    return Begun(state, rows_until(rows, state.step, due), training)


def others(points: list[Prepared]) -> str | None:
    """A line on points that begin anew where the same run of other steps is there."""
    found: list[tuple[Prepared, str, int]] = []
    for p in points:
        if p.step or p.config.extend is not None or p.folder.path.exists():
            continue
        alike = p.config.run_id.removesuffix(short_hash(p.config.run_id))
        for path in sorted(p.config.sweep_dir.glob(f"{alike}*")):
            steps = _other_steps(p, path)
            if steps is not None:
                found.append((p, short_hash(path.name), steps))
                break
    if not found:
        return None
    p, name, steps = found[0]
    count = len(found)
    those = "1 point is a new run" if count == 1 else f"{count} points are new runs"
    said = f"{those} of {p.steps} steps; the same settings ran {steps} steps before"
    try:
        begun(p._replace(config=p.config.model_copy(update={"extend": name})))
    except UserError:
        return said
    return f"{said}; train.steps={p.steps} extend={name} continues such a run"


def rows_until(rows: Rows, step: int, evaluated: bool) -> Rows:
    """The rows that a longer run has up to `step`, in which the test split comes later.

    Args:
        rows: Those of a run that ended, or was interrupted, at `step`.
        step: Where the longer run goes on.
        evaluated: Whether that has a row of `step`, which the end made here.
    """
    before = rows.first(sum(s < step for s in rows.steps))
    if not evaluated or step not in rows.steps:
        return before
    cells = rows.lines[len(before) + 1].rstrip(b"\n").split(b",")
    later = [name.startswith("test/") for name in rows.columns]
    line = b",".join(b"" if test else c for c, test in zip(cells, later, strict=True))
    return Rows(b"".join([rows.lines[0], *before.lines[1:], line + b"\n"]))


def check_settings(p: Located, named: Path) -> None:
    """Raises UserError where a point is not the run in `named`, its length apart; what
    cannot be read there is no matter of a point that has begun."""
    with suppress(Unreadable):
        config = reader.read_config(named)
        _check_settings(p, config, config.train.total_steps(len(p.dataset.splits.train)))


def _check_settings(p: Located | Prepared, config: RunConfig, steps: int) -> None:
    """Raises UserError where the point is another run's, its length apart."""
    ours, theirs = _flat(p.config, p.steps), _flat(config, steps)
    keys = dict.fromkeys([*theirs, *ours])
    differ = [key for key in keys if ours.get(key) != theirs.get(key)]
    if not differ:
        return
    if differ == ["train.lr_warmup"]:  # which, where not set, follows from the steps
        warmup = {"lr_warmup": config.train.warmup(steps)}
        train = p.config.train.model_copy(update=warmup)
        alike = p.config.model_copy(update={"train": train})
        _check_schedules(p._replace(config=alike), config, steps, steps)
    if "data.name" in differ:  # whose keys differ as well
        key = config.data.place
        place = f" data.{config.data.place}={getattr(config.data, key)}" if key else ""
        raise UserError(
            f"extend={p.config.extend} continues a run on other images, got "
            f"data={p.config.data.name}; type data={config.data.name}{place}, or leave "
            f"extend out"
        )
    here = ", ".join(f"{key}={ours.get(key, '(not set)')}" for key in differ[:4])
    there = " ".join(f"{key}={theirs[key]}" for key in differ[:4] if key in theirs)
    more = f" and {len(differ) - 4} more" if len(differ) > 4 else ""
    raise UserError(
        f"extend={p.config.extend} continues that run's settings, got {here}{more}; "
        f"type {there or 'those'}, or leave extend out"
    )


def _other_steps(p: Prepared, path: Path) -> int | None:
    """The steps of the finished run in `path` where nothing else differs from `p`."""
    try:
        config, summary = reader.read_config(path), reader.read_summary(path)
    except Unreadable:
        return None
    if summary is None or summary.status != "finished":
        return None
    steps = config.train.total_steps(len(p.dataset.splits.train))
    same = {k: v for k, v in _flat(p.config, p.steps).items() if k != "train.lr_warmup"}
    theirs = {k: v for k, v in _flat(config, steps).items() if k != "train.lr_warmup"}
    return steps if same == theirs else None


def _flat(config: RunConfig, steps: int) -> dict[str, str]:
    """Dotted key -> value of what must agree."""
    values = config.settings
    values["train"]["lr_warmup"] = config.train.warmup(steps)
    place = f"data.{config.data.place}"
    return {
        key: value
        for key, value in flattened(values).items()
        if key not in (*LENGTH, place)
    }


def _check_schedules(
    p: Located | Prepared, config: RunConfig, steps: int, until: int
) -> None:
    """Raises UserError where a run of more steps would have had another learning rate or
    beta before step `until`."""
    rates = [
        schedules.rate_multipliers(c.train, total)[:until]
        for c, total in ((config, steps), (p.config, p.steps))
    ]
    betas = [  # that of `until` is the evaluation's
        schedules.beta_multipliers(c.beta, total)[: until + 1]
        for c, total in ((config, steps), (p.config, p.steps))
    ]
    for what, (was, would) in (("learning rate", rates), ("beta", betas)):
        if not np.array_equal(was, would):
            most = int(np.argmax(np.abs(was - would)))
            raise UserError(
                f"extend={p.config.extend} cannot continue to {p.steps} steps: its "
                f"{what} depends on the run's length (at step {most} it was "
                f"{was[most]:.3g} of the full one, in the longer run it is "
                f"{would[most]:.3g}); leave extend out, and for runs that are to be "
                f"continued set train.lr_schedule=constant beta=1 log.optimizer_state=true"
            )
