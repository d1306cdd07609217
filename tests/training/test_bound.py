"""The importance-weighted bound against exact likelihoods and torch.distributions."""

import math
from typing import Any

import pytest
import torch
from helpers import TINY, make_config, make_images
from torch import Tensor, distributions

from vae_sweep import grid
from vae_sweep.config import RunConfig
from vae_sweep.records import results
from vae_sweep.records.summary import Summary
from vae_sweep.training import bound, metrics
from vae_sweep.training.step import as_rows
from vae_sweep.vae.cohort import Cohort
from vae_sweep.vae.networks import LinearVAE
from vae_sweep.vae.normalize import histograms
from vae_sweep.vae.point import point
from vae_sweep.vae.streams import Streams

IMAGES = make_images(9, 3, 4)
V = 0.02  # decoder variance in pixels


def cohort_of(*configs: RunConfig, images: Tensor = IMAGES) -> Cohort:
    counts, (_, channels, height, width) = histograms(images), images.shape
    points = [point(c, counts, height * width) for c in configs]
    cohort = Cohort(list(configs), points, (channels, height, width)).eval()
    as_rows(list(cohort.parameters()))  # as training lays them out
    return cohort


@torch.no_grad()
def bounds(cohort: Cohort, samples: int, mse: Tensor | None = None, seeds=(0,)):
    """Of IMAGES; at mean squared errors `mse` [R, C] that are V unless given."""
    mse = torch.full((len(seeds), 3), V, dtype=torch.float64) if mse is None else mse
    return bound.bounds(cohort, IMAGES, samples, list(seeds), mse)


# --- the linear-Gaussian VAE, whose likelihood is known ---


@torch.no_grad()
def linear(norm: str, off: float = 0.0) -> tuple[Cohort, float]:
    """A linear VAE of three latents with its exact posterior, `off` from it where given,
    and its exact log likelihood, the mean over IMAGES, at noise V."""
    config = make_config(
        *(f"norm={norm}", "model=linear", "model.latent=3", "head=linear"),
        *("beta=matched", f"beta.sigma={255 * V**0.5}", "train.precision=fp64"),
    )
    cohort = cohort_of(config)
    model, scale = cohort.model, cohort.target.scale[0, 0]
    assert isinstance(model, LinearVAE)
    generator = torch.Generator().manual_seed(0)
    columns = torch.randn(48, 3, generator=generator, dtype=torch.float64)
    w = torch.linalg.qr(columns)[0] * torch.tensor([3.0, 1.0, 0.3])  # orthogonal ones
    b = torch.randn(48, generator=generator, dtype=torch.float64) / 10
    v = (cohort.points[0].variance / scale**2)[0].double()
    eye = torch.eye(48, dtype=torch.float64)
    of_posterior = torch.linalg.inv(eye[:3, :3] + w.T @ w / v)  # diagonal
    to_mu = of_posterior @ w.T / v
    model.from_latent.weight[0], model.from_latent.bias[0] = w, b
    model.to_mu.weight[0], model.to_mu.bias[0] = to_mu, off - to_mu @ b
    model.logvar[0] = of_posterior.diagonal().log() + off
    t = cohort.target.forward(cohort.pixels_of(IMAGES))[0].flatten(1)
    exact = distributions.MultivariateNormal(b, w @ w.T + v * eye).log_prob(t)
    return cohort, exact.mean().item() - 16 * scale.log().sum().item()


@pytest.mark.parametrize("norm", ["unit", "zscore"])
def test_with_the_exact_posterior_one_sample_gives_the_exact_likelihood(norm):
    cohort, exact = linear(norm)
    for samples in (1, 7):
        assert bounds(cohort, samples).own.item() == pytest.approx(exact, abs=1e-9)


def test_calibrated_is_of_a_gaussian_at_the_mean_squared_error():
    """The same density where that is V; the error may differ between channels."""
    cohort, exact = linear("unit")
    mse = torch.tensor([[0.5 * V, V, 1.5 * V]], dtype=torch.float64)
    found = bounds(cohort, 3, mse)
    assert found.calibrated.item() == pytest.approx(exact, abs=1e-9)
    assert bounds(cohort, 3, 2 * mse).calibrated.item() != pytest.approx(exact, abs=0.1)


def test_it_rises_with_the_samples_to_the_exact_likelihood():
    cohort, exact = linear("zscore", off=0.4)
    found = [bounds(cohort, samples).own.item() for samples in (1, 8, 64, 4096)]
    assert found == sorted(found)
    assert found[0] < exact - 0.3
    assert found[-1] == pytest.approx(exact, abs=0.02)


# --- brute force ---


def logistic_mass(u: Tensor, u_hat: Tensor, std: Tensor) -> Tensor:
    """Of bins around the levels, the first and the last open outwards."""
    scale = std * math.sqrt(3) / math.pi
    cdf = lambda x: torch.sigmoid((x - u_hat) / scale)  # noqa: E731
    above = torch.where(u > 254.5 / 255, 1.0, cdf(u + 1 / 510))
    return (above - torch.where(u < 0.5 / 255, 0.0, cdf(u - 1 / 510))).log()


UNIT = ("head=sigmoid", "norm=zscore", "target=unit")
DENSITIES: dict[str, tuple[tuple[str, ...], Any]] = {
    "mse": (("beta.value=0.3",), lambda x, m, s, a: distributions.Normal(m, s).log_prob(x)),
    "l1": (
        ("beta.value=0.3",),
        lambda x, m, s, a: distributions.Laplace(m, s / 2**0.5).log_prob(x),
    ),
    "gaussian_learned": ((), lambda x, m, s, a: distributions.Normal(m, s).log_prob(x)),
    "gaussian_optimal": ((), lambda x, m, s, a: distributions.Normal(m, s).log_prob(x)),
    "discretized_logistic": ((), lambda x, m, s, a: logistic_mass(x, m, s)),
    "bernoulli": (
        UNIT,
        lambda x, m, s, a: distributions.Bernoulli(logits=a, validate_args=False).log_prob(
            x
        ),
    ),
    "continuous_bernoulli": (
        UNIT,
        lambda x, m, s, a: distributions.ContinuousBernoulli(logits=a).log_prob(x),
    ),
}


@torch.no_grad()
@pytest.mark.parametrize("samples", [1, 5])
@pytest.mark.parametrize("likelihood", DENSITIES)
def test_it_is_what_torchs_distributions_give(likelihood, samples, monkeypatch):
    """One sample is the ELBO with a sampled KL. Three samples at once, of one image or of
    three."""
    monkeypatch.setattr(bound, "PIXELS", 3 * 48)
    overrides, log_prob = DENSITIES[likelihood]
    config = make_config(
        *TINY, f"likelihood={likelihood}", "train.precision=fp64", "seed=3", *overrides
    )
    cohort = cohort_of(config)
    mse = torch.tensor([[0.03, 0.02, 0.01]], dtype=torch.float64)
    found = bounds(cohort, samples, mse, (3,))
    streams, values = Streams([3], "importance"), []
    parts = [IMAGES[i : i + 3] for i in (0, 3, 6)] if samples == 1 else IMAGES.split(1)
    std = cohort.likelihoods.std(0, mse[0])[:, None, None]
    for part in parts:
        u, logs = cohort.pixels_of(part), []
        for count in (1,) if samples == 1 else (3, 2):
            noise = streams.normal(len(part) * count, 4).double()
            seen = cohort(u.repeat_interleave(count, 1), noise)
            q = distributions.Normal(seen.mu[0], (seen.logvar[0] / 2).exp())
            z = q.loc + q.scale * noise[0]
            u_hat = cohort.target.inverse(seen.t_hat)[0]
            densities = (
                log_prob(seen.u[0], u_hat, std, seen.a[0]),
                distributions.Normal(u_hat, V**0.5).log_prob(seen.u[0]),
            )
            latent = distributions.Normal(0, 1).log_prob(z) - q.log_prob(z)
            total = torch.stack([d.sum((1, 2, 3)) + latent.sum(1) for d in densities])
            logs.append(total.unflatten(1, (-1, count)))
        values.append(torch.cat(logs, 2).exp().mean(2).log())
    expected = torch.cat(values, 1).mean(1)
    torch.testing.assert_close(torch.cat(found), expected)


def test_without_noise_there_is_none():
    cohort = cohort_of(make_config(*TINY, "beta.value=0"))
    found = bounds(cohort, 2)
    assert found.own.isnan().all()
    assert found.calibrated.isfinite().all()


def test_weights_that_no_float32_holds_are_summed():
    """Of noise of a hundredth of a level, at which ln p is below -100,000."""
    cohort, _ = linear("unit", off=0.2)
    found = bounds(cohort, 50, torch.full((1, 3), 1e-9, dtype=torch.float64))
    assert -1e12 < found.calibrated.item() < -1e5


# --- of several runs, and in a sweep ---


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("model", [TINY[:3], ("model=mlp", "model.widths=[9,7]")])
def test_a_runs_bound_is_the_same_beside_others_bit_for_bit(model, threads, monkeypatch):
    monkeypatch.setattr(bound, "PIXELS", 7 * 48)
    heads = ("linear", "tanh", "tanh_standardized")
    configs = [make_config(*model, f"head={h}", f"seed={s}") for s, h in enumerate(heads)]
    mse = torch.rand(3, 3, dtype=torch.float64) / 50
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = bounds(cohort_of(*configs), 11, mse, (0, 1, 2))
        for r, config in enumerate(configs):
            alone = bounds(cohort_of(config), 11, mse[r : r + 1], (r,))
            assert together.own[r] == alone.own[0]
            assert together.calibrated[r] == alone.calibrated[0]
    finally:
        torch.set_num_threads(before)


def test_evaluation_takes_the_splits_own_error():
    """And the number of bits follows from that of nats."""
    cohort = cohort_of(make_config(*TINY))
    values = metrics.evaluate(cohort, IMAGES, torch.ones(1), [0], samples=4)
    assert tuple(values) == (*metrics.OURS, *metrics.BOUNDS)
    mse = values["mse_pixel"][:, None].expand(1, 3)
    found = bounds(cohort, 4, mse)
    torch.testing.assert_close(values["nll_iw"], -found.own)
    torch.testing.assert_close(values["nll_iw_calibrated"], -found.calibrated)
    bits = values["nll_iw_calibrated"] / (48 * math.log(2)) + 8
    torch.testing.assert_close(values["bits_per_dim_iw_calibrated"], bits)


def test_a_pause_ends_it():
    class Stopped(Exception):
        pass

    calls = []

    def pause() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise Stopped

    mse = torch.full((1, 3), V, dtype=torch.float64)
    rows = bound.PIXELS // 48
    with pytest.raises(Stopped):
        bound.bounds(cohort_of(make_config(*TINY)), IMAGES, 2 * rows, [0], mse, pause)
    assert len(calls) == 3


def test_a_sweep_has_it_of_the_test_split_at_the_end(tmp_path, capsys):
    where = (f"runs={tmp_path}/runs", f"data.cache={tmp_path}/cache", "data.images=60")
    where += ("data.size=8", "data.val_images=5", "data.test_images=7", "train.steps=4")
    more = (*where, "train.eval_every=2", "train.cohort=2")
    plain, asked = (
        make_config(*TINY, *more, f"train.importance_samples={k}") for k in (0, 6)
    )
    assert "importance_samples" not in plain.decisive["train"]
    ended = grid.run([plain, asked])
    assert "bound of 7 test images, 6 samples each" in capsys.readouterr().out
    assert all(isinstance(each, Summary) for each in ended)
    loaded = results.load(asked.sweep_dir)
    runs = {run.run_id: run for run in loaded.runs}
    names = {f"test/{name}" for name in metrics.BOUNDS}
    assert not names & set(runs[plain.run_id].rows.columns)
    rows = runs[asked.run_id].rows
    assert names < set(rows.columns)
    assert all(math.isnan(rows[0][name]) for name in names)
    last = rows[-1]
    assert float(last["test/nll_iw"]) < float(last["test/nll"]) + float(last["test/kl"])
    table = results.table(loaded)
    assert "test importance-weighted NLL (nats per image)" in table
    assert "test calibrated importance-weighted NLL (bits per dimension)" in table
