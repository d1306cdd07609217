"""The sweeps that are killed: each trains for some seconds on two cores."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

TINY = (
    *("model=small", "model.latent=4", "model.widths=[4,8]", "model.norm_layer=none"),
    *("train.batch_size=8", "train.lr=0.001"),
    "train.device=cpu",
)
NPZ = ("data=npz", "data.path=images.npz")
FOLDER = ("data=image_folder", "data.path=pictures")


class Grid(NamedTuple):
    """A sweep: its name, and what is typed after `python -m vae_sweep.run -m`."""

    name: str
    overrides: tuple[str, ...]

    @property
    def arguments(self) -> tuple[str, ...]:
        data = () if "data=image_folder" in self.overrides else NPZ
        return ("-m", *TINY, *data, *self.overrides)

    @property
    def has_workers(self) -> bool:
        return "train.workers=2" in self.overrides

    @property
    def is_sparse(self) -> bool:
        """Whether its runs are evaluated at their ends only, so that a checkpoint made when
        a signal came is told from those of evaluations."""
        return self.name == "sparse"


GRIDS = (
    Grid(
        "two workers",
        (
            *("norm=zscore,unit", "head=tanh,linear", "train.workers=2"),
            *("train.steps=600", "train.eval_every=20", "log.every=7"),
        ),
    ),
    Grid(
        "learned noise",
        (
            *("likelihood=gaussian_learned,gaussian_optimal", "seed=0,1", "norm=zscore"),
            *("train.workers=1", "train.steps=400", "train.eval_every=40"),
        ),
    ),
    Grid(
        "momentum",
        (
            *("norm=unit", "reduction=mean", "train.optimizer=sgd", "train.lr=0.01"),
            *("seed=0,1,2,3", "train.cohort=1", "train.workers=2", "train.clip=1"),
            *("train.steps=500", "train.eval_every=50"),
        ),
    ),
    Grid(
        "batch statistics",
        (
            *("head=tanh_standardized,tanh_rescaled", "norm=zscore", "beta=warmup"),
            *("model.norm_layer=batch", "train.workers=auto"),
            *("train.steps=600", "train.eval_every=30"),
        ),
    ),
    Grid(
        "image folder",
        (
            *FOLDER,
            *("norm=minus1_1,zscore", "beta=0.5,4", "train.workers=2", "train.cohort=2"),
            *("train.optimizer=adamw", "train.weight_decay=0.01"),
            *("train.epochs=20", "train.eval_every=25"),
        ),
    ),
    Grid(
        "many cohorts",
        (
            *("model.latent=2,3,4,5,6,7", "norm=unit", "head=sigmoid"),
            *("likelihood=bernoulli", "beta=cyclical", "train.workers=2"),
            *("train.steps=200", "train.eval_every=20"),
        ),
    ),
    Grid(
        "a run diverges",
        (
            *("norm=raw255", "train.optimizer=sgd", "train.lr=1e-5", "train.momentum=0"),
            *("reduction=sum,mean", "train.workers=2", "train.cohort=1"),
            *("train.steps=800", "train.eval_every=40"),
        ),
    ),
    Grid(
        "sparse",
        (
            *("norm=zscore", "head=tanh_standardized", "seed=0,1", "train.workers=1"),
            *("train.steps=3000", "train.eval_every=3000"),
        ),
    ),
)


def write_images(folder: Path) -> None:
    """images.npz (240 of 8x8, color) and pictures/train/<class>/*.png, pictures/test."""
    rng = np.random.default_rng(0)
    coarse = rng.normal(size=(240, 4, 4, 3)).repeat(2, axis=1).repeat(2, axis=2)
    fields = coarse + 0.2 * rng.normal(size=coarse.shape)
    pixels = (np.array([100, 125, 150]) + 50 * fields).clip(0, 255).astype(np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "images.npz", images=pixels)
    for i, image in enumerate(pixels):
        split = "test" if i % 10 == 0 else "train"
        path = folder / "pictures" / split / f"class{i % 3}" / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
