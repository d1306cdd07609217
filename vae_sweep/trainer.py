"""The training step of R runs: one forward, one backward, one optimizer."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vae_sweep import metrics, schedules
from vae_sweep.cohort import Cohort, Point, Streams, stream
from vae_sweep.config import RunConfig, TrainConfig, UserError


class State(NamedTuple):
    """A checkpoint of one run: the updates made, and every tensor by name."""

    step: int
    tensors: dict[str, Tensor]


def resolve_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one; UserError where CUDA is asked for and absent."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"train.device={name} needs a CUDA device, this machine has "
            f"{torch.cuda.device_count()}; use train.device=auto or cpu"
        )
    return device


def total_steps(config: TrainConfig, images: int) -> int:
    """Updates of a run on a training split of `images`; an epoch drops the last batch.

    Raises UserError where a batch is larger than the split.
    """
    if config.batch_size > images:
        raise UserError(
            f"train.batch_size must be at most the number of training images, {images}; "
            f"got {config.batch_size}"
        )
    if config.epochs is not None:
        return max(1, round(config.epochs * (images // config.batch_size)))
    assert config.steps is not None
    return config.steps


def as_rows(parameters: list[nn.Parameter]) -> tuple[nn.Parameter, list[Tensor]]:
    """Moves parameters [R, ...] into the rows of one matrix [R, P], as views into it.

    Returns the matrix, and views of its gradient shaped as the parameters. Rows are
    padded to whole cache lines: an optimizer's vector kernels then treat every run
    alike, to the last bit, wherever it stands.
    """
    sizes = [p[0].numel() for p in parameters]
    width = -(-sum(sizes) // 16) * 16
    rows = nn.Parameter(parameters[0].new_zeros(len(parameters[0]), width))
    rows.grad = torch.zeros_like(rows)
    gradients, start = [], 0
    for p, size in zip(parameters, sizes, strict=True):
        place = slice(start, start + size)
        values = rows.data[:, place].view(p.shape)
        values.copy_(p.data)
        p.data = values
        gradients.append(rows.grad[:, place].view(p.shape))
        start += size
    return rows, gradients


def optimizer_of(config: TrainConfig, weights: nn.Parameter):
    """Elementwise optimizers only: they act on [R, P] as on R separate runs."""
    common: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.optimizer == "sgd":
        return torch.optim.SGD([weights], momentum=config.momentum, fused=True, **common)
    classes = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return classes[config.optimizer]([weights], fused=True, **common)


class Trainer:
    """Networks, optimizer, generators and schedules of a cohort, at update `step`."""

    def __init__(
        self, configs: list[RunConfig], points: list[Point], train: Tensor, device: Any
    ):
        """`train` is the uint8 training split [n, C, H, W], on `device`."""
        self.config = configs[0].train
        self.images, self.device = train, torch.device(device)
        self.seeds = [config.seed for config in configs]
        channels, height, width = train.shape[1:]
        self.cohort = Cohort(configs, points, (channels, height, width)).to(device)
        self.parameters = list(self.cohort.parameters())
        self.weights, self.gradients = as_rows(self.parameters)
        self.optimizer = optimizer_of(self.config, self.weights)
        self.steps = total_steps(self.config, len(train))
        self.betas = self._betas(configs, points)
        self.noise = Streams(self.seeds, "noise")
        self.alive = torch.ones(len(configs), dtype=torch.bool, device=device)
        self.step = 0
        self._epoch: int | None = None

    def _betas(self, configs: list[RunConfig], points: list[Point]) -> Tensor:
        """beta at every step, [steps + 1, R]."""
        columns = [
            torch.from_numpy(schedules.beta_multipliers(c.beta, self.steps)) * p.beta
            for c, p in zip(configs, points, strict=True)
        ]
        return torch.stack(columns, 1).to(self.device, self.cohort.dtype)

    @property
    def beta(self) -> Tensor:
        """[R], of this step."""
        return self.betas[self.step]

    def batch(self) -> Tensor:
        """Images of the next update, uint8 [B, C, H, W], or [R, B, ...] if seeds differ.

        Epoch e visits the training split in the order of the stream `order<e>`.
        """
        size = self.config.batch_size
        per_epoch = len(self.images) // size
        epoch, index = divmod(self.step, per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            orders = {
                seed: torch.randperm(
                    len(self.images), generator=stream(seed, f"order{epoch}")
                ).to(self.device)
                for seed in self.seeds
            }
            shared = len(orders) == 1
            self._order = (
                orders[self.seeds[0]]
                if shared
                else torch.stack([orders[seed] for seed in self.seeds])
            )
        return self.images[self._order[..., index * size : (index + 1) * size]]

    def update(self) -> Tensor:
        """One step of every run; returns the losses before it, [R].

        A run whose loss is not finite is masked: it no longer gets gradients.
        """
        cohort = self.cohort
        u = cohort.pixels_of(self.batch())
        noise = self.noise.normal(u.shape[1], cohort.latent).to(u)
        recon, kl = cohort.terms(cohort(u, noise), self.beta)
        loss = recon + kl
        # not every likelihood learns a noise
        gradients = torch.autograd.grad(loss.sum(), self.parameters, materialize_grads=True)
        for place, gradient in zip(self.gradients, gradients, strict=True):
            place.copy_(gradient)
        self.alive &= loss.detach().isfinite()
        self._condition_gradients()
        rate = schedules.learning_rate(self.config, self.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.step += 1
        return loss.detach()

    def _condition_gradients(self) -> None:
        """Masks dead runs and clips each run's gradient to the norm `clip`."""
        gradient = self.weights.grad
        assert gradient is not None
        if not self.alive.all():
            gradient[~self.alive] = 0
        if self.config.clip is not None:
            norm = torch.stack([row.norm() for row in gradient])  # [R]
            gradient.mul_((self.config.clip / norm).clamp(max=1)[:, None])

    def evaluate(self, images: Tensor) -> dict[str, Tensor]:
        """metrics.NAMES -> float64 [R] on a split."""
        size = self.config.batch_size
        return metrics.evaluate(self.cohort, images, self.beta, self.seeds, size)

    def reconstruct(self, images: Tensor) -> Tensor:
        """Clipped reconstructions of sampled z, uint8 [R, n, C, H, W], in eval mode."""
        self.cohort.eval()
        with torch.no_grad():
            u = self.cohort.pixels_of(images)
            noise = Streams(self.seeds, "pictures").normal(len(images), self.cohort.latent)
            u_hat = self.cohort.to_pixels(self.cohort(u, noise.to(u)).t_hat)
        self.cohort.train()
        return (u_hat.clamp(0, 1) * 255).round().to(torch.uint8)

    def _moments(self) -> dict[str, Tensor]:
        """The optimizer's tensors [R, P], live ones."""
        slots = self.optimizer.state[self.weights].items()
        return {k: v for k, v in slots if isinstance(v, Tensor) and v.ndim == 2}

    def state(self, r: int) -> State:
        """Everything that run `r` needs to go on."""
        live = self.cohort.state_dict() | {
            f"optimizer.{name}": value for name, value in self._moments().items()
        }
        tensors = {name: value[r].cpu().clone() for name, value in live.items()}
        generator = self.noise.of_runs()[r]
        return State(self.step, {**tensors, "generator.noise": generator.get_state()})

    def restore(self, states: list[State]) -> None:
        """Goes on from one state per run, all of one step."""
        self.step = states[0].step
        stacked = {
            name: torch.stack([state.tensors[name] for state in states]).to(self.device)
            for name in states[0].tensors
        }
        names = self.cohort.state_dict().keys()
        self.cohort.load_state_dict({name: stacked[name] for name in names})
        moments: dict[str, Tensor] = {
            name.removeprefix("optimizer."): value
            for name, value in stacked.items()
            if name.startswith("optimizer.")
        }
        if moments and self.config.optimizer != "sgd":
            moments["step"] = torch.tensor(float(self.step), device=self.device)
        self.optimizer.state[self.weights] = moments
        for generator, state in zip(self.noise.of_runs(), states, strict=True):
            generator.set_state(state.tensors["generator.noise"])
