"""A user's network, an ordinary torch.nn.Module for one run, as R runs.

class Net(nn.Module):
    def __init__(self, shape, latent, *, blocks=2): ...
    def encode(self, x): ...  # [B, C, H, W] -> mu, logvar, each [B, D]
    def decode(self, z): ...  # [B, D] -> the last pre-activation a [B, C, H, W]
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call, stack_module_state

from vae_sweep.errors import UserError
from vae_sweep.vae import transposed
from vae_sweep.vae.layers import (
    apart,
    laid_out,
    reparameterized,
    start_layer,
    together,
)
from vae_sweep.vae.streams import seed_of, seeded

Make = Callable[[], nn.Module]  # builds the module of one run
Shape = tuple[int, int, int]  # an image's (C, H, W)

PROBED = 2  # images of the batch that a module is tried on
SEEDING = 16  # numbers of a run's noise that decide what its module draws


def drawing(noise: Tensor) -> AbstractContextManager[None]:
    """What PyTorch draws on CPU follows from a run's noise, which its seed and the step
    decide. On CUDA nothing may draw (own_network.verify)."""
    if noise.is_cuda:
        return nullcontext()
    return seeded(seed_of(noise.detach().flatten()[:SEEDING].numpy().tobytes()))


class _Pass(nn.Module):
    """What is asked of a module, in the one call that functional_call makes: both of its
    halves, or one alone."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor | None, given: Tensor | None) -> Any:
        """(a, mu, logvar) of images x and noise; (mu, logvar) without noise; a of z where
        there are no images."""
        network: Any = self.network
        if x is None:
            return network.decode(given)
        mu, logvar = network.encode(x)
        if given is None:
            return mu, logvar
        return network.decode(reparameterized(mu, logvar, given)), mu, logvar


class _Transposed(nn.ConvTranspose2d):
    """The same, by the faster way on CPU."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        usual = input.ndim == 4 and output_size is None and input.device.type == "cpu"
        if not usual or self.bias is None:
            return super().forward(input, output_size)
        sizes: Any = self.stride, self.padding, self.output_padding
        return transposed.convolved(input, self.weight, self.bias, *sizes)

    @staticmethod
    def replaces(m: nn.Module) -> bool:
        plain = type(m) is nn.ConvTranspose2d and m.bias is not None
        return plain and (m.dilation, m.groups) == ((1, 1), 1)


class Stacked(nn.Module):
    """R modules of a user's class, with the interface of our networks.

    `network` is one of them, in which each parameter and buffer is stacked over the runs,
    [R, ...]; a run's pass sees its own there. Parameters that are not to be trained are
    buffers. Each module's initial weights are those that torch draws from its run's stream,
    and so is what it draws later, from a seed that follows from the run's noise.
    """

    _pass: nn.Module

    def __init__(
        self, make: Make, shape: Shape, latent: int, generators: Sequence[Generator]
    ):
        """`generators` holds one per run; runs that share one share the draw.

        Raises:
            UserError: The module keeps a parameter elsewhere than where it is registered.
        """
        super().__init__()
        self.latent, self.runs = latent, len(generators)
        made: dict[int, nn.Module] = {}
        for g in generators:
            if id(g) not in made:
                with seeded(int(torch.randint(2**63 - 1, (), generator=g))):
                    made[id(g)] = make()
        modules = [made[id(g)] for g in generators]
        self.network = modules[0]
        originals = list(self.network.parameters())
        self._take(*stack_module_state(modules))
        self.float()
        for module in self.network.modules():
            if _Transposed.replaces(module):
                module.__class__ = _Transposed
        # not registered: names are to begin with `network.`, in it as here
        object.__setattr__(self, "_pass", _Pass(self.network))
        self.layout = torch.channels_last
        x = torch.randn(PROBED, *shape, generator=Generator().manual_seed(0))
        if not self._runs_on(x):
            self.layout = torch.contiguous_format
        self._find_encoder(x, originals)

    def _take(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> None:
        """Puts stacked tensors, by name, in the places of the module's own."""
        first = dict([*self.network.named_parameters(), *self.network.named_buffers()])
        stacks: dict[int, Tensor] = {
            id(first[name]): nn.Parameter(t.detach()) if t.requires_grad else t
            for name, t in (parameters | buffers).items()
        }
        for module in self.network.modules():
            for name, t in [*module._parameters.items()]:
                if t is not None and t.requires_grad:
                    module._parameters[name] = stacks[id(t)]  # pyright: ignore
                elif t is not None:
                    del module._parameters[name]
                    module.register_buffer(name, stacks[id(t)])
            for name, t in module._buffers.items():
                if id(t) in stacks:
                    module._buffers[name] = stacks[id(t)]

    def _runs_on(self, x: Tensor) -> bool:
        """Whether a pass takes the layout, in training and in evaluation."""
        training = self.training
        try:
            with torch.no_grad():
                for mode in (True, False):
                    self.train(mode)
                    self._run(0, x)
        except Exception:  # what it raises of a view that cannot be had
            return False
        finally:
            self.train(training)
        return True

    def _run(self, r: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(a, mu, logvar) of run r for x [B, C, H, W] and noise 0; changes nothing."""
        return self._called(self._of_runs()[r], x, x.new_zeros(len(x), self.latent))

    def _find_encoder(self, x: Tensor, originals: list[nn.Parameter]) -> None:
        """Finds the parameters that mu or logvar depend on, by their gradient."""
        training = self.training
        self.eval()
        with torch.enable_grad():
            a, mu, logvar = self._run(0, x)
        self.train(training)
        mine = list(self.parameters())

        def reached(parameters: list[nn.Parameter], *outputs: Tensor):
            value = torch.stack([y.sum() for y in outputs]).sum()
            if not (parameters and value.requires_grad):
                return []
            found = torch.autograd.grad(
                value, parameters, retain_graph=True, allow_unused=True
            )
            return [p for p, g in zip(parameters, found, strict=True) if g is not None]

        if reached([p for p in originals if p.requires_grad], a, mu, logvar):
            raise UserError(
                "also keeps a parameter where it is not registered, such as in a list; use "
                "torch.nn.ParameterList"
            )
        self._encoder = reached(mine, mu, logvar)

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Those that mu or logvar depend on."""
        return self._encoder

    def start_output(self, gain: Tensor, center: Tensor) -> None:
        """Starts the layer `output`, W h + b, as gain * W h + center, per channel
        [R, C]."""
        layer: Any = self.network.output
        turned = isinstance(layer, nn.ConvTranspose2d)
        start_layer(layer.weight, layer.bias, 2 if turned else 1, gain, center)

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(a, mu, logvar) of x [R, B, C, H, W] with z = mu + exp(logvar / 2) * noise."""
        states = self._of_runs()
        each = zip(states, apart(x), apart(noise), strict=True)
        outputs = [self._called(*args) for args in each]
        with torch.no_grad():
            for name, stacked in self.named_buffers():
                for t, state in zip(stacked.unbind(0), states, strict=True):
                    t.copy_(state[name])
        a, mu, logvar = zip(*outputs, strict=True)
        return (
            self._images(a),
            together([y.contiguous() for y in mu]),
            together([y.contiguous() for y in logvar]),
        )

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [R, B, C, H, W] -> (mu, logvar), each [R, B, D], in evaluation."""
        each = zip(self._of_runs(), apart(x), strict=True)
        rows = [self._asked(state, self._laid_out(images), None) for state, images in each]
        mu, logvar = (
            together([y.contiguous() for y in ys]) for ys in zip(*rows, strict=True)
        )
        return mu, logvar

    def decode(self, z: Tensor) -> Tensor:
        """z [R, B, D] -> a [R, B, C, H, W], in evaluation: buffers are left as they are."""
        each = zip(self._of_runs(), apart(z), strict=True)
        return self._images([self._asked(state, None, row) for state, row in each])

    def _images(self, ys: Sequence[Tensor]) -> Tensor:
        """R tensors [B, C, H, W] -> [R, B, C, H, W]."""
        is_last = ys[0].is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if is_last else torch.contiguous_format
        return laid_out([y.contiguous(memory_format=layout) for y in ys])

    def _called(
        self, state: dict[str, Tensor], x: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One run's pass, with its parameters and buffers; `state` then holds those
        buffers that the module has put in the places of the old ones."""
        return self._asked(state, self._laid_out(x), noise)

    def _laid_out(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=self.layout)

    def _asked(
        self, state: dict[str, Tensor], x: Tensor | None, given: Tensor | None
    ) -> Any:
        decisive = x if given is None else given
        assert decisive is not None
        with drawing(decisive):
            return functional_call(self._pass, state, (x, given), tie_weights=False)

    def _of_runs(self) -> list[dict[str, Tensor]]:
        """Name -> tensor, of each run: parameters, and copies of the buffers, as a module
        may change them before the backward pass of another run."""
        states: list[dict[str, Tensor]] = [{} for _ in range(self.runs)]
        parts: dict[int, Sequence[Tensor]] = {}  # tied ones once
        for name, p in self.named_parameters(remove_duplicate=False):
            if id(p) not in parts:
                parts[id(p)] = [
                    t.contiguous(memory_format=self._layout(t)) for t in apart(p)
                ]
            for state, part in zip(states, parts[id(p)], strict=True):
                state[name] = part
        for name, b in self.named_buffers(remove_duplicate=False):
            if id(b) not in parts:
                parts[id(b)] = [t.clone(memory_format=self._layout(t)) for t in b.unbind(0)]
            for state, part in zip(states, parts[id(b)], strict=True):
                state[name] = part
        return states

    def _layout(self, t: Tensor) -> torch.memory_format:
        return self.layout if t.ndim == 4 else torch.contiguous_format
