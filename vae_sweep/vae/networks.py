"""The networks, R runs at once: ours, and a user's own."""

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor, nn

from vae_sweep import options
from vae_sweep.config import (
    ConvConfig,
    LinearConfig,
    MlpConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
)
from vae_sweep.errors import UserError, counted
from vae_sweep.vae import own_network
from vae_sweep.vae.adapter import Stacked
from vae_sweep.vae.layers import (
    BatchNorm,
    Conv,
    Elementwise,
    GroupNorm,
    Linear,
    Residual,
    Runs,
    flattened,
    joined,
    of_runs,
    reparameterized,
    sample,
    separate,
    stack,
    start_layer,
    unflattened,
)

ACTIVATIONS = {
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
}


def resolutions(config: ConvConfig, height: int, width: int) -> list[tuple[int, int]]:
    """(H, W) at the input and after each stride-2 convolution.

    Raises UserError where the image cannot be halved that often.
    """
    reach = 2 * ((config.kernel - 1) // 2) - config.kernel
    sizes = [(height, width)]
    for _ in config.widths:
        h, w = sizes[-1]
        if min(h, w) < 2:
            levels, most = len(config.widths), len(sizes) - 1
            fewer = f" or at most {counted(most, 'width')}" if most else ""
            raise UserError(
                f"model.widths has {levels} levels, each halves the image: "
                f"{height}x{width} is too small; use larger images{fewer}"
                + ("" if most else ", or model=mlp")
            )
        sizes.append(((h + reach) // 2 + 1, (w + reach) // 2 + 1))
    return sizes


def _halves(h: Runs) -> tuple[Runs, Runs]:
    """(mu, logvar) of what has both, one after the other."""
    if isinstance(h, Tensor):
        mu, logvar = h.chunk(2, -1)
        return mu, logvar
    mus, logvars = zip(*(y.chunk(2, -1) for y in h), strict=True)
    return list(mus), list(logvars)


class _Mirrored(nn.Module):
    """What networks share whose decoder mirrors `encoder` and `to_posterior`, the layer
    that has mu and logvar."""

    encoder: nn.Sequential
    to_posterior: Linear

    def _encode(self, x: Tensor) -> tuple[Runs, Runs]:
        """(mu, logvar) of x [R, B, C, H, W]."""
        raise NotImplementedError

    def _decode(self, z: Runs) -> Tensor:
        """The last pre-activation a [R, B, C, H, W]."""
        raise NotImplementedError

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [R, B, C, H, W] -> (mu, logvar), each [R, B, D]."""
        mu, logvar = self._encode(x)
        return joined(mu), joined(logvar)

    def decode(self, z: Tensor) -> Tensor:
        """z [R, B, D] -> the last pre-activation a [R, B, C, H, W]."""
        return self._decode(separate(z))

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(a, mu, logvar) with z = mu + exp(logvar / 2) * noise; noise is [R, B, D]."""
        mu, logvar = self._encode(x)
        return self._decode(sample(mu, logvar, noise)), joined(mu), joined(logvar)

    def encoder_parameters(self) -> list[nn.Parameter]:
        """The parameters that mu and logvar depend on."""
        return [*self.encoder.parameters(), *self.to_posterior.parameters()]


class ConvVAE(_Mirrored):
    """Strided convolutions, a linear layer to (mu, logvar), and the mirror image.

    `generators` holds one per run (runs with the same seed share one object);
    `shape` is the image's (C, H, W).
    """

    def __init__(
        self,
        config: ConvConfig,
        shape: tuple[int, int, int],
        generators: list[Generator],
    ):
        super().__init__()
        sizes = resolutions(config, *shape[1:])
        features = config.widths[-1] * sizes[-1][0] * sizes[-1][1]
        self.latent = config.latent
        self.bottom = (config.widths[-1], *sizes[-1])
        self.encoder = self._encoder(config, shape[0], generators)
        self.to_posterior = Linear(generators, features, 2 * config.latent)
        self.from_latent = Linear(generators, config.latent, features)
        self.decoder = self._decoder(config, shape[0], sizes, generators)

    def _encoder(self, config: ConvConfig, channels: int, generators: list[Generator]):
        layers: list[nn.Module] = []
        for width in config.widths:
            layers.append(Conv(generators, channels, width, config.kernel, stride=2))
            layers += self._after(config, len(generators), width)
            layers += self._refine(config, width, generators)
            channels = width
        return nn.Sequential(*layers)

    def _decoder(
        self,
        config: ConvConfig,
        channels: int,
        sizes: list[tuple[int, int]],
        generators: list[Generator],
    ):
        layers: list[nn.Module] = self._after(config, len(generators), config.widths[-1])
        padding = (config.kernel - 1) // 2
        for level in reversed(range(len(config.widths))):
            inputs = config.widths[level]
            outputs = config.widths[level - 1] if level else channels
            extra = [
                big - ((small - 1) * 2 - 2 * padding + config.kernel)
                for big, small in zip(sizes[level], sizes[level + 1], strict=True)
            ]
            layers += self._refine(config, inputs, generators)
            layers.append(
                Conv(
                    generators,
                    inputs,
                    outputs,
                    config.kernel,
                    stride=2,
                    transposed=True,
                    output_padding=(extra[0], extra[1]),
                )
            )
            if level:
                layers += self._after(config, len(generators), outputs)
        return nn.Sequential(*layers)

    def _refine(self, config: ConvConfig, width: int, generators: list[Generator]):
        """Convolutions that keep the size; residual ones are normalized before, so that
        their sum is not (He et al. 2016)."""
        layers: list[nn.Module] = []
        for _ in range(config.depth - 1):
            conv = Conv(generators, width, width, 3)
            after = self._after(config, len(generators), width)
            layers += [Residual(*after, conv)] if config.residual else [conv, *after]
        return layers

    def _after(self, config: ConvConfig, runs: int, width: int) -> list[nn.Module]:
        norms = {"none": [], "batch": [BatchNorm], "group": [GroupNorm]}
        layers: list[nn.Module] = [n(runs, width) for n in norms[config.norm_layer]]
        return [*layers, Elementwise(ACTIVATIONS[config.activation]())]

    def _encode(self, x: Tensor) -> tuple[Runs, Runs]:
        return _halves(self.to_posterior(flattened(self.encoder(separate(x)))))

    def _decode(self, z: Runs) -> Tensor:
        a = self.decoder(unflattened(self.from_latent(z), self.bottom))
        return a if isinstance(a, Tensor) else stack(a)

    def start_output(self, gain: Tensor, center: Tensor) -> None:
        """Starts the last layer, W h + b, as gain * W h + center, per channel [R, C]."""
        last: Any = self.decoder[-1]
        start_layer(last.weight, last.bias, 2, gain, center)

    @classmethod
    def check(
        cls, config: ConvConfig, shape: tuple[int, int, int], train: TrainConfig
    ) -> None:
        """Raises UserError where images (C, H, W), or batches, do not fit."""
        _, height, width = shape
        tall, wide = resolutions(config, height, width)[-1]
        small = f"{height}x{width} images are 1x1 after {len(config.widths)} widths"
        if config.norm_layer == "batch" and train.batch_size * tall * wide == 1:
            raise UserError(
                f"model.norm_layer=batch needs at least two values per channel, got one: "
                f"train.batch_size=1, and {small}; set train.batch_size=2 or fewer widths"
            )
        if config.norm_layer == "group" and config.widths[-1] * tall * wide == 1:
            raise UserError(
                f"model.norm_layer=group needs at least two values per image, got one: the "
                f"last width is 1, and {small}; set a larger width or fewer widths"
            )

    @classmethod
    def size(cls, config: ConvConfig, shape: tuple[int, int, int]) -> tuple[int, int]:
        """(parameters, least activations per image), counted without making it."""
        sizes = resolutions(config, *shape[1:])
        per_norm = 0 if config.norm_layer == "none" else 2
        features = config.widths[-1] * sizes[-1][0] * sizes[-1][1]
        d = config.latent
        parameters = features * 2 * d + 2 * d + d * features + features
        activations = features + 2 * d
        before = shape[0]
        for level, after in enumerate(config.widths):
            refined = after * after * 9 + after + per_norm * after
            area = sizes[level + 1][0] * sizes[level + 1][1]
            strided = before * after * config.kernel**2
            parameters += 2 * strided + after + before + 2 * (config.depth - 1) * refined
            parameters += per_norm * (after + after)  # encoder's, and the decoder's input
            activations += 2 * config.depth * after * area
            before = after
        return parameters, activations


class LinearVAE(nn.Module):
    """mu = V x + c, one posterior variance per latent whatever x is, a = W z + b.

    With a linear head and a Gaussian's squared error its optimum is probabilistic PCA's
    (Lucas et al. 2019), which theory.linear_optimum has in closed form.
    """

    def __init__(
        self,
        config: LinearConfig,
        shape: tuple[int, int, int],
        generators: list[Generator],
    ):
        super().__init__()
        pixels = shape[0] * shape[1] * shape[2]
        self.latent, self.shape = config.latent, shape
        self.to_mu = Linear(generators, pixels, config.latent)
        self.logvar = nn.Parameter(torch.zeros(len(generators), config.latent))
        self.from_latent = Linear(generators, config.latent, pixels)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [R, B, C, H, W] -> (mu, logvar), each [R, B, D]."""
        mu = joined(self.to_mu(separate(x.flatten(2))))
        return mu, self.logvar[:, None].expand_as(mu)

    def decode(self, z: Tensor) -> Tensor:
        """z [R, B, D] -> the last pre-activation a [R, B, C, H, W]."""
        return joined(self.from_latent(separate(z))).unflatten(2, self.shape)

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(a, mu, logvar) of x [R, B, C, H, W] with z = mu + exp(logvar / 2) * noise."""
        mu, logvar = self.encode(x)
        return self.decode(of_runs(reparameterized, mu, logvar, noise)), mu, logvar

    def encoder_parameters(self) -> list[nn.Parameter]:
        """The parameters that mu and logvar depend on."""
        return [*self.to_mu.parameters(), self.logvar]

    def start_output(self, gain: Tensor, center: Tensor) -> None:
        """Starts the last layer, W h + b, as gain * W h + center, per channel [R, C]."""
        last = self.from_latent
        start_layer(last.weight, last.bias, 1, gain, center)

    @classmethod
    def check(
        cls, config: LinearConfig, shape: tuple[int, int, int], train: TrainConfig
    ) -> None:
        """Any images fit."""

    @classmethod
    def size(cls, config: LinearConfig, shape: tuple[int, int, int]) -> tuple[int, int]:
        """(parameters, least activations per image), counted without making it."""
        pixels, d = math.prod(shape), config.latent
        return pixels * d + d + d + d * pixels + pixels, pixels + 2 * d


class MlpVAE(_Mirrored):
    """Linear layers to (mu, logvar), an activation after each hidden one, and the mirror
    image: the one-layer VAE of Burda et al. 2016 where widths are 200 and 200."""

    def __init__(
        self,
        config: MlpConfig,
        shape: tuple[int, int, int],
        generators: list[Generator],
    ):
        super().__init__()
        self.latent, self.shape = config.latent, shape
        widths, activation = config.widths, ACTIVATIONS[config.activation]

        def hidden(sizes: tuple[int, ...]) -> list[nn.Module]:
            layers = [Linear(generators, *pair) for pair in pairwise(sizes)]
            return [part for layer in layers for part in (layer, Elementwise(activation()))]

        pixels = math.prod(shape)
        self.encoder = nn.Sequential(*hidden((pixels, *widths)))
        self.to_posterior = Linear(generators, widths[-1], 2 * config.latent)
        last = Linear(generators, widths[0], pixels)
        self.decoder = nn.Sequential(*hidden((config.latent, *widths[::-1])), last)

    def _encode(self, x: Tensor) -> tuple[Runs, Runs]:
        return _halves(self.to_posterior(self.encoder(separate(x.flatten(2)))))

    def _decode(self, z: Runs) -> Tensor:
        return joined(self.decoder(z)).unflatten(2, self.shape)

    def start_output(self, gain: Tensor, center: Tensor) -> None:
        """Starts the last layer, W h + b, as gain * W h + center, per channel [R, C]."""
        last: Any = self.decoder[-1]
        start_layer(last.weight, last.bias, 1, gain, center)

    @classmethod
    def check(
        cls, config: MlpConfig, shape: tuple[int, int, int], train: TrainConfig
    ) -> None:
        """Any images fit."""

    @classmethod
    def size(cls, config: MlpConfig, shape: tuple[int, int, int]) -> tuple[int, int]:
        """(parameters, activations per image), counted without making it."""
        pixels, d = math.prod(shape), config.latent
        encoder = (pixels, *config.widths, 2 * d)
        decoder = (d, *config.widths[::-1], pixels)
        layers = [*pairwise(encoder), *pairwise(decoder)]
        parameters = sum(inputs * outputs + outputs for inputs, outputs in layers)
        return parameters, sum(outputs for _, outputs in layers)


OURS = {"conv": ConvVAE, "linear": LinearVAE, "mlp": MlpVAE}


def _class_of(config: ModelConfig) -> Any:
    return options.find("model", config.name, OURS, own_network.accept, own_network.WHAT)


def build(
    config: ModelConfig, shape: tuple[int, int, int], generators: list[Generator]
) -> ConvVAE | LinearVAE | MlpVAE | Stacked:
    """The network of `config` for images (C, H, W); one generator per run.

    Raises UserError where the image is too small for it.
    """
    return _class_of(config)(config, shape, generators)


def check(config: RunConfig, shape: tuple[int, int, int]) -> None:
    """Raises UserError where images (C, H, W), or batches, do not fit the network."""
    _class_of(config.model).check(config.model, shape, config.train)


def size(config: ModelConfig, shape: tuple[int, int, int]) -> tuple[int, int]:
    """(parameters, least activations per image) of a network for images (C, H, W),
    counted without making it.

    Activations are the outputs of its convolutions, and of its linear layers.
    """
    return _class_of(config).size(config, shape)
