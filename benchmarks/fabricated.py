"""Sweeps of finished runs that nobody trained, of any number of points.

    python -m benchmarks.fabricated [overrides of vae_sweep.run]

The command itself, from its points to claims, folders, predictions, table and picture, but
for the training: rows, curves, pictures and weights are made up, and written by the same
RunFolder. A rerun of the real command takes these runs for finished. Of Hydra's record of
each point, which takes longer than all the rest, only the folder is made.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vae_sweep import run
from vae_sweep.records.checkpoint import State
from vae_sweep.records.reader import RECONSTRUCTIONS, SAMPLES
from vae_sweep.records.summary import Summary
from vae_sweep.training import execute
from vae_sweep.training.loop import Progress, Run
from vae_sweep.vae.cohort import Cohort

IMAGES = (150, 32, 32, 3)


def save_images(path: Path) -> None:
    """An npz of smooth random images, whose spectrum falls as that of photographs."""
    generator = np.random.default_rng(0)
    n, height, width, channels = IMAGES
    noise = generator.normal(size=(n, height, width, 1))
    noise = noise + 0.3 * generator.normal(size=(n, height, width, channels))
    waves = np.hypot(*np.meshgrid(np.fft.fftfreq(height), np.fft.fftfreq(width)))
    spectrum = np.fft.fft2(noise, axes=(1, 2)) / (waves + 0.03)[None, :, :, None] ** 2
    smooth = np.fft.ifft2(spectrum, axes=(1, 2)).real
    smooth /= 3 * smooth.std(axis=(1, 2, 3), keepdims=True)
    np.savez(path, images=(255 * (0.5 + smooth).clip(0, 1)).astype(np.uint8))


def main() -> None:
    execute.train = trained  # what it is called by; one process, so that no other calls it
    os.fsync = lambda _: None  # nothing of this needs to outlast a power cut
    run.main()


def trained(
    runs: list[Run],
    images: Any,
    device: torch.device,
    progress: Progress,
    random: Any = None,
) -> list[Summary | None]:
    """As `vae_sweep.training.loop.train`."""
    shape = tuple(images.train.shape[1:])
    first = runs[0]
    cohort = Cohort([first.config], [first.point], shape)
    weights = {name: value[0] for name, value in cohort.state_dict().items()}
    return [_ended(each, weights, images.val, progress) for each in runs]


def _ended(
    run: Run, weights: dict[str, torch.Tensor], val: torch.Tensor, progress: Progress
) -> Summary:
    """Writes a run that ends as its beta and its seed say."""
    folder, config = run.folder, run.config
    (folder.path / ".hydra").mkdir(exist_ok=True)
    generator = np.random.default_rng([config.seed, int(config.run_id[-8:], 16)])
    steps, every = config.train.steps, config.train.eval_every
    assert steps is not None
    noise = max(4.0, run.about.implied_sigma or 20.0)
    bound = 20 * math.log10(255 / noise) + float(generator.normal(scale=0.3))
    batches = np.arange(0.0, steps, config.log.every)
    decay = np.exp(-batches / (0.2 * steps))
    wiggle = 1 + 0.05 * generator.normal(size=(3, len(batches)))
    curve = np.stack([900 + 2000 * decay, 0.05 + decay, 60 - 40 * decay]) * wiggle
    for step in range(0, steps + 1, every):
        row = _row(folder.columns, step / steps, bound, generator)
        row |= {"step": step, "epoch": step * config.train.batch_size / 240}
        if step < steps:  # the test split is read once, at the end
            row |= {name: math.nan for name in row if name.startswith("test/")}
        folder.append(row)
    originals = val[: config.log.reconstructions].permute(0, 2, 3, 1).numpy()
    folder.save_picture(
        originals, _spoiled(originals, noise, generator), name=RECONSTRUCTIONS
    )
    samples = _spoiled(np.roll(originals, 1, axis=2)[::-1], noise, generator)
    folder.save_picture(samples, _spoiled(samples, noise, generator), name=SAMPLES)
    folder.curve.append(np.stack([batches, *curve], axis=1).tolist())
    rows = folder.rows()
    summary = run.about.but(
        status="finished", final=rows[-1], steps=steps, cohort_size=1, seconds=40.0
    )
    folder.finish(summary)
    folder.save_state(State(steps, weights))
    progress.ended(folder.path, summary)
    return summary


def _row(
    columns: Sequence[str], done: float, bound: float, generator: np.random.Generator
) -> dict[str, float]:
    """What an evaluation might have found after this share of the steps; PSNR and KL near
    `bound`, in dB."""
    left = math.exp(-6 * done)
    psnr = bound - (bound - 10) * left + generator.normal(scale=0.05)
    bits = 7.5 - psnr / 20 + generator.normal(scale=0.005)
    found = {
        "psnr": psnr,
        "mse_pixel": 10 ** (-psnr / 10),
        "mse": 4 * 10 ** (-psnr / 10),
        "kl": (1 - left) * (4 * bound + generator.normal(scale=2)),
        "loss": 900 + 2000 * left,
        "bits_per_dim": bits + 0.1,
        "bits_per_dim_calibrated": bits,
        "active_units": round(8 * (1 - left)),
    }
    names = [name.partition("/") for name in columns if "/" in name]
    return {
        f"{split}/{name}": found.get(name, generator.normal()) for split, _, name in names
    }


def _spoiled(
    images: np.ndarray, noise: float, generator: np.random.Generator
) -> np.ndarray:
    """uint8 images as a VAE shows them: blurred, by half of a noise in 8-bit levels."""
    near = sum(np.roll(images.astype(float), shift, axis=(1, 2)) for shift in SHIFTS)
    blurred = near / len(SHIFTS) + generator.normal(scale=noise / 8, size=images.shape)
    return blurred.clip(0, 255).astype(np.uint8)


SHIFTS = ((0, 0), (0, 1), (1, 0), (1, 1))


if __name__ == "__main__":
    main()
