"""The training step of R runs: one forward, one backward, one optimizer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vae_sweep.config import RunConfig
from vae_sweep.data.random_transform import Random
from vae_sweep.records.checkpoint import State, StateShape, is_whole
from vae_sweep.training import metrics
from vae_sweep.training.batches import Block, Feed
from vae_sweep.training.device import Captured, set_precision
from vae_sweep.training.optimizer import Optimizer
from vae_sweep.training.tune import Tuner, convolutions, tune_layers
from vae_sweep.vae.cohort import Cohort
from vae_sweep.vae.point import Point
from vae_sweep.vae.streams import Streams

AHEAD = 32  # steps that the host prepares for CUDA while it works on those before
DRAWN = 2**23  # pixels of a random transform that it prepares at most
KEPT = 32  # rows of the training curve that the device keeps


def state_shape(config: RunConfig, point: Point, shape: tuple[int, int, int]) -> StateShape:
    """Of a run on images (C, H, W)."""
    cohort = Cohort([config], [point], shape)
    tensors = {n: (t.shape[1:], t.dtype) for n, t in cohort.state_dict().items()}
    generator = torch.Generator().get_state()
    tensors["generator.noise"] = generator.shape, generator.dtype
    [row] = as_rows(list(cohort.parameters())).runs
    slots = ("exp_avg", "exp_avg_sq")
    if config.train.optimizer == "sgd":
        slots = ("momentum_buffer",) if config.train.momentum else ()
    return StateShape(
        tensors, {f"optimizer.{slot}": (row.shape, row.dtype) for slot in slots}
    )


class Rows(NamedTuple):
    """The parameters of R runs as rows: one per run, all of its weights.

    `runs` [P] each, with `grad`; `values` and `gradients` are the same as matrices
    [R, P], and `places` the gradient again, shaped as the cohort's parameters.
    """

    runs: list[nn.Parameter]
    values: Tensor
    gradients: Tensor
    places: list[Tensor]


def as_rows(parameters: list[nn.Parameter]) -> Rows:
    """Moves parameters [R, ...] into the rows of one matrix, as views into it.

    Rows are padded to whole cache lines: an optimizer's vector kernels then treat every
    run alike, to the last bit, wherever it stands.
    """
    sizes = [p[0].numel() for p in parameters]
    width = -(-sum(sizes) // 16) * 16
    values = parameters[0].data.new_zeros(len(parameters[0]), width)
    gradients = torch.zeros_like(values)
    places, start = [], 0
    for p, size in zip(parameters, sizes, strict=True):
        part = values[:, start : start + size].view(p.shape)
        part.copy_(p.data)
        p.data = part
        places.append(gradients[:, start : start + size].view(p.shape))
        start += size
    runs = [nn.Parameter(row) for row in values]
    for run, gradient in zip(runs, gradients, strict=True):
        run.grad = gradient
    return Rows(runs, values, gradients, places)


def _batch_means(values: Tensor) -> Tensor:
    """Of values per image [R, B], float64 [R]."""
    values = values.double()
    if values.is_cuda:
        return values.mean(1)
    return torch.stack([row.mean() for row in values])  # a mean over [R, B] may round by R


def _levels(u_hat: Tensor) -> Tensor:
    """Pixels, clipped to [0, 1], as uint8."""
    return (u_hat.clamp(0, 1) * 255).round().to(torch.uint8)


class Trainer:
    """Networks, optimizer, generators and schedules of a cohort, at update `step`."""

    def __init__(
        self,
        configs: list[RunConfig],
        points: list[Point],
        train: Tensor,
        device: Any,
        ahead: int | None = None,
        random: Random | None = None,
    ):
        """`train` is the uint8 training split [n, C, H, W], on `device`; `ahead` the
        steps that the host prepares at once; `random`, where the data has a random
        transform, draws the batches instead of `train`."""
        self.config = configs[0].train
        self.images, self.device = train, torch.device(device)
        cuda = self.device.type == "cuda"
        self.seeds = [config.seed for config in configs]
        self.metrics = metrics.of(configs[0].metric)
        channels, height, width = train.shape[1:]
        self.cohort = Cohort(configs, points, (channels, height, width)).to(device)
        set_precision(self.config)
        self._choose_kernels(configs[0].data.cache_dir)
        self.parameters = list(self.cohort.parameters())
        self.rows = as_rows(self.parameters)
        self.optimizer = Optimizer(configs, self.rows.runs)
        self.steps = self.config.total_steps(len(train))
        self.feed = Feed(configs, points, len(train), self.steps, random)
        self.ahead = ahead or (self._most_ahead() if cuda else 1)
        self._seed_of = self.feed.seed_of.to(device)
        self._block: Block | None = None  # what the host prepared, in place
        self._length = self._used = 0  # steps of it, and how many are past
        self._place = torch.zeros(1, dtype=torch.int64, device=device)  # the latter
        self.losses = torch.zeros(len(configs), dtype=self.cohort.dtype, device=device)
        self.died = torch.full((len(configs),), -1, device=device)
        self._clock = torch.zeros((), dtype=torch.int64, device=device)
        self.log_every = configs[0].log.every
        self._is_repeated = cuda or self.ahead > 1  # then every step launches the same
        shape = KEPT + 1, 3, len(configs)  # the last row has what no curve does
        self._curve = torch.zeros(shape, dtype=torch.float64, device=device)
        self._run_step = Captured(self._step) if cuda else self._step
        self.step = 0

    def _most_ahead(self) -> int:
        if self.feed.random is None:
            return AHEAD
        batch = len(self.feed.seeds) * self.config.batch_size * self.cohort.pixels
        return max(1, min(AHEAD, DRAWN // batch))

    def _choose_kernels(self, cache: Path) -> None:
        asked = self.config.kernels
        if asked != "auto":
            for conv in convolutions(self.cohort):
                conv.way = asked
        elif self.device.type == "cuda":
            images = self.images[: self.config.batch_size]
            tune_layers(self.cohort, images, Tuner(cache, self.device))

    @property
    def kernels(self) -> list[str]:
        """How each convolution is computed, in the order of the layers."""
        return [conv.chosen(self.device) for conv in convolutions(self.cohort)]

    @property
    def beta(self) -> Tensor:
        """[R], of this step."""
        return self.feed.betas[self.step].to(self.device, self.cohort.dtype)

    def update(self) -> None:
        """One step of every run; `losses` [R] are then those before it.

        A run whose loss is not finite is masked: it no longer gets gradients, and
        `died` [R] holds the step (-1 for the others).
        """
        if self._used == self._length:
            self._load(self.feed.block(self.step, min(self.ahead, self.steps - self.step)))
        self._run_step()
        self.step += 1
        self._used += 1

    def _load(self, block: Block) -> None:
        """Copies a block into the fixed buffers that the step reads."""
        dtype = self.cohort.dtype
        images = block.images.to(dtype) if self.feed.random else block.images
        cast = Block(images, *(t.to(dtype) for t in block[1:]))
        if self.device.type == "cuda":
            cast = Block(*(t.pin_memory() for t in cast))  # else the copy waits
        if self._block is None:
            shapes = ((self.ahead, *t.shape[1:]) for t in cast)
            empty = zip(cast, shapes, strict=True)
            self._block = Block(*(t.new_empty(s, device=self.device) for t, s in empty))
        for place, t in zip(self._block, cast, strict=True):
            place[: len(t)].copy_(t, non_blocking=True)
        self._length, self._used = len(cast.rate), 0
        self._place.zero_()
        self._clock.fill_(self.step)

    def _now(self) -> Block:
        """What of the block is for this step: images [S, B, ...], noise [S, B, D], ..."""
        assert self._block is not None
        if self.ahead == 1:
            return Block(*(t[0] for t in self._block))
        return Block(*(t.index_select(0, self._place)[0] for t in self._block))

    def _step(self) -> None:
        """The step on the device alone: it reads nothing back, so that it can be captured.

        Images, noise and schedules come out of the block, everything else is in place.
        """
        now = self._now()
        loss = self._loss(now)
        # not every likelihood learns a noise
        gradients = torch.autograd.grad(loss.sum(), self.parameters, materialize_grads=True)
        torch._foreach_copy_(self.rows.places, gradients)  # pyright: ignore
        self.losses.copy_(loss.detach())
        alive = (self.died < 0) & self.losses.isfinite()
        dies = (self.died < 0) & ~alive
        self.died.copy_(torch.where(dies, self._clock, self.died))
        self._condition_gradients(alive)
        for group in self.optimizer.param_groups:
            rate = now.rate * group["base"]
            if isinstance(group["lr"], Tensor):
                group["lr"].copy_(rate)
            else:
                group["lr"] = rate.item()
        self.optimizer.step()
        self._place += 1
        self._clock += 1

    def _loss(self, now: Block) -> Tensor:
        """The loss of each run, [R], which the curve has where the step is due."""
        cohort, one_seed = self.cohort, len(self.feed.seeds) == 1
        batch = now.images[0] if one_seed else now.images[self._seed_of]
        forward = cohort(self._pixels(batch), now.noise[self._seed_of])
        errors, kl = cohort.errors(forward), forward.kl()
        loss = torch.add(*cohort.weighed(errors, kl, now.beta))
        if self._is_repeated or self.step % self.log_every == 0:
            with torch.no_grad():
                mse = _batch_means(cohort.sse(forward, errors)) / cohort.pixels
                self._note(loss, mse, _batch_means(kl))
        return loss

    def _note(self, *values: Tensor) -> None:
        """Puts values [R] into the curve's row of this step; where the step is not due,
        into the row that no curve has."""
        row = self._clock // self.log_every % KEPT
        row = torch.where(self._clock % self.log_every == 0, row, KEPT)
        self._curve.index_copy_(
            0, row[None], torch.stack([v.double() for v in values])[None]
        )

    def curve(self, since: int) -> list[tuple[int, list[list[float]]]]:
        """(step, [loss, MSE, KL] of each run, which are lists of R) of the batches of every
        `log.every` steps from `since` on; the last KEPT of them at most.

        The loss is the objective per image, the MSE per element of the target, the KL in
        nats per image, before the step's update.
        """
        due = range(-(-since // self.log_every) * self.log_every, self.step, self.log_every)
        if not due:  # else the host waits for the device
            return []
        kept = self._curve.tolist()
        return [(step, kept[step // self.log_every % KEPT]) for step in due[-KEPT:]]

    def _pixels(self, batch: Tensor) -> Tensor:
        """u [R or 1, B, C, H, W] of a batch: indices [R, B] or [B], or drawn pixels."""
        if self.feed.random is None:
            chosen = self.images.index_select(0, batch.flatten())
            return self.cohort.pixels_of(chosen.unflatten(0, batch.shape))
        return batch if batch.ndim == 5 else batch[None]

    def _condition_gradients(self, alive: Tensor) -> None:
        """Masks dead runs and clips each run's gradient to the norm `clip`."""
        gradients = self.rows.gradients
        if self._is_repeated or not alive.all():
            gradients.masked_fill_(~alive[:, None], 0)
        if self.config.clip is not None:
            if self.device.type == "cuda":
                norm = gradients.norm(dim=1)  # [R]
            else:  # row by row: a sum over [R, P] may round by R
                norm = torch.stack([row.norm() for row in gradients])
            gradients.mul_((self.config.clip / norm).clamp(max=1)[:, None])

    def evaluate(
        self,
        images: Tensor,
        pause: Callable[[], None] = lambda: None,
        samples: int = 0,
    ) -> dict[str, Tensor]:
        """Metric's name -> float64 [R] on a split; `pause` is called again and again. With
        `samples` of each image, metrics.BOUNDS are there too."""
        about = self.cohort, images, self.beta, self.seeds, self.metrics
        return metrics.evaluate(*about, pause=pause, samples=samples)

    def reconstruct(self, images: Tensor) -> Tensor:
        """Clipped reconstructions of sampled z, uint8 [R, n, C, H, W], in eval mode."""
        self.cohort.eval()
        with torch.no_grad():
            u = self.cohort.pixels_of(images)
            noise = Streams(self.seeds, "pictures").normal(len(images), self.cohort.latent)
            u_hat = self.cohort.target.inverse(self.cohort(u, noise.to(u)).t_hat)
        self.cohort.train()
        return _levels(u_hat)

    def sample(self, count: int) -> Tensor:
        """Clipped means of the decoder at z from the prior, uint8 [R, count, C, H, W], in
        eval mode; z is the same at every call."""
        self.cohort.eval()
        with torch.no_grad():
            z = Streams(self.seeds, "samples").normal(count, self.cohort.latent)
            u_hat, _ = self.cohort.decode(z.to(self.device, self.cohort.dtype))
        self.cohort.train()
        return _levels(u_hat)

    def _moments(self, r: int) -> dict[str, Tensor]:
        """The optimizer's tensors [P] of run r, live ones."""
        slots = self.optimizer.state[self.rows.runs[r]].items()
        return {k: v for k, v in slots if isinstance(v, Tensor) and v.ndim == 1}

    def state(self, r: int) -> State:
        """Everything that run `r` needs to go on."""
        live = {name: value[r] for name, value in self.cohort.state_dict().items()}
        live |= {f"optimizer.{name}": value for name, value in self._moments(r).items()}
        tensors = {name: value.cpu().clone() for name, value in live.items()}
        noise = self.feed.state(r, self._used)
        return State(self.step, {**tensors, "generator.noise": noise})

    def restore(self, states: list[State]) -> None:
        """Goes on from one state per run, all of one step."""
        self.step = states[0].step
        names = self.cohort.state_dict().keys()
        self.cohort.load_state_dict(
            {n: torch.stack([s.tensors[n] for s in states]).to(self.device) for n in names}
        )
        if all(map(is_whole, states)):
            self.feed.restore([state.tensors["generator.noise"] for state in states])
        self._length = self._used = 0
        for row, state in zip(self.rows.runs, states, strict=True):
            moments: dict[str, Tensor] = {
                name.removeprefix("optimizer."): value.to(self.device)
                for name, value in state.tensors.items()
                if name.startswith("optimizer.")
            }
            if moments and self.config.optimizer != "sgd":
                moments["step"] = torch.tensor(float(self.step), device=self.device)
            self.optimizer.state[row] = moments
