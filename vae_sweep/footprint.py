"""What one run takes in memory, measured on a forward pass of two images."""

from typing import NamedTuple

import torch
from torch import Tensor

from vae_sweep.cohort import Cohort, Point
from vae_sweep.config import RunConfig


class Footprint(NamedTuple):
    """Bytes of one run: its parameters, and what autograd keeps per image."""

    parameters: int
    activations: int

    def bytes(self, batch: int) -> int:
        """At the height of a training step: weights, two gradients and two moments;
        activations, and half as much again that passes."""
        return 5 * self.parameters + int(1.5 * self.activations * batch)


def footprint(config: RunConfig, point: Point, shape: tuple[int, int, int]) -> Footprint:
    """Of a run on images (C, H, W)."""
    cohort = Cohort([config], [point], shape)
    fixed = [*cohort.parameters(), *cohort.buffers()]
    own = {t.untyped_storage().data_ptr() for t in fixed}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    images = torch.zeros(2, *shape, dtype=torch.uint8)
    noise = torch.zeros(1, 2, cohort.latent, dtype=cohort.dtype)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        forward = cohort(cohort.pixels_of(images), noise)
        terms = cohort.terms(forward, torch.ones(1, dtype=cohort.dtype))
    del terms
    parameters = sum(p.numel() * p.element_size() for p in cohort.parameters())
    return Footprint(parameters, sum(kept.values()) // 2)
