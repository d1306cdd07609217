"""The pages that the study writes: the front page's answers, docs/answers.md, advice."""

from collections.abc import Mapping
from contextlib import suppress

import numpy as np
import pandas as pd

from study import trained
from study.answers import QUESTIONS, Answer, fixes
from study.balance import beta_factor
from study.effects import MARGINS, judged, margin, markdown, recipe, rows
from study.published import Study, Unpublished
from vae_sweep.errors import counted


def front(study: Study) -> str:
    """The answers for the front page, a sentence each."""
    given = answered(study)
    lines = [f"- **{a.question}** {a.sentence}" for a in given]
    missing = len(QUESTIONS) - len(given)
    if missing:
        more = counted(missing, "more question")
        lines += ["", f"The grids behind {more} are still being trained."]
    core = study.of("core")
    about = core.about
    return "\n".join(
        [
            *lines,
            "",
            f"Test split, [95 % t intervals], paired by seed; {about['data']}; "
            f"{about['steps']} steps of batch {about['batch_size']}, {core.seeds}; "
            f"{about['hardware']}, torch {about['versions']['torch']}. Tables, networks, "
            "limits and commands of each: [docs/answers.md](docs/answers.md).",
        ]
    )


RULE = f"""\
All numbers are of the test split, read once at the end of training, and paired by seed: two
points of one seed see the same batches and noise. `by seed` has the pairs' differences.
Intervals are Student's t at 95 %. A decision is made against a margin that the header of
the experiment states ({", ".join(margin(unit) for unit in MARGINS)}): *higher* and *lower*
are beyond it, *equal* is shown to be within it, anything else is *undecided*. Decisions and
their p-values are corrected by Holm over all rows of a question. Of a KL, and of factors on
β, the ratio is shown (×). `half → end` is the same on validation images at half of training
and at its end. `since half` compares the two: *settled*, shown to have moved by less than a
third of the margin; *still grows* or *shrinks*, shown to have moved by more; a dash,
neither.
"""


def answered(study: Study) -> list[Answer]:
    """The answers whose experiments are published."""
    given = []
    for of in QUESTIONS:
        with suppress(Unpublished):
            given.append(of(study))
    return given


def page(study: Study) -> str:
    """docs/answers.md: every answer with its tables, its limits and its commands."""
    lines = ["# The answers and their numbers", "", "Made by `make study`.", "", RULE]
    given = answered(study)
    for answer in given:
        lines += [f"## {answer.question}", "", answer.sentence, ""]
        lines += shown(answer)
        lines += ["**Limits.**", "", *limits(study, answer), ""]
    names = dict.fromkeys(name for answer in given for name in answer.experiments)
    sweeps = {name: study.of(name).results.finals for name in names}
    lines += ["## Are the networks trained?", "", *optimum(sweeps)]
    return "\n".join(lines) + "\n"


def shown(answer: Answer) -> list[str]:
    """The tables of an answer in Markdown."""
    lines: list[str] = []
    for title, family in answer.tables.items():
        if family:
            lines += [f"**{title}**", "", rows(family), ""]
    for more in answer.more:
        lines += [more, ""]
    return lines


def limits(study: Study, answer: Answer) -> list[str]:
    """What an answer rests on: a line per experiment."""
    lines = []
    for name in answer.experiments:
        published = study.of(name)
        about = published.about
        passed = trained.share([published.results.finals])
        capped = trained.share([published.results.finals], capped=True)
        of_capped = (
            f"; of capped heads, against it clipped, {capped}" if capped.runs else ""
        )
        lines.append(
            f"- `{name}`: {published.caption}. Against the linear optimum: "
            f"{passed}{of_capped}. "
            f"`{about['command']}`, commit {about['commit'][:10]}."
        )
    moving = {
        j.effect.said: j.moves
        for family in answer.tables.values()
        for j in family
        if j.moves in ("still grows", "shrinks")
    }
    if moving:
        told = ", ".join(f"{label} ({moves})" for label, moves in moving.items())
        lines.append(f"- Not settled when training ended: {told}.")
    return lines


def optimum(sweeps: Mapping[str, pd.DataFrame]) -> list[str]:
    """Which share of the runs pass the linear optimum, and which do not."""
    told = (
        "Runs whose head reaches every target, whose linear optimum (at the same noise and "
        "latents) has an active unit, and with β > 0: "
    )
    lines, failed = [f"{told}{trained.share(sweeps.values())}."], trained.failures(sweeps)
    capped = trained.share(sweeps.values(), capped=True)
    if capped.runs:
        told = "Of heads that do not, against that optimum clipped to the head's range"
        lines += ["", f"{told}: {capped}."]
    if not failed.empty:
        lines += [
            "",
            "Those that do not pass it in bits:",
            "",
            markdown(failed.set_index("experiment"), "experiment"),
        ]
    left = sum(trained.without_optimum(sweep) for sweep in sweeps.values())
    if left:
        told = "Without an optimum to pass, as their likelihood's has no closed form"
        lines += ["", f"{told}: {counted(left, 'run')}."]
    return lines


def advice(study: Study) -> pd.DataFrame:
    """What to do about a set-up, what it gained here (dB of test PSNR at equal noise,
    over leaving it), and beta's factor, which keeps the noise."""
    core = recipe(study.of("core"))
    n = int(np.prod(core.about["images"]["shape"]))
    z = beta_factor(core, "zscore", "minus1_1")
    factors = {"target=minus1_1": f"{z:.3g}, the channels' mean"}
    found = {j.effect.said: j for j in judged(fixes(core))}
    ways = ("head=linear", "head=tanh_rescaled", "target=minus1_1")
    order = sorted(ways, key=lambda way: -found[way].shown.estimate)
    rows = [
        ("z-scored inputs, tanh", way, found[way].text, factors.get(way, "1"))
        for way in order
    ]
    rows += [
        (
            "another change of the targets' scale",
            "beta=matched, or the factor",
            "",
            "(old scale / new scale)²",
        ),
        ("F.mse_loss and KL.mean(), D latents", "sum both", "", f"{n} / D"),
        ("F.mse_loss and KL.sum(1).mean()", "sum the squared error", "", f"{n}"),
        ("1/2 before the summed squared error", "nothing; where dropped:", "", "2"),
        ("no idea what beta to take", "gaussian_optimal, or beta.sigma", "", ""),
    ]
    columns = ["if you have", "do", "gained", "multiply beta by"]
    return pd.DataFrame(rows, columns=columns).set_index("if you have")
