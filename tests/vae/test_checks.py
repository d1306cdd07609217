"""Every option of ours is what it says; one that is not is refused with what was found."""

import math
import re

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vae_sweep.errors import UserError
from vae_sweep.vae import heads, likelihoods, normalize, objective, schedules
from vae_sweep.vae.checks import (
    check_head,
    check_likelihood,
    check_norm,
    check_reduction,
    check_schedule,
)
from vae_sweep.vae.heads import Head
from vae_sweep.vae.likelihoods import Likelihood, gaussian
from vae_sweep.vae.normalize import Affine
from vae_sweep.vae.schedules import Schedule

INF = math.inf


OURS = {
    check_head: heads.OURS,
    check_likelihood: likelihoods.OURS,
    check_norm: normalize.OURS,
    check_reduction: objective.OURS,
}


@pytest.mark.parametrize(
    ("check", "option"),
    [
        pytest.param(check, option, id=f"{check.__name__}-{name}")
        for check, ours in OURS.items()
        for name, option in ours.items()
    ],
)
def test_our_options_are_what_they_say(check, option):
    check(option)


SCHEDULES = {
    "constant": {"value": 2.0},
    "warmup": {"value": 2.0, "fraction": 0.3},
    "cyclical": {"value": 2.0, "cycles": 3, "ramp": 0.4},
    "matched": {"sigma": 12.0, "fraction": 0.25},
    "normalized": {"beta_norm": 0.1},
}


@pytest.mark.parametrize("name", schedules.OURS)
def test_our_schedules_are_what_they_say(name):
    check_schedule(schedules.OURS[name](**SCHEDULES[name]))


@pytest.mark.parametrize(
    "head",
    [
        Head(F.softsign, -1, 1),
        Head(F.softsign, -1, 1, lambda a: 1 / (1 + a.abs()) ** 2, onto="target"),
        Head(torch.arcsinh, -INF, INF),
        Head(F.softplus, 0, INF),
        Head(F.relu, 0, INF, lambda a: (a > 0).to(a)),
        Head(torch.sin, -1, 1),
        Head(F.hardsigmoid, 0, 1, onto="target"),
    ],
)
def test_right_heads_pass(head):
    check_head(head)


@pytest.mark.parametrize(
    ("head", "found"),
    [
        (Head(torch.tanh, -0.5, 1), r"must lie in -0.5..1, got -1 at -1e\+06"),
        (Head(torch.tanh, -1, 2), "high=2 where they end at 1"),
        (Head(torch.tanh, -INF, 1), "low=-inf where they end at -1"),
        (Head(torch.tanh, 1, -1), "low must be below high, got 1 and -1"),
        (Head(torch.tanh, "-1", 1), "low and high must be numbers"),  # pyright: ignore
        (
            Head(torch.tanh, -1, 1, lambda a: torch.ones_like(a)),
            r"its derivative .* got 1 where finite differences give",
        ),
        (Head(lambda a: a.mean(), -INF, INF), r"the shape .* \[2, 3, 2, 2\], got \[\]"),
        (Head(lambda a: torch.softmax(a, 1), 0, 1), "elementwise"),
        (Head(lambda a: a - a.mean(), -INF, INF), "elementwise"),
        (Head(torch.round, -INF, INF), "gradients must flow through its function"),
        (Head(lambda a: a.detach(), -INF, INF), "gradients must flow through its function"),
        (Head(torch.log, -INF, INF), "a number everywhere, got nan at -"),
        (Head(lambda a: a.float(), -INF, INF), "the type .* got torch.float32"),
        (Head(torch.tanh, -1, 1, logit=lambda a: a), "the sigmoid of its logit"),
        (Head(torch.sin, -INF, INF, onto="target"), "onto='target' needs a finite range"),
        (Head(torch.sin, -1, 1, onto="pixels"), "onto must be"),  # pyright: ignore
        (Head(lambda a: a.nope, -1, 1), "its function raised AttributeError"),  # pyright: ignore
    ],
)
def test_wrong_heads_are_refused_with_what_was_found(head, found):
    with pytest.raises(UserError, match=found):
        check_head(head, "head=mine:HEAD")


class StudentT(Likelihood):
    """With five degrees of freedom and standard deviation std."""

    def log_prob(self, u, given, std):
        scale = std * math.sqrt(3 / 5)
        return torch.distributions.StudentT(5.0, given, scale).log_prob(u)


class Beta(Likelihood):
    """Of [0, 1] alone, where quadrature of the whole line would see nan."""

    noise = "none"

    def log_prob(self, u, given, std):
        a, b = 2 + 0 * given, torch.full_like(given, 3)
        return torch.lgamma(a + b) - torch.lgamma(a) - torch.lgamma(b) + u.log() + 2 * (
            1 - u
        ).log()  # fmt: skip


class Huber(Likelihood):
    """exp(-huber), the KL against which implies its scale; a constant normalizes it."""

    noise = "implied"
    UNIT = 2 * (math.sqrt(math.pi / 2) * math.erf(1 / math.sqrt(2)) + math.exp(-0.5))

    def error(self, difference):
        return F.huber_loss(difference, torch.zeros_like(difference), reduction="none")

    def variance(self, tempering, scale):
        return tempering * scale**2  # for the test alone: at tempering 1 it is exact

    def log_prob(self, u, given, std):
        return -self.error((u - given) / std) - std.log() - math.log(self.UNIT)


@pytest.mark.parametrize("likelihood", [StudentT(), Beta()])
def test_right_likelihoods_pass(likelihood):
    check_likelihood(likelihood)


def wrong(**what) -> Likelihood:
    """A Gaussian likelihood but for `what`."""
    methods = {"log_prob": lambda self, u, given, std: gaussian(u, given, std), **what}
    return type("Wrong", (Likelihood,), methods)()


@pytest.mark.parametrize(
    ("likelihood", "found"),
    [
        (
            wrong(log_prob=lambda self, u, m, s: -(((u - m) / s) ** 2)),
            r"must integrate to 1, got 0.03545 \(at mean 0, std 0.02\)",
        ),
        (wrong(kind="mass"), r"must sum to 1, got 137.5 \(at mean 0, std 0.02\)"),
        (wrong(kind="cross_entropy"), "a cross entropy has no negative value"),
        (wrong(kind="odd"), "kind must be one of density, mass, cross_entropy"),
        (wrong(noise="odd"), "noise must be one of"),
        (wrong(takes="odd"), "takes must be image or logit"),
        (wrong(takes="logit"), "takes='logit' needs noise='none'"),
        (
            wrong(log_prob=lambda self, u, m, s: gaussian(u, m.mean(), s)),
            "elementwise",
        ),
        (wrong(log_prob=lambda self, u, m, s: gaussian(u, m, s).sum()), "the shape"),
        (wrong(log_prob=lambda self, u, m, s: u.nope), "its log_prob raised"),
        (Likelihood(), "its log_prob raised NotImplementedError"),
        (
            wrong(
                noise="implied",
                error=lambda self, d: d.abs(),
                variance=lambda self, tempering, scale: tempering * scale**2 / 2,
            ),
            "ln p must be -error / tempering",
        ),
        (Huber(), "ln p must be -error / tempering"),
        (
            wrong(
                log_prob=lambda self, u, m, s: StudentT().log_prob(u, m, s), noise="optimal"
            ),
            "need a Gaussian log_prob",
        ),
        (
            wrong(
                noise="none",
                takes="logit",
                log_prob=lambda self, u, m, s: likelihoods.continuous_bernoulli(u, m),
            ),
            "its mean must be that of its density",
        ),
    ],
)
def test_wrong_likelihoods_are_refused_with_what_was_found(likelihood, found):
    with pytest.raises(UserError, match=found):
        check_likelihood(likelihood)


def zeros(counts: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(counts))


@pytest.mark.parametrize(
    ("norm", "found"),
    [
        (
            lambda counts: Affine(zeros(counts), zeros(counts)),
            "invert",
        ),
        (
            lambda counts: Affine(zeros(counts), zeros(counts) - 1),
            "above 0",
        ),
        (lambda counts: Affine(torch.zeros(1), torch.ones(3)), "1 shifts and 3 scales"),
        (lambda counts: (counts, counts), "256 shifts"),
        (lambda counts: 3, "got a int"),
        (lambda counts: Affine("a", "b"), "got "),  # pyright: ignore
        (
            lambda counts: Affine(torch.rand(len(counts)), torch.ones(len(counts))),
            "another",
        ),
        (lambda counts: counts.nope, "raised AttributeError"),
    ],
)
def test_wrong_norms_are_refused_with_what_was_found(norm, found):
    with pytest.raises(UserError, match=found):
        check_norm(norm)


@pytest.mark.parametrize(
    ("reduction", "found"),
    [
        (lambda n, d: (1.0, -1.0), "above 0, got 1 and -1"),
        (lambda n, d: (0.0, 1.0), "above 0"),
        (lambda n, d: (math.nan, 1.0), "finite"),
        (lambda n, d: 3.0, "two numbers"),
        (lambda n, d: (1, 2, 3), "two numbers"),
        (lambda n: (1.0, 1.0), "raised TypeError"),
    ],
)
def test_wrong_reductions_are_refused_with_what_was_found(reduction, found):
    with pytest.raises(UserError, match=found):
        check_reduction(reduction)


@pytest.mark.parametrize(
    ("schedule", "found"),
    [
        (Schedule(-1.0), "finite and 0 or more, got -1.0"),
        (Schedule(lambda n, d, implied: math.nan), "finite and 0 or more, got nan"),
        (Schedule(lambda n: 1.0), "its final raised TypeError"),  # pyright: ignore
        (Schedule(1.0, lambda p: p / 2), "end at 1, the final beta, got 0.5"),
        (Schedule(1.0, lambda p: 1.0), "an array of numbers"),  # pyright: ignore
        (Schedule(1.0, lambda p: p - 0.5), "got -0.5 at progress 0"),
        (Schedule(1.0, lambda p: np.where(p < 1, np.nan, p)), "got nan at progress 0"),
        (Schedule(1.0, lambda p: p.nope), "its multiplier raised"),
    ],
)
def test_wrong_schedules_are_refused_with_what_was_found(schedule, found):
    with pytest.raises(UserError, match=found):
        check_schedule(schedule)


def test_a_message_names_the_option_as_it_was_typed():
    with pytest.raises(UserError, match=re.escape("head=mine:HEAD: its outputs")):
        check_head(Head(torch.tanh, -0.5, 0.5), "head=mine:HEAD")
