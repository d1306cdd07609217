"""Linear VAEs trained to the end beside their closed-form optimum.

    python -m benchmarks.linear data=image_folder data.path=cifar

Options are those of vae_sweep.run. Trains `model=linear` with `reduction=gaussian` on
targets unit, minus1_1 and zscore_global, and evaluates on the whole training split, of
which the optimum is. Prints, for each, trained and optimal numbers, how far the decoder's
active columns are from the principal subspace, and the steps and seconds it took.
"""

import sys
import time

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.linalg import eigh, subspace_angles

from vae_sweep.command.entry import CONF, config_of
from vae_sweep.data.dataset import load
from vae_sweep.theory.linear import LinearGaussian
from vae_sweep.training.device import keep_freed_memory
from vae_sweep.training.step import Trainer
from vae_sweep.vae.networks import LinearVAE
from vae_sweep.vae.point import point

NORMS = ("unit", "minus1_1", "zscore_global")
SETTINGS = (
    *("model=linear", "reduction=gaussian", "head=linear", "train.device=cpu"),
    *("train.steps=50000", "train.lr=0.002", "train.batch_size=256"),
)


def main() -> None:
    keep_freed_memory()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        configs = [
            config_of(compose("config", [*SETTINGS, f"norm={norm}", *sys.argv[1:]]))
            for norm in NORMS
        ]
    dataset = load(configs[0].data)
    _, height, width = dataset.shape
    points = [point(c, dataset.counts, height * width) for c in configs]
    images = dataset.images.train
    trainer = Trainer(configs, points, images, "cpu")
    start = time.perf_counter()
    for _ in track(range(trainer.steps), "training", console=Console(stderr=True)):
        trainer.update()
    seconds = time.perf_counter() - start
    values = trainer.evaluate(images)

    table = Table(box=None, pad_edge=False)
    names = ("ELBO", "KL", "SSE (target)", "active units")
    table.add_column("norm")
    for name in names:
        for header in (name, "optimum"):
            table.add_column(header, justify="right")
    table.add_column("near the limit", justify="right")
    table.add_column("largest angle", justify="right")
    vectors = eigh(dataset.spectra.covariance(), lower=False)[1][:, ::-1]
    model = trainer.cohort.model
    assert isinstance(model, LinearVAE)
    for r, (config, constants) in enumerate(zip(configs, points, strict=True)):
        scale, latent = constants.target.scale.numpy(), config.model.latent
        spectrum = dataset.spectra.of(scale, latent)
        assert spectrum is not None
        linear = LinearGaussian(spectrum, scale, latent, height * width)
        v = (constants.variance[0] / scale[0] ** 2).item()
        best = linear.at(v)
        near = int((np.abs(linear.values / v - 1) < 0.1).sum())
        sse = values["mse"][r].item() * linear.pixels
        with torch.no_grad():  # columns of the latents that are used, by length
            columns = model.from_latent.weight[r].double().numpy()
        longest = np.argsort(-np.linalg.norm(columns, axis=0))[: int(best.active_units)]
        angles = subspace_angles(columns[:, longest], vectors[:, : int(best.active_units)])
        table.add_row(
            config.target_norm,
            *(f"{values['elbo'][r]:.2f}", f"{best.elbo:.2f}"),
            *(f"{values['kl'][r]:.3f}", f"{best.kl:.3f}"),
            *(f"{sse:.3f}", f"{best.mse * linear.pixels:.3f}"),
            *(f"{values['active_units'][r]:.0f}", f"{best.active_units:.0f}"),
            str(near),
            f"{np.degrees(angles.max()):.2f}°",
        )
    Console(width=140).print(table)
    print(
        f"{len(images)} images, {trainer.steps} steps of batch "
        f"{trainer.config.batch_size}, {seconds:.0f} s for the three together, "
        f"lr {trainer.config.lr:g}, CPU, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}; ELBO and KL in "
        f"nats per image; near the limit: eigenvalues within 10 % of the variance"
    )


if __name__ == "__main__":
    main()
