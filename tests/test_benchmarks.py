"""What benchmarks measure with, where a wrong number would not show."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Cli
from hydra.core.override_parser.overrides_parser import OverridesParser

import benchmarks.judge
from benchmarks.bare import Bare
from benchmarks.configs import configs
from benchmarks.growth import overrides, slope
from benchmarks.judge import EVERY, Ended, Judge, See, calibrated_bits, trained_by_us
from hydra_plugins.vae_sweep_launcher.grid_sweeper import union
from vae_sweep import grid, report
from vae_sweep.records import results
from vae_sweep.records.run_folder import FILES
from vae_sweep.vae.cohort import Cohort
from vae_sweep.vae.normalize import histograms
from vae_sweep.vae.point import point


def test_the_bare_network_is_ours():
    [config] = configs(1, "model.latent=5", "model.widths=[4,6]", "norm=minus1_1")
    images = torch.randint(0, 256, (7, 3, 32, 32), dtype=torch.uint8)
    cohort = Cohort([config], [point(config, histograms(images), 1024)], (3, 32, 32))
    bare = Bare(config.model)
    bare.take(cohort)
    noise = torch.randn(7, 5)
    for is_training in (True, False):  # by the batch's statistics, then by running ones
        bare.train(is_training)
        cohort.train(is_training)
        theirs = bare(images / 255 * 2 - 1, noise)
        seen = cohort(cohort.pixels_of(images), noise[None])
        for value, ours in zip(theirs, (seen.t_hat, seen.mu, seen.logvar), strict=True):
            torch.testing.assert_close(value, ours[0], rtol=1e-4, atol=1e-5)


def test_calibrated_bits_are_those_of_a_known_error_and_kl():
    images, latent = 250, 2
    u, noise = torch.rand(images, 3, 4, 4), torch.randn(images, latent)
    means = torch.linspace(0, 2, images)  # the KL of N(m, 1) in each latent is m^2 / 2

    def see(part: torch.Tensor, drawn: torch.Tensor):
        at = (u[:, None] == part).flatten(2).all(2).nonzero()[:, 0]
        mu = means[at][:, None].expand(-1, latent)
        return part + 0.1 * (-1) ** at[:, None, None, None], mu, torch.zeros_like(mu)

    kl = latent * (np.linspace(0, 2, images) ** 2).mean() / 2
    expected = math.log2(0.1 * math.sqrt(2 * math.pi * math.e)) + 8 + kl / 48 / math.log(2)
    assert calibrated_bits(u, noise, see) == pytest.approx(expected, rel=1e-5)


@pytest.fixture
def clock(monkeypatch):
    """Seconds, in a list, that pass only when a test says so."""
    seconds = [0.0]
    monkeypatch.setattr(benchmarks.judge, "clock", lambda: seconds[0])
    return seconds


def train(judge: Judge, network: torch.nn.Module, see: See, clock):
    """A thousand steps of a second each, unless the judge ends them."""
    judge.start()
    for step in range(1, 1000):
        clock[0] += 1
        judge(step, network, see)


def test_a_judge_leaves_its_own_time_apart(clock):
    errors = iter([0.2, 0.1, 0.01])

    def see(u: torch.Tensor, noise: torch.Tensor):
        clock[0] += 5  # a judgment takes 5 s
        return u + next(errors), torch.zeros_like(noise), torch.zeros_like(noise)

    images = torch.zeros(4, 3, 2, 2, dtype=torch.uint8)
    judge = Judge(images, 2, target=5.0, steps=1000)
    network = torch.nn.Identity()
    with pytest.raises(Ended):
        train(judge, network, see, clock)
    # log2(0.1 sqrt(2 pi e)) + 8 = 6.73; with 0.01 it is 3.40
    assert judge.has_passed
    assert judge.bits == pytest.approx(3.403, abs=1e-3)
    assert judge.step == 3 * EVERY
    assert judge.seconds == judge.step
    assert network.training


@pytest.mark.parametrize(("steps", "most"), [(30, math.inf), (1000, 20)])
def test_a_judge_gives_up_after_steps_or_seconds(steps, most, clock):
    images = torch.zeros(4, 3, 2, 2, dtype=torch.uint8)
    judge = Judge(images, 2, 0.0, steps, most)

    def see(u: torch.Tensor, noise: torch.Tensor):
        return u + 1, torch.zeros_like(noise), torch.zeros_like(noise)

    with pytest.raises(Ended):
        train(judge, torch.nn.Identity(), see, clock)
    assert not judge.has_passed
    assert judge.step == (30 if steps == 30 else EVERY)


@pytest.mark.slow
def test_a_judge_sees_a_run_wherever_it_trains(tmp_path):
    small = ("model.widths=[4,8]", "model.latent=4", "train.steps=60", "data.images=1200")
    fixed = ("train.device=cpu", "log.wandb.mode=disabled", "train.eval_every=60")
    found = []
    for workers in (1, 2):
        asked = configs(2, *small, *fixed, f"train.workers={workers}", f"runs={tmp_path}/r")
        asked = [c.model_copy(update={"sweep": f"of{workers}"}) for c in asked]
        images = torch.arange(48, dtype=torch.uint8).view(1, 3, 4, 4).repeat(20, 1, 8, 8)
        judge = Judge(images, 4, target=0.0, steps=60)
        trained_by_us(
            lambda asked=asked: grid.run(asked), judge, asked[1].run_id, tmp_path / "judge"
        )
        found.append((judge.step, judge.bits, len(judge.own)))
    assert found[0][::2] == found[1][::2] == (60, 2)  # after 25 and 50, apart from the last
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-6)


@pytest.mark.slow
def test_fabricated_runs_are_finished_ones(tmp_path):
    """Of which the real command asks nothing more, and every reader everything."""
    cli = Cli(tmp_path)
    asked = ["head=tanh,linear", "seed=0,1", "data=npz", "data.path=images.npz"]
    asked += ["model.widths=[4]", "model.latent=2", "train.workers=1", "sweep=made"]
    line = [sys.executable, "-m", "benchmarks.fabricated", *asked]
    environment = {**cli.env, "PYTHONPATH": str(Path(__file__).parents[1])}
    made = subprocess.run(
        line, env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    folder = tmp_path / "runs/made"
    before = {path: path.read_bytes() for path in folder.glob("*/*") if path.is_file()}
    assert len(before) == 4 * len(FILES)
    out, _ = cli(*asked)
    assert "4 points have ended already; rerun=all repeats them" in out
    assert {path: path.read_bytes() for path in before} == before
    found = results.load(folder)
    assert list(found.finals["status"]) == ["finished"] * 4
    assert (len(found.curves), len(found.training)) == (4 * 11, 4 * 100)
    assert found.finals[["test/psnr", "predicted_psnr"]].notna().all(axis=None)
    assert report.write(folder).read_text().count("<img") == 1 + 4 * 2


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_a_slope_is_the_exponent_of_what_grows(power):
    values = {n: 3.0 * n**power for n in (1_000, 2_000, 5_000, 10_000)}
    assert slope({100: 7.0, 300: 5.0, **values}) == pytest.approx(power)


def test_grids_of_any_hundred_points_grow_into_each_other():
    few, many = (
        {tuple(job) for job in union(OverridesParser.create().parse_overrides(over))}
        for over in (overrides(300, "s"), overrides(2000, "s"))
    )
    assert (len(few), len(many)) == (300, 2000)
    assert few < many
