"""A random transform of images: binarization, or a user's own.

`transform(u, generator)` is given u, float32 [B, C, H, W] in [0, 1], and a torch.Generator
on the CPU, from which alone it draws; it returns floats of the same shape, in [0, 1].

In training it draws every batch anew, from a stream that seed and step decide. What is
evaluated, shown or computed from images needs them to stay: there one draw of every
image, rounded to 256 levels, takes the image's place.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from vae_sweep import options
from vae_sweep.errors import UserError
from vae_sweep.vae.streams import stream

Transform = Callable[[Tensor, Generator], Tensor]
CHUNK = 256  # images of which the fixed draw is made at once; part of its numbers


class Random(NamedTuple):
    """Training images, uint8 [n, C, H, W] on the CPU, before their random transform; `what`
    names the data as it was typed, data=mine:blobs."""

    what: str
    images: Tensor
    transform: Transform

    def batch(self, index: Tensor, seed: int, step: int) -> Tensor:
        """The images `index` [B] as a run of `seed` sees them at a step, u [B, C, H, W].

        Raises RuntimeError where the transform fails: its runs do then, and not the others.
        """
        generator = stream(seed, f"transform{step}")
        try:
            images = self.images.index_select(0, index)
            return _drawn(self.what, self.transform, images, generator)
        except UserError as error:
            raise RuntimeError(str(error)) from None


def binarized(u: Tensor, generator: Generator) -> Tensor:
    """Bernoulli draws, each pixel 1 with the probability u (Salakhutdinov & Murray 2008);
    in about half the time that torch.bernoulli takes."""
    return (torch.rand(u.shape, generator=generator) < u).to(u.dtype)


def fixed(what: str, transform: Transform, images: Tensor, split: str) -> Tensor:
    """One draw of every image of a split, rounded: uint8 [n, C, H, W] of the same.

    Raises:
        UserError: The transform raises, returns something else than it must, or draws from
            another generator than its own, so that no run could be repeated.
    """
    generator = stream(0, f"transform.{split}")
    before = generator.get_state()
    parts = [_drawn(what, transform, part, generator) for part in images.split(CHUNK)]
    generator.set_state(before)
    if not torch.equal(_drawn(what, transform, images[:CHUNK], generator), parts[0]):
        raise UserError(
            f"{what}: its transform must draw from its generator alone, got two draws "
            f"from generators of one state that differ; give it to what draws: "
            f"torch.bernoulli(u, generator=generator)"
        )
    return torch.cat([(part * 255).round().to(torch.uint8) for part in parts])


def _drawn(what: str, transform: Transform, images: Tensor, generator: Generator) -> Tensor:
    u = images.to(torch.float32) / 255
    shape = list(u.shape)
    try:
        drawn = transform(u, generator)
    except (Exception, SystemExit) as error:
        raise UserError(
            f"{what}: its transform raised {options.raised(error, what.partition('=')[2])}"
        ) from None
    if not isinstance(drawn, Tensor):
        got = f"a {type(drawn).__name__}"
    elif list(drawn.shape) != shape or not drawn.is_floating_point():
        got = f"{str(drawn.dtype).removeprefix('torch.')} {list(drawn.shape)}"
    else:
        drawn = drawn.detach().to("cpu", torch.float32)
        low, high = drawn.aminmax()  # nan where one is
        if low >= 0 and high <= 1:
            return drawn
        got = f"values from {low:.3g} to {high:.3g}"
    raise UserError(
        f"{what}: its transform must return floats {shape} in [0, 1], as it is given, "
        f"got {got}; convert them: .to(u), .clamp(0, 1)"
    )
