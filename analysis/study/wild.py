"""docs/in_the_wild.md: what noise the losses of popular code bases imply.

Each line of experiments/in_the_wild.yaml is a loss as a grid point, of which its `about`
says where the loss stands; predictions and what came of them are the published sweep's.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from pydantic import BaseModel, ConfigDict, Field

from study.published import Published
from vae_sweep.command import arguments, experiments
from vae_sweep.command.entry import CONF, config_of
from vae_sweep.config import DeadLeavesConfig, RunConfig
from vae_sweep.errors import UserError
from vae_sweep.vae import likelihoods

NAME = "in_the_wild"
COLLAPSED = 0.5  # nats of KL per image, below which nothing is told of an image
LITTLE = 5.0  # nats, below which it is little
FAINT = 1.0  # level of noise, below which rounding to 8 bits is more


class About(BaseModel):
    """Where a loss stands, `lines` of `file`, and how it reads; `left_out` is what of it
    the grid point lacks."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    repository: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    commit: str = Field(pattern=r"^[0-9a-f]{40}$")
    file: str
    lines: str = Field(pattern=r"^\d+-\d+(, \d+-\d+)*$")
    loss: str
    left_out: str = ""

    @property
    def url(self) -> str:
        first, last = self.lines.split(", ")[0].split("-")
        place = f"{self.repository}/blob/{self.commit}/{self.file}#L{first}-L{last}"
        return f"https://github.com/{place}"

    @property
    def link(self) -> str:
        return f"[{self.name}]({self.url})"


@dataclass(frozen=True, eq=False)
class Loss:
    """A code base's loss, its point, and the row of the published `finals` of its run."""

    about: About
    config: RunConfig
    final: dict[str, Any]

    @property
    def sigma(self) -> float:
        """Implied decoder noise in 8-bit levels; nan where beta implies none."""
        return self.final["implied_sigma"]


def shape(config: RunConfig) -> tuple[int, int, int]:
    """(C, H, W) of a line's images."""
    data = config.data
    assert isinstance(data, DeadLeavesConfig)
    return (1 if data.grayscale else 3), data.size, data.size


def points() -> list[tuple[About, RunConfig]]:
    """Each line of the experiment, composed and validated.

    Raises UserError where a line has several points, or no valid one.
    """
    about = experiments.read(experiments.find(NAME)).about or []
    parser = OverridesParser.create()
    found = []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for said, lines in zip(about, experiments.load(NAME), strict=True):
            overrides = [arguments.parse(line, parser) for line in lines]
            if any(arguments.count(override) > 1 for override in overrides):
                raise UserError(f"a line of {NAME} is one point, got {' '.join(lines)}")
            parts = (part for o in overrides for part in arguments.constant_beta(o))
            composed = compose("config", [str(part.input_line) for part in parts])
            found.append((About.model_validate(said), config_of(composed)))
    return found


def losses(published: Published) -> list[Loss]:
    """All, those of the largest implied noise first and those without one last.

    Raises UserError where the published sweep lacks a line's run.
    """
    rows: Any = published.results.finals.to_dict("records")
    finals = {row["run_id"]: row for row in rows}
    found = []
    for about, config in points():
        if config.run_id not in finals:
            raise UserError(
                f"results/{NAME} lacks {config.run_id}, of {about.name}: train and publish "
                f"the experiment again"
            )
        found.append(Loss(about, config, finals[config.run_id]))
    return sorted(found, key=lambda loss: -loss.sigma if loss.sigma >= 0 else math.inf)


EXPLAINED = """\
Sorted by implied noise: the standard deviation, in 8-bit levels, of the decoder whose
negative ELBO the loss is, up to one factor: a Gaussian's, or Laplace's where the likelihood
is l1. A Bernoulli's cross entropy has no noise to imply (–); one that is learned is in
brackets, as it came out. Expected are active units, KL (nats per image) and PSNR (dB) of a
linear VAE at its optimum, known for Gaussian noise and images up to 64x64x3. Observed are
those of validation images after our small network was trained with that loss on dead leaves
of their size, with one seed: they show what the objective asks for, not what their networks
reach on their images. A latent counts as active from a variance of its mean of 0.01, and a
network spreads its nats over more of them than it needs: compare KL."""


def page(published: Published) -> str:
    """The document."""
    found = losses(published)
    by_name = sorted(found, key=lambda loss: loss.about.name.lower())
    parts = [
        "# In the wild",
        f"<!-- made by analysis/study/wild.py from experiments/{NAME}.yaml -->",
        lead(found),
        "\n".join(table(found)),
        EXPLAINED,
        f"{published.caption}. Made by `python -m vae_sweep.run experiments={NAME}`.",
        "## What each loss says",
        "\n".join(map(_said, by_name)),
    ]
    return "\n\n".join(parts) + "\n"


def lead(found: Sequence[Loss]) -> str:
    """What one learns."""
    repositories = {loss.about.repository for loss in found}
    implied = [loss for loss in found if loss.sigma >= 0]
    largest, least = implied[0], implied[-1]
    middle = statistics.median(loss.sigma for loss in implied)
    wide = [loss for loss in implied if loss.sigma >= 255]
    known = {loss: loss.final["predicted_active_units"] for loss in implied}
    known = {loss: units for loss, units in known.items() if not math.isnan(units)}
    unused = [loss for loss, units in known.items() if units == 0]
    few = [loss for loss, units in known.items() if units < loss.config.model.latent / 2]
    half = [
        loss
        for loss in found
        if loss.config.target_norm == "unit" and loss.config.head == "tanh"
    ]
    collapsed = [loss for loss in found if loss.final["val/kl"] < COLLAPSED]
    little = [loss for loss in found if COLLAPSED <= loss.final["val/kl"] < LITTLE]
    faint = [loss for loss in implied if loss.sigma < FAINT]
    capped = [loss for loss in found if loss.final["psnr_cap"] < math.inf]
    low, high = _short(least.sigma), _short(largest.sigma)
    return (
        f"What noise do the losses of popular code bases imply? {len(found)} losses of "
        f"{len(repositories)} repositories, read in their own files and written as grid "
        f"points: every mean, sum and factor is folded into reduction and beta.\n\n"
        f"- The {len(implied)} that imply one range from {low} levels of 255 "
        f"({least.about.name}) to {high} ({largest.about.name}). The median is "
        f"{_short(middle)}; {len(wide)} are at or above 255, the whole range of pixels.\n"
        f"- Options of one code base imply different noise: {_spans(implied)}.\n"
        f"- Collapse is predicted for {_names(unused)}; it was observed (KL below "
        f"{COLLAPSED} nats) for {_names(collapsed)}. KL ended below {LITTLE:g} nats for "
        f"{_names(little)}. Of the {len(known)} whose linear optimum is known, "
        f"{len(few)} leave more than half of their latents unused.\n"
        f"- KL has almost no effect (noise below {FAINT:g} level) in {_names(faint)}.\n"
        f"- Heads that miss targets: {_names(capped)}. A tanh over targets in [0, 1] "
        f"leaves half of its range unused: {_names(half)}."
    )


def _spans(implied: Sequence[Loss]) -> str:
    """Least and largest noise of each repository with several; `implied` descends."""
    noises: dict[str, list[float]] = {}
    for loss in implied:
        noises.setdefault(loss.about.repository, []).append(loss.sigma)
    return ", ".join(
        f"{_short(sigmas[-1])} to {_short(sigmas[0])} in {repository}"
        for repository, sigmas in noises.items()
        if len(sigmas) > 1
    )


COLUMNS = (
    *("code base", "targets", "head", "likelihood", "reduction", "beta", "N (CxHxW)"),
    *("D", "implied sigma", "expected units", "KL", "PSNR"),
    *("observed units", "KL", "PSNR", "what vae-sweep says"),
)


def table(found: Sequence[Loss]) -> list[str]:
    """A line per loss, as Markdown."""
    rules = ["---"] * 5 + ["--:"] * 10 + ["---"]
    return [_row(COLUMNS), _row(rules), *(_row(_cells(loss)) for loss in found)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(loss: Loss) -> list[str]:
    config, final = loss.config, loss.final
    sigma = _short(loss.sigma)
    if likelihoods.named(config.likelihood).noise in ("learned", "optimal"):
        sigma = f"({_short(final['val/sigma'])})"
    numbers = [
        *_three(final, "predicted_active_units", "predicted_kl", "predicted_psnr"),
        *_three(final, "val/active_units", "val/kl", "val/psnr"),
    ]
    return [
        loss.about.link,
        config.target_norm,
        config.head,
        config.likelihood,
        config.reduction,
        config.beta.label,
        f"{math.prod(shape(config)):,} ({'x'.join(map(str, shape(config)))})",
        str(config.model.latent),
        sigma,
        *numbers,
        expects(final["sentence"]),
    ]


def _three(final: dict[str, Any], *columns: str) -> list[str]:
    """Units, KL and PSNR."""
    digits = (0, 1, 1)
    return [
        "–" if math.isnan(final[column]) else f"{final[column]:.{n}f}"
        for column, n in zip(columns, digits, strict=True)
    ]


def expects(sentence: str) -> str:
    """The part of a prediction's sentence that warns, or nothing."""
    _, found, warning = sentence.partition("expect ")
    return found + warning


def _said(loss: Loss) -> str:
    about = loss.about
    left_out = f" Left out: {about.left_out}." if about.left_out else ""
    return (
        f"- **{about.name}**, `{about.file}` of {about.repository}@{about.commit[:10]}, "
        f"lines {about.lines}: {about.loss}.{left_out}"
    )


def _names(found: Sequence[Loss]) -> str:
    names = [loss.about.name for loss in found]
    if len(names) < 2:
        return names[0] if names else "none"
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _short(sigma: float) -> str:
    if math.isnan(sigma):
        return "–"
    return f"{sigma:,.0f}" if sigma >= 9.95 else f"{sigma:.2g}"
