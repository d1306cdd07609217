"""A user's network: what is accepted as one, what it must do to be trained, its size."""

import inspect
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.parameter import is_lazy

from vae_sweep import options
from vae_sweep.config import OwnModel, TrainConfig
from vae_sweep.errors import UserError
from vae_sweep.vae.adapter import PROBED, Make, Shape, Stacked
from vae_sweep.vae.layers import DTYPES
from vae_sweep.vae.streams import seeded

WHAT = "a torch.nn.Module with encode(x) and decode(z)"


def verify(
    make: Make,
    shape: Shape,
    latent: int,
    batch: int = PROBED,
    precision: str = "fp32",
    cuda: bool = False,
    raised: Callable[[BaseException], str] = repr,
) -> None:
    """Tries what `make` builds on a few images, in training and in evaluation.

    Args:
        shape: The images' (C, H, W).
        latent: D, the size of mu and logvar.
        batch: Images of a training step; no more than two are tried.
        precision: train.precision.
        cuda: Whether it is to train on CUDA.
        raised: What to say of an exception of the user's code.

    Raises:
        UserError: It cannot be trained; the message lacks its name.
    """
    module, again = (_made(make, raised) for _ in range(2))
    _check_parameters(module)
    if any(not t.equal(o) for t, o in zip(_tensors(module), _tensors(again), strict=True)):
        raise UserError(
            "must draw its initial weights by torch's own generator alone, so that the "
            "seed decides them, got others for an equal seed; use torch.nn.init"
        )
    dtype = DTYPES[precision]
    few = min(batch, PROBED)
    autocast = torch.autocast("cpu", torch.bfloat16, precision == "bf16", False)
    with seeded(0), autocast:
        before = torch.get_rng_state()
        for training, images in ((True, few), (False, few), (False, 1)):
            module.to(dtype).train(training)
            _check_pass(module, _images(images, shape, dtype), latent, raised)
        _check_kept(module, again.train(module.training))
        if cuda and not before.equal(torch.get_rng_state()):
            raise UserError(
                "draws random numbers in encode or decode, which cannot be repeated on "
                "CUDA; set train.device=cpu"
            )
        try:
            stacked = Stacked(make, shape, latent, [Generator(), Generator()]).to(dtype)
            _check_stacked(stacked, _images(few, shape, dtype))
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"cannot be trained as several runs: {raised(error)}") from None


def _made(make: Make, raised: Callable[[BaseException], str]) -> nn.Module:
    with seeded(0), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are said where it is made to be trained
        try:
            module = make()
        except (Exception, SystemExit) as error:
            raise UserError(f"cannot be made: {raised(error)}") from None
    if not isinstance(module, nn.Module):
        raise UserError(f"must be {WHAT}, got a {type(module).__name__}")
    for method in ("encode", "decode"):
        if not callable(getattr(module, method, None)):
            raise UserError(f"must be {WHAT}, has no {method}; define it")
    return module


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _check_parameters(module: nn.Module) -> None:
    for name, t in [*module.named_parameters(), *module.named_buffers()]:
        if is_lazy(t):
            raise UserError(
                f"must know the sizes of its layers in __init__, but {name} is lazy; "
                f"compute them from shape"
            )
        if t.is_complex():
            raise UserError(f"must have real parameters, got {name} of {t.dtype}")
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor):
            raise UserError(
                f"must have only tensors in its state_dict, got {name}; register it as a "
                f"buffer"
            )
    if not any(p.requires_grad for p in module.parameters()):
        raise UserError("must have parameters to train, got none")


def _images(count: int, shape: Shape, dtype: torch.dtype) -> Tensor:
    """[B, C, H, W], as of z-scored images."""
    return torch.randn(count, *shape, generator=Generator().manual_seed(count)).to(dtype)


def _check_pass(
    module: Any, x: Tensor, latent: int, raised: Callable[[BaseException], str]
) -> None:
    """One pass over x [B, C, H, W] by the module itself."""

    def called(method: str, given: Tensor) -> Any:
        try:
            return getattr(module, method)(given)
        except Exception as error:
            what = f"{method} of {list(given.shape)} in {mode}"
            raise UserError(f"{what} cannot be computed: {raised(error)}") from None

    def expect(name: str, y: Any, size: list[int], what: str) -> None:
        if not isinstance(y, Tensor) or list(y.shape) != size:
            got = list(y.shape) if isinstance(y, Tensor) else f"a {type(y).__name__}"
            raise UserError(f"{name} must be {size}, {what}, got {got} in {mode}")
        if not y.is_floating_point():
            raise UserError(f"{name} must be floating, got {y.dtype}")
        if not y.isfinite().all():
            raise UserError(f"{name} must be finite, got {_odd(y)} of normal numbers")

    mode = "training" if module.training else "evaluation"
    encoded = called("encode", x)
    if not isinstance(encoded, tuple | list) or len(encoded) != 2:
        raise UserError(f"encode must return (mu, logvar), got a {type(encoded).__name__}")
    for name, y in zip(("mu", "logvar"), encoded, strict=True):
        expect(name, y, [len(x), latent], "[images, model.latent]")
    a = called("decode", encoded[0].to(x))
    expect("what decode returns", a, list(x.shape), "the images' shape")


def _odd(y: Tensor) -> str:
    return "nan" if y.isnan().any() else "inf"


def _check_stacked(stacked: Stacked, x: Tensor) -> None:
    """What only shows where runs share the module: two equal ones on x [B, C, H, W]."""
    if not stacked.encoder_parameters():
        raise UserError("must have parameters to train that mu or logvar depends on")
    x = torch.stack([x] * stacked.runs)
    noise = torch.zeros(*x.shape[:2], stacked.latent, dtype=x.dtype)
    before = [b.clone() for b in stacked.buffers()]
    first = stacked(x, noise)
    torch.stack([y.sum() for y in first]).sum().backward()
    for b, was in zip(stacked.buffers(), before, strict=True):
        b.copy_(was)
    second = stacked(x, noise)
    pairs = zip(first, second, strict=True)
    if not all(y[0].equal(o[r]) for y, o in pairs for r in (0, 1)):
        raise UserError(
            "must give equal outputs for equal inputs and weights, got others; draw random "
            "numbers by torch's own generator, and keep what changes in buffers"
        )


def _check_kept(called: nn.Module, new: nn.Module) -> None:
    """What a module that was called keeps, against one that was not."""
    names, numbers = set(new.state_dict()), _numbers(new)
    if late := sorted(set(called.state_dict()) - names):
        raise UserError(f"must register its buffers in __init__, got {late[0]} later")
    for name, value in _numbers(called).items():
        if value != numbers.get(name, value):
            raise UserError(
                f"must keep numbers that change in buffers, got {name} = {value} after "
                f"{numbers[name]}; use register_buffer"
            )
    for name, b in called.named_buffers():
        if name not in names and not b.equal(new.get_buffer(name).to(b)):
            raise UserError(f"must keep {name}, which changes, in its state_dict")


def _numbers(module: nn.Module) -> dict[str, float]:
    """What a module and its parts keep in attributes."""
    return {
        f"{path}.{key}".lstrip("."): value
        for path, part in module.named_modules()
        for key, value in vars(part).items()
        if isinstance(value, int | float)
    }


def verify_output(make: Make, shape: Shape, latent: int) -> None:
    """Tries whether the layer `output` of what `make` builds is its last one.

    Raises:
        UserError: It is not, or there is none; the message lacks the network's name.
    """
    draw = Generator().manual_seed(0)
    stacked = Stacked(make, shape, latent, [draw, draw]).double().eval()
    x = torch.randn(stacked.runs, PROBED, *shape, generator=draw, dtype=torch.float64)
    noise = torch.zeros(stacked.runs, PROBED, latent, dtype=x.dtype)
    gain, center = torch.rand(2, stacked.runs, shape[0], generator=draw, dtype=x.dtype)
    try:
        with torch.no_grad():
            layer: Any = stacked.network.output
            bias = layer.bias.reshape(stacked.runs, 1, shape[0], -1).clone()
            before = stacked(x, noise)[0].flatten(3)
            stacked.start_output(gain, center)
            after = stacked(x, noise)[0].flatten(3)
        gain, center = gain[:, None, :, None], center[:, None, :, None]
        right = torch.allclose(after, gain * (before - bias) + center)
    except Exception:  # of what is no layer, or has other shapes
        right = False
    if not right:
        raise UserError(
            "must have its last layer, a Linear, Conv2d or ConvTranspose2d with a bias "
            "whose output decode returns, as the attribute output for "
            "model.output_init=data; set model.output_init=random"
        )


def verify_runs(
    build: Callable[[list[Generator]], nn.Module], shape: Shape, latent: int, runs: int = 3
) -> None:
    """Compares R runs with each of them alone, bit for bit, on CPU: outputs, gradients and
    buffers of two passes in training and one in evaluation.

    Args:
        build: Makes the network of one run per generator.

    Raises:
        UserError: They differ; the message lacks the network's name.
    """

    def stacked(*seeds: int) -> nn.Module:
        return build([Generator().manual_seed(s) for s in seeds])

    seeds = list(range(runs))
    together, alone = stacked(*seeds), [stacked(s) for s in seeds]
    draw = Generator().manual_seed(0)
    for training in (True, True, False):
        x = torch.randn(runs, PROBED + 1, *shape, generator=draw)
        noise = torch.randn(runs, PROBED + 1, latent, generator=draw)
        found = _everything(together.train(training), x, noise)
        for r, one in enumerate(alone):
            own = slice(r, r + 1)
            for name, y in _everything(one.train(training), x[own], noise[own]).items():
                if not y[0].equal(found[name][r]):
                    raise UserError(
                        f"must give a run the same numbers whatever runs train beside it, "
                        f"got another {name}; keep what changes in buffers"
                    )


def _everything(stacked: nn.Module, x: Tensor, noise: Tensor) -> dict[str, Tensor]:
    outputs = stacked(x, noise)
    parameters = dict(stacked.named_parameters())
    gradients = torch.autograd.grad(
        torch.stack([y.square().sum() for y in outputs]).sum(),
        list(parameters.values()),
        materialize_grads=True,
    )
    return {
        **dict(zip(("a", "mu", "logvar"), outputs, strict=True)),
        **{f"gradient of {n}": g for n, g in zip(parameters, gradients, strict=True)},
        **{n: b.clone() for n, b in stacked.named_buffers()},
    }


@dataclass(frozen=True)
class Own:
    """A user's class, with the interface of our networks' classes."""

    given: Callable[..., nn.Module]

    def __call__(
        self, config: OwnModel, shape: Shape, generators: Sequence[Generator]
    ) -> Stacked:
        """The networks of several runs as one module."""
        return Stacked(self.maker(config, shape), shape, config.latent, generators)

    def maker(self, config: OwnModel, shape: Shape) -> Make:
        """Builds the module of one run."""
        return lambda: self.given(shape, config.latent, **config.parameters)

    def check(self, config: OwnModel, shape: Shape, train: TrainConfig) -> None:
        """Raises UserError where the network cannot be trained on images (C, H, W)."""
        auto = train.device == "auto" and torch.cuda.is_available()
        cuda = auto or train.device.startswith("cuda")
        frozen: Any = config  # and so hashable
        _check(self, frozen, shape, min(train.batch_size, PROBED), train.precision, cuda)

    def size(self, config: OwnModel, shape: Shape) -> tuple[int, int]:
        """(parameters, least activations per image), where possible without making it."""
        frozen: Any = config
        return _size(self, frozen, shape), math.prod(shape) + 2 * config.latent


def accept(given: Any) -> Own | None:
    """What is a user's network: a class of modules, or a function that makes one."""
    is_class = inspect.isclass(given) and issubclass(given, nn.Module)
    accepted: Any = given if is_class or inspect.isroutine(given) else None
    return accepted and Own(accepted)


def _said(config: OwnModel, error: UserError) -> UserError:
    name = config.name
    return UserError(f"model={name} ({options.where(name)}): {error}")


@cache  # of grids, whose points share it
def _check(
    own: Own, config: OwnModel, shape: Shape, batch: int, precision: str, cuda: bool
) -> None:
    make, name = own.maker(config, shape), config.name
    try:
        verify(
            *(make, shape, config.latent, batch, precision, cuda),
            raised=lambda error: options.raised(error, name),
        )
        if config.output_init == "data":
            verify_output(make, shape, config.latent)
    except UserError as error:
        raise _said(config, error) from None


@cache
def _size(own: Own, config: OwnModel, shape: Shape) -> int:
    make, name = own.maker(config, shape), config.name
    try:
        try:
            with torch.device("meta"):
                module = _made(make, repr)
        except UserError:  # it computes with what it draws, or reads files
            module = _made(make, lambda error: options.raised(error, name))
        _check_parameters(module)
    except UserError as error:
        raise _said(config, error) from None
    return sum(p.numel() for p in module.parameters())
