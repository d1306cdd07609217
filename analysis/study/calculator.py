"""docs/calculator.html: what a loss asks for, before any training, in a browser.

    python -m study.calculator                          makes the page
    python -m study.calculator CIFAR_FOLDER MNIST_FILE  counts the images before

The page is one file, of calculator_page/: its formulas (theory.js) are the package's in
JavaScript, which a test compares; ranges of heads, kinds of likelihoods, the losses of code
bases and what is known of the images are given to it as data.
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from study import published, wild
from study.published import Published
from vae_sweep.command.entry import CONF, config_of
from vae_sweep.config import SAME
from vae_sweep.data import dataset
from vae_sweep.data.dataset import Dataset
from vae_sweep.errors import UserError
from vae_sweep.files import write_atomically
from vae_sweep.vae import heads, likelihoods, normalize, objective

ROOT = Path(__file__).parents[2]
SOURCES = Path(__file__).parent / "calculator_page"
PAGE = ROOT / "docs" / "calculator.html"
IMAGES = ROOT / "experiments" / "results" / "images.json"
DIGITS = 9  # of eigenvalues
TRAINING = {"cifar10": (50_000, (3, 32, 32)), "mnist": (60_000, (1, 28, 28))}


def counted(data: Dataset, name: str) -> dict[str, Any]:
    """What the page knows of images: level counts of their training split, and the spectra
    of its pixels under equal scales and under z-scores.

    Args:
        data: The images, split.
        name: What to call them.

    Returns:
        `counts` [C][256]; `total` [C], the pixels' variance summed over a channel;
        `spectra`, each with the `ratio` [C] of the scales to their root mean square, the
        eigenvalues `values` [K] of the covariance of u_c / ratio_c and, where these are not
        1, the squared error `pixel` [K] in pixels for a unit of each direction's.
    """
    channels = data.shape[0]
    scales = [np.ones(channels)]
    if channels > 1:
        scales.append(normalize.fit("zscore", data.counts).scale.numpy())
    train, val = len(data.splits.train), len(data.splits.val)
    spectra, total = [], []
    for scale in scales:
        spectrum = data.spectra.of(scale, 1)
        assert spectrum is not None
        ratio = scale / np.sqrt(np.mean(scale**2))
        spectra.append({"ratio": _rounded(ratio, 15), "values": _rounded(spectrum.values)})
        if channels > 1 and scale is not scales[0]:
            spectra[-1]["pixel"] = _rounded(spectrum.shares @ ratio**2)
        total = _rounded(spectrum.total)
    return {
        "name": name,
        "about": f"{train:,} training images of {train + val:,}, the rest held out",
        "shape": list(data.shape),
        "counts": data.counts.tolist(),
        "total": total,
        "spectra": spectra,
    }


def _rounded(values: np.ndarray, digits: int = DIGITS) -> list[float]:
    return [float(f"{value:.{digits}g}") for value in values]


def count(cifar: str, mnist: str) -> None:
    """Writes IMAGES from the images themselves.

    Args:
        cifar: Folder of CIFAR-10's images, with train/ and test/.
        mnist: Its file, with train_images and test_images.

    Raises:
        UserError: They are not there, or are other images.
    """
    places = {
        "cifar10": ("CIFAR-10, re-encoded as JPEG", "image_folder", cifar),
        "mnist": ("MNIST", "npz", mnist),
    }
    found = {}
    for word, (name, source, path) in places.items():
        quoted = path.replace("'", "\\'")
        with initialize_config_dir(str(CONF), version_base="1.3"):
            composed = compose("config", [f"data={source}", f"data.path='{quoted}'"])
        data = dataset.load(config_of(composed).data)
        images = len(data.splits.train) + len(data.splits.val)
        if (images, data.shape) != TRAINING[word]:
            count, shape = TRAINING[word]
            raise UserError(
                f"{word} has {count:,} training images of {shape}, got {images:,} of "
                f"{data.shape} in {path}; name {name}"
            )
        found[word] = counted(data, name)
    write_atomically(IMAGES, (_lines(found) + "\n").encode())


def _lines(found: dict[str, Any]) -> str:
    """JSON with a line for each list of numbers."""
    text = json.dumps(found, indent=1)
    parts = text.split("[")
    for i, part in enumerate(parts):
        inner, bracket, rest = part.partition("]")
        parts[i] = " ".join(inner.split()) + bracket + rest if bracket else part
    return "[".join(parts)


def presets(table: Published) -> list[dict[str, Any]]:
    """The losses of code bases as the page's set-ups, with what came of them, by name.

    Args:
        table: The published experiment in_the_wild.
    """
    found = []
    for loss in wild.losses(table):
        about, config = loss.about, loss.config
        channels, height, width = wild.shape(config)
        found.append(
            {
                "name": about.name,
                "url": about.url,
                "loss": about.loss,
                "left_out": about.left_out,
                "kl": loss.final["val/kl"],
                "psnr": loss.final["val/psnr"],
                "expects": wild.expects(loss.final["sentence"]),
                "setup": {
                    "data": "mnist" if channels == 1 else "cifar10",
                    "shape": [channels, height, width],
                    "latent": config.model.latent,
                    "norm": config.norm,
                    "target": config.target,
                    "head": config.head,
                    "likelihood": config.likelihood,
                    "reduction": config.reduction,
                    "beta": config.beta.model_dump()["value"],
                },
            }
        )
    return sorted(found, key=lambda preset: preset["name"].lower())


def options() -> dict[str, Any]:
    """What the page needs of the objects behind the options' words."""
    return {
        "heads": {
            word: {
                "low": _finite(head.low),
                "high": _finite(head.high),
                "onto": head.onto,
                "unit": head.is_unit,
            }
            for word, head in heads.OURS.items()
        },
        "likelihoods": {
            word: {
                "noise": likelihood.noise,
                "logit": likelihood.takes == "logit",
                "squared": likelihood.is_squared,
                "gaussian": likelihood.is_gaussian or likelihood.is_squared,
            }
            for word, likelihood in likelihoods.OURS.items()
        },
    }


def _finite(end: float) -> float | None:
    return end if math.isfinite(end) else None


def page(images: dict[str, Any], table: Published) -> str:
    """The page.

    Args:
        images: What is known of data sets by their words, as in IMAGES.
        table: The published experiment in_the_wild.
    """
    environment = Environment(
        loader=FileSystemLoader(SOURCES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    given = {"images": images, "presets": presets(table), "options": options()}
    return environment.get_template("page.html.j2").render(
        data=json.dumps(given, separators=(",", ":")).replace("<", "\\u003c"),
        sources={name: (SOURCES / name).read_text() for name in ("page.css", *SCRIPTS)},
        images=images,
        presets=given["presets"],
        words={
            "norm": [*normalize.OURS],
            "head": [*heads.OURS],
            "likelihood": [*likelihoods.OURS],
            "reduction": [*objective.OURS],
        },
        same=SAME,
    )


SCRIPTS = ("theory.js", "page.js")


def made() -> str:
    """The page of what is committed."""
    try:
        images = json.loads(IMAGES.read_text())
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"{IMAGES} cannot be read ({said}); restore it, or count the images again: "
            f"python -m study.calculator CIFAR_FOLDER MNIST_FILE"
        ) from None
    return page(images, published.load(IMAGES.parent / wild.NAME))


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes docs/calculator.html.")
    parser.add_argument("images", nargs="*", metavar="CIFAR_FOLDER MNIST_FILE")
    places = parser.parse_args().images
    if len(places) not in (0, 2):
        raise UserError(
            f"study.calculator takes CIFAR-10's folder and MNIST's file, or nothing where "
            f"their counts are to stay; got {' '.join(places)}"
        )
    if places:
        count(*places)
    write_atomically(PAGE, made().encode())


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
