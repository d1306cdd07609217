"""A trained run as a model: images in, latents and images out.

It needs the run's folder alone, which has the weights, the configuration and the
normalization's constants; of a user's own network or head the module, too.
"""

import warnings
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from vae_sweep import options
from vae_sweep.config import RunConfig
from vae_sweep.data import dataset
from vae_sweep.errors import UserError, shown
from vae_sweep.records import checkpoint, claim, reader
from vae_sweep.records.checkpoint import State, is_weight
from vae_sweep.records.find import run_folder
from vae_sweep.records.reader import LeftAlone, Unreadable, check_schema
from vae_sweep.records.run_folder import RunFolder
from vae_sweep.records.summary import Constants, Summary
from vae_sweep.vae import point
from vae_sweep.vae.cohort import Cohort
from vae_sweep.vae.layers import reparameterized
from vae_sweep.vae.normalize import Affine
from vae_sweep.vae.point import Point
from vae_sweep.vae.streams import stream

if TYPE_CHECKING:
    from vae_sweep.records.results import Run

BATCH = 256  # images that are computed at once
SLACK = 1e-3  # by which pixels may leave [0, 1]: less than half an 8-bit level
Shape = tuple[int, int, int]  # an image's (C, H, W)
Layout = Literal["nhwc", "nchw", "hwc", "chw", "nhw", "hw"]
LAYOUTS: tuple[Layout, ...] = ("nhwc", "nchw", "hwc", "chw", "nhw", "hw")


class Posterior(NamedTuple):
    """What an encoder says of n images: a Gaussian per latent, [n, D] each.

    Tensors of images that are tensors, else NumPy arrays.
    """

    mean: Any
    logvar: Any


class Ends(NamedTuple):
    """What a run's images fix: their shape, and the constants of the normalizations."""

    shape: Shape
    norm: Affine
    target: Affine
    zscore: Affine | None


class Model:
    """The network of a trained run, in evaluation mode. `vae_sweep.load` makes one.

    Images come in as NumPy arrays, tensors, or what NumPy makes one of: uint8, or floating
    pixels in [0, 1]; [n, H, W, C] or [n, C, H, W], of one channel also [n, H, W], or one
    image without n. Of tensors the results are tensors on `device`, images as
    [n, C, H, W]; of all else NumPy arrays, images as [n, H, W, C]. Images that come out are
    pixels in [0, 1]: the mean of the decoder's distribution, clipped unless `clip=False`.
    Gradients flow to a tensor that requires them; the weights are frozen.

    Of data that is binarized, images are to be black and white, as in training.

    Attributes:
        folder: The run's folder.
        config: Its configuration.
        run_id: Its name.
        status: finished, interrupted, running, diverged or failed.
        step: The updates that its weights have had.
        shape: (C, H, W) of its images.
        latent: D, the number of latents.
        device: Where it computes.
    """

    def __init__(
        self,
        folder: Path,
        config: RunConfig,
        ends: Ends,
        state: State,
        status: str,
        device: torch.device | str = "cpu",
    ):
        self.folder, self.config, self.run_id = folder, config, folder.name
        self.status, self.step = status, state.step
        self.shape, self.ends = ends.shape, ends
        self.device = torch.device(device)
        # of the loss nothing is needed, nor where the weights started
        nan = torch.full_like(ends.target.scale, torch.nan)
        constants = Point(*ends[1:], (1.0, 1.0), 1.0, nan, 1.0, None)
        self.cohort = Cohort([config], [constants], ends.shape)
        self._load(state)
        self.cohort.to(self.device).eval().requires_grad_(False)
        self.latent = self.cohort.latent

    def __repr__(self) -> str:
        channels, height, width = self.shape
        return (
            f"<Model {self.run_id}: {self.config.model.name}, {height}x{width}x{channels} "
            f"images, {self.latent} latents, {self.status} at step {self.step:,}>"
        )

    def encode(self, images: ArrayLike | Tensor, layout: Layout | None = None) -> Posterior:
        """The approximate posterior of images.

        Args:
            images: See the class.
            layout: What their axes are, where their shape leaves it open.

        Returns:
            mean and logvar, [n, D] each.

        Raises:
            UserError: They are no images of this model's shape.
        """
        u = self._pixels(images, layout)
        parts = [self.cohort.encode(part[None]) for part in u.split(BATCH)]
        mean, logvar = (torch.cat([y[0] for y in ys]) for ys in zip(*parts, strict=True))
        return Posterior(*(_as_given(y, images) for y in (mean, logvar)))

    def decode(self, z: ArrayLike | Tensor, clip: bool = True) -> Any:
        """The mean images of latents.

        Args:
            z: [n, D], or [D] of one image.
            clip: Whether pixels beyond [0, 1] are moved to its ends.

        Returns:
            Pixels, [n, H, W, C]; of a tensor [n, C, H, W].

        Raises:
            UserError: z has another number of latents.
        """
        given = torch.as_tensor(z if isinstance(z, Tensor) else np.asarray(z))
        if given.ndim not in (1, 2) or given.shape[-1] != self.latent or given.is_complex():
            raise UserError(
                f"z must be [n, {self.latent}], got {given.dtype} {list(given.shape)}"
            )
        latents = given.to(self.device, self.cohort.dtype).reshape(-1, self.latent)
        return _as_given(_channels_last(self._decoded(latents, clip), z), z)

    def reconstruct(
        self,
        images: ArrayLike | Tensor,
        seed: int | None = None,
        clip: bool = True,
        layout: Layout | None = None,
    ) -> Any:
        """Images encoded and decoded.

        Args:
            images: See the class.
            seed: z is the posterior's mean; with a seed it is drawn from the posterior.
                The run's own seed and the first validation images give the run's
                reconstructions.png.
            clip: As of `decode`.
            layout: As of `encode`.

        Returns:
            Pixels, [n, H, W, C]; of a tensor [n, C, H, W].

        Raises:
            UserError: As `encode`.
        """
        u = self._pixels(images, layout)
        noise = torch.zeros(len(u), self.latent)
        if seed is not None:
            noise = torch.randn(len(u), self.latent, generator=stream(seed, "pictures"))
        parts = []
        for part, own in zip(u.split(BATCH), noise.to(u).split(BATCH), strict=True):
            mean, logvar = (y[0] for y in self.cohort.encode(part[None]))
            z = mean if seed is None else reparameterized(mean, logvar, own)
            parts.append(self._decoded(z, clip))
        return _as_given(_channels_last(torch.cat(parts), images), images)

    def sample(self, n: int, seed: int = 0, clip: bool = True) -> np.ndarray:
        """Mean images of latents drawn from the prior, N(0, I).

        Args:
            n: How many.
            seed: Decides the draw: the same n images again. The run's own, and as many,
                give the run's samples.png.
            clip: As of `decode`.

        Returns:
            Pixels, NumPy [n, H, W, C]. `decode(torch.randn(n, model.latent))` gives
            tensors.
        """
        if not isinstance(n, int) or n < 1:
            raise UserError(f"a sample has at least one image, got n={shown(n)}")
        z = torch.randn(n, self.latent, generator=stream(seed, "samples"))
        return self.decode(z.numpy(), clip)

    def _decoded(self, z: Tensor, clip: bool) -> Tensor:
        """z [n, D] -> pixels [n, C, H, W]."""
        u = torch.cat([self.cohort.decode(part[None])[0][0] for part in z.split(BATCH)])
        return u.clamp(0, 1) if clip else u

    def _pixels(self, images: ArrayLike | Tensor, layout: Layout | None) -> Tensor:
        """Pixels in [0, 1], [n, C, H, W]; UserError where they are none."""
        given = images if isinstance(images, Tensor) else torch.as_tensor(_array(images))
        u = self._laid_out(given, layout)
        if u.dtype == torch.uint8:
            return self.cohort.pixels_of(u.to(self.device))[0]
        if not u.is_floating_point():
            raise UserError(
                f"images are uint8 or floating pixels in [0, 1], got {u.dtype}; divide "
                f"levels by their largest (255, or 65535 of 16 bits)"
            )
        low, high = (x.item() for x in u.detach().aminmax())
        if not (low >= -SLACK and high <= 1 + SLACK):
            raise UserError(
                f"floating images are pixels in [0, 1], got {low:.3g} to {high:.3g}; "
                f"divide levels by 255, and give images before any normalization"
            )
        return u.to(self.device, self.cohort.dtype)

    def _laid_out(self, given: Tensor, layout: Layout | None) -> Tensor:
        """Images as [n, C, H, W]; UserError where that is not clear."""
        channels, height, width = self.shape
        size = f"{height}x{width} with {channels} channel{'s' if channels > 1 else ''}"
        if layout not in (None, *LAYOUTS):
            raise UserError(f"layout is one of {', '.join(LAYOUTS)}, got {shown(layout)}")
        found = {
            each: _arranged(given, each)
            for each in ([layout] if layout else LAYOUTS)
            if len(each) == given.ndim
        }
        fitting = {k: u for k, u in found.items() if tuple(u.shape[1:]) == self.shape}
        if not given.numel():
            raise UserError(
                f"images must be one or more of {size}, got {list(given.shape)}"
            )
        if not fitting:
            raise UserError(
                f"images must be {size}, as [n, {height}, {width}, {channels}] or "
                f"[n, {channels}, {height}, {width}], got {list(given.shape)}; crop or "
                f"resize them"
            )
        if any(not torch.equal(a, b) for a, b in pairwise(fitting.values())):
            raise UserError(
                f"images of shape {list(given.shape)} may be {' or '.join(fitting)}; say "
                f"which: layout='{next(iter(fitting))}'"
            )
        return next(iter(fitting.values()))

    def _load(self, state: State) -> None:
        """Takes a checkpoint's weights; UserError where they are not this network's."""
        given = {name: t[None] for name, t in state.tensors.items() if is_weight(name)}
        # a head that standardizes said not yet, in its first version, whether it had seen
        # a batch
        given.setdefault("heads.seen", torch.ones(1))
        try:
            self.cohort.load_state_dict(given)
        except RuntimeError as error:
            said = " ".join(str(error).split("\n\t")[1:2]) or str(error)
            raise UserError(
                f"{self.folder}/state.safetensors does not fit the network that "
                f"config.yaml states: {said}"
            ) from None


def load(
    run: "Run | Path | str",
    runs: Path | str = "runs",
    device: torch.device | str = "cpu",
) -> Model:
    """The trained network of a run, to encode, decode, reconstruct and sample.

    Args:
        run: The run's folder, its run_id, or the short hash at the end of that; or one of
            `Results.runs`.
        runs: Where runs are looked for by name.
        device: Where it is to compute, as `cpu` or `cuda`.

    Returns:
        A `Model`. Of a run that has not finished, it has the weights of the last
        checkpoint, and a warning says so; of one that diverged, those before it did.

    Raises:
        UserError: There is no such run, it has no weights, or they cannot be used.

    Example:
        >>> model = vae_sweep.load("0e718e1e")  # or load(found.runs[0]), of a Results
        >>> mean, logvar = model.encode(images)  # uint8 [n, H, W, C]
        >>> model.reconstruct(images)  # pixels in [0, 1], [n, H, W, C]
        >>> model.sample(16, seed=1)
    """
    named: Any = getattr(run, "folder", run)
    folder = run_folder(named, runs)
    try:
        config, _ = reader.read_stated(folder)
        summary = reader.read_summary(folder)
        state, identity = _weights(folder)
    except LeftAlone as error:
        raise UserError(f"{folder}/{error}; {error.remedy}") from None
    except Unreadable as error:
        raise UserError(f"{folder} cannot be loaded: {error}") from None
    if summary and summary.identity not in (None, identity):
        raise UserError(
            f"{folder}/state.safetensors is of another configuration or other images than "
            f"summary.json; load the run that it came from"
        )
    status = _status(folder, summary)
    _check_sources(config, folder)
    ends = _stated_ends(summary) or _ends_of_images(config, identity, folder)
    try:
        model = Model(folder, config, ends, state, status, device)
    except (RuntimeError, AssertionError) as error:  # what torch raises of devices
        raise UserError(f"device={device}: {str(error).splitlines()[0]}") from None
    if status != "finished":
        total = summary.total_steps if summary else config.train.steps
        at = "" if total is None else f" of {total:,}"
        warnings.warn(
            f"{folder.name} is {status}: its weights are those of step {state.step:,}{at}",
            stacklevel=2,
        )
    return model


def to_uint8(images: Any) -> Any:
    """Pixels in [0, 1] as 8-bit levels, rounded and clipped, of an array or a tensor."""
    if isinstance(images, Tensor):
        return (images.detach().clamp(0, 1) * 255).round().to(torch.uint8)
    return np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)


def _weights(folder: Path) -> tuple[State, str | None]:
    """The checkpoint of a run, and the identity that it states."""
    path = folder / "state.safetensors"
    if not path.exists():
        raise UserError(
            f"{folder} has no weights (state.safetensors); repeat the command that made "
            f"the run, with rerun=all if it had finished"
        )
    try:
        about = checkpoint.read_about(path)
        if (schema := about.get("schema", "1")).isdecimal():
            check_schema(path.name, int(schema))
        return checkpoint.read(path, about), about.get("identity")
    except LeftAlone:
        raise
    except Unreadable as error:
        raise Unreadable(f"{path.name} {error}; rerun=all repeats the run") from None


def _status(folder: Path, summary: Summary | None) -> str:
    if summary is not None and summary.status != "running":
        return summary.status
    return "running" if claim.is_held(folder) else "interrupted"


def _check_sources(config: RunConfig, folder: Path) -> None:
    """Raises UserError where a module that the model needs is not what it was trained
    with."""
    for group in ("model", "head", "likelihood"):
        name = getattr(config, group)
        name = name if isinstance(name, str) else name.name
        if not options.is_own(name):
            continue
        module = options.module_of(name)
        options.own(group, name)  # which says where it was looked for
        stated, here = config.sources.get(module), options.sha256(module)
        if stated not in (None, here):
            raise UserError(
                f"{group}={name} of {folder.name} was trained with another {module} "
                f"(SHA-256 {stated:.8}..., here {here:.8}...); bring that one back"
            )


def _stated_ends(summary: Summary | None) -> Ends | None:
    """What a summary states; None of an earlier version's."""
    if summary is None or summary.normalization is None or summary.shape is None:
        return None
    channels, height, width = summary.shape
    norms = summary.normalization
    affines = (_affine(each) for each in (norms.norm, norms.target, norms.zscore))
    norm, target, zscore = affines
    assert norm is not None
    assert target is not None
    return Ends((channels, height, width), norm, target, zscore)


def _affine(constants: Constants | None) -> Affine | None:
    if constants is None:
        return None
    values = (constants.shift, constants.scale)
    return Affine(*(torch.tensor(v, dtype=torch.float64) for v in values))


def _ends_of_images(config: RunConfig, identity: str | None, folder: Path) -> Ends:
    """The same from the run's images, where the configuration says that they are."""
    why = (
        f"{folder.name} was written by a version that did not keep the constants of its "
        f"normalization, so that its training images are needed"
    )
    try:
        images = dataset.load(config.data, lambda line: None)
    except UserError as error:
        what = str(error).partition("\n")[0].rstrip(";")
        raise UserError(f"{why}: {what}; bring them back to load it") from None
    steps = config.train.total_steps(len(images.splits.train))
    of_images = RunFolder(config, images.fingerprint, steps)
    if identity not in (None, of_images.identity):
        raise UserError(
            f"{why}, and these have changed (data={config.data.name}"
            + (f", {getattr(config.data, config.data.place)}" if config.data.place else "")
            + "); bring them back to load it"
        )
    constants = point.point(config, images.counts, images.shape[1] * images.shape[2])
    return Ends(images.shape, constants.norm, constants.target, constants.zscore)


def _array(images: ArrayLike) -> np.ndarray:
    try:
        array = np.asarray(images)
        if array.dtype.kind not in "buif":
            raise ValueError(f"a {type(images).__name__} of {array.dtype}")
    except ValueError as error:
        raise UserError(f"images must be one array, got {error}") from None
    return np.require(array, requirements=["C", "W"])  # torch takes no others


def _arranged(given: Tensor, layout: str) -> Tensor:
    """Images of `layout` as [n, C, H, W]."""
    missing = [axis for axis in "nc" if axis not in layout]
    for _ in missing:
        given = given[None]
    axes = "".join(reversed(missing)) + layout
    return given.permute([axes.index(axis) for axis in "nchw"])


def _channels_last(u: Tensor, given: Any) -> Tensor:
    """[n, C, H, W] as the layout in which it is returned."""
    return u if isinstance(given, Tensor) else u.permute(0, 2, 3, 1)


def _as_given(y: Tensor, given: Any) -> Any:
    """A tensor where a tensor was given, else a NumPy array."""
    return y if isinstance(given, Tensor) else y.cpu().contiguous().numpy()
