"""Checkpoints: a run's tensors at a step, as a safetensors file with a digest of them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from vae_sweep.records.reader import Forbidden, Unreadable


class State(NamedTuple):
    """A checkpoint of one run: the updates made, and every tensor by name."""

    step: int
    tensors: dict[str, Tensor]


class StateShape(NamedTuple):
    """What a checkpoint of a run must hold.

    `tensors` maps names to (shape, dtype); `moments` are those of the optimizer, which
    there are from the first update on.
    """

    tensors: dict[str, tuple[torch.Size, torch.dtype]]
    moments: dict[str, tuple[torch.Size, torch.dtype]]

    def misfit(self, state: State, steps: int) -> str | None:
        """What is wrong with `state` for a run of `steps` updates; None if it fits."""
        if not 0 <= state.step <= steps:
            return f"its step is {state.step}, the run has {steps}"
        needed = self.tensors | (self.moments if state.step else {})
        given = {name: (t.shape, t.dtype) for name, t in state.tensors.items()}
        if state.step == steps and not is_whole(state):  # of a run that is done
            needed = {name: of for name, of in needed.items() if is_weight(name)}
        for name in sorted({*needed, *given}):
            if name not in given:
                return f"{name} is missing"
            if name not in needed:
                return f"it has no place for {name}"
            if given[name] != needed[name]:
                (shape, dtype), (other, wanted) = given[name], needed[name]
                return f"{name} is {dtype} {list(shape)}, must be {wanted} {list(other)}"
        return None


def is_weight(name: str) -> bool:
    """Whether a tensor of a checkpoint is the network's, not what training needs."""
    return not name.startswith(("optimizer.", "generator."))


def is_whole(state: State) -> bool:
    """Whether training can go on from a checkpoint, which may hold weights alone."""
    return not all(is_weight(name) for name in state.tensors)


def weights(state: State) -> State:
    """The weights alone, of a run that is done."""
    return State(state.step, {n: t for n, t in state.tensors.items() if is_weight(n)})


def read_about(path: Path) -> dict[str, str]:
    """What a checkpoint states of itself.

    Raises:
        Unreadable: There is none, or it is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except PermissionError as error:
        raise Forbidden(f"{path.name} cannot be read: {error.strerror}") from None
    except (SafetensorError, OSError) as error:
        raise Unreadable("is truncated or damaged") from error


def read(path: Path, about: Mapping[str, str]) -> State:
    """The checkpoint in a file, which states `about`.

    Raises:
        Unreadable: There is none, or it is damaged or was altered.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        state = State(int(about["step"]), tensors)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise Unreadable("is truncated or damaged") from error
    if "digest" in about and about["digest"] != _digest(*state):
        raise Unreadable("was altered: it does not match its digest")
    return state


def encoded(state: State, about: Mapping[str, str]) -> bytes:
    """The content of a file that states `about`, too."""
    meta = {**about, "step": str(state.step), "digest": _digest(*state)}
    return save({name: t.contiguous() for name, t in state.tensors.items()}, meta)


def _digest(step: int, tensors: Mapping[str, torch.Tensor]) -> str:
    """Of everything in a checkpoint."""
    digest = hashlib.blake2b(str(step).encode(), digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
