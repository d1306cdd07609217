"""The same network trained by pythae and by Lightning, as their manuals show it.

They come with `pip install -e .[bench]`.
"""

# pyright: reportMissingImports=false
import logging
import tempfile
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision import transforms
from torchvision.transforms.functional import to_pil_image

from benchmarks.bare import Bare
from vae_sweep.config import ConvConfig

Train = Callable[[], None]  # trains one point
Watch = Callable[[int], None]  # told the steps done after each; what it raises ends it


class Recipe(NamedTuple):
    """How a peer is to train: its loss is `weight` * squared error + beta * KL.

    `rates` and `betas` are the learning rate and beta of each step. pythae's own weight is
    1/2, which `weight` must then be.
    """

    batch: int
    weight: float
    rates: list[float]
    betas: list[float]
    fused: bool  # Adam's update: all parameters at once


Until = Callable[[Bare, Recipe, int, Watch], None]  # trains with a seed until Watch raises


def pythae(images: Tensor, config: ConvConfig, batch: int, steps: int) -> Train:
    """pythae's BaseTrainer with its VAE and our encoder and decoder."""
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    logging.getLogger("pythae").setLevel(logging.ERROR)
    data = _normalized(images[: batch * steps])

    def train() -> None:
        with tempfile.TemporaryDirectory() as folder:
            settings = BaseTrainerConfig(
                output_dir=folder,
                num_epochs=1,
                per_device_train_batch_size=batch,
                learning_rate=1e-3,
            )
            dataset = BaseDataset(data, torch.zeros(len(data)))
            model = _pythae_model(Bare(config))
            BaseTrainer(model, dataset, training_config=settings).train()

    return train


def pythae_until(train: Tensor, val: Tensor) -> Until:
    """pythae's BaseTrainer on normalized images, validated after each epoch; a callback
    sets rate and beta."""
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import TrainingCallback

    datasets = [BaseDataset(data, torch.zeros(len(data))) for data in (train, val)]

    def until(bare: Bare, recipe: Recipe, seed: int, watch: Watch) -> None:
        model = _pythae_model(bare)

        class Follow(TrainingCallback):
            step = 0

            def on_train_begin(self, *_: Any, **__: Any) -> None:
                self.prepare()

            def on_train_step_end(self, *_: Any, **__: Any) -> None:
                self.step += 1
                watch(self.step)
                self.prepare()

            def prepare(self) -> None:
                trainer.optimizer.param_groups[0]["lr"] = recipe.rates[self.step]
                model.beta = recipe.betas[self.step]

        with tempfile.TemporaryDirectory() as folder:
            settings = BaseTrainerConfig(
                output_dir=folder,
                num_epochs=len(recipe.rates),  # `watch` ends it
                per_device_train_batch_size=recipe.batch,
                per_device_eval_batch_size=recipe.batch,
                learning_rate=1e-3,
                optimizer_params={"fused": True} if recipe.fused else None,
                seed=seed,
            )
            trainer = BaseTrainer(model, *datasets, settings, [Follow()])
            trainer.train()

    return until


def _pythae_model(bare: Bare):
    """pythae's BetaVAE with the encoder and decoder of `bare`; its beta of 1 is its VAE."""
    from pythae.models import BetaVAE, BetaVAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self, layers: nn.Module):
            super().__init__()
            self.layers, self.latent_dim = layers, bare.latent

        def forward(self, x: Tensor):
            mu, logvar = self.layers(x).chunk(2, 1)
            return ModelOutput(embedding=mu, log_covariance=logvar)

    class Decoder(BaseDecoder):
        def __init__(self, layers: nn.Module):
            super().__init__()
            self.layers = layers

        def forward(self, z: Tensor):
            return ModelOutput(reconstruction=self.layers(z))

    shape = BetaVAEConfig(input_dim=(3, 32, 32), latent_dim=bare.latent, beta=1.0)
    return BetaVAE(shape, Encoder(bare.encoder), Decoder(bare.decoder))


def lightning(
    images: Tensor, config: ConvConfig, batch: int, steps: int, usual_transforms: bool
) -> Train:
    """Lightning's Trainer with a DataLoader over tensors that are normalized already, or
    over PIL images with torchvision's ToTensor and Normalize."""
    images = images[: batch * steps]
    if usual_transforms:
        scale = transforms.Normalize((0.5,) * 3, (0.25,) * 3)
        dataset = Pictures(images, transforms.Compose([transforms.ToTensor(), scale]))
    else:
        dataset = TensorDataset(_normalized(images))

    def train() -> None:
        loader = DataLoader(dataset, batch, shuffle=True, drop_last=True)
        module = _lightning_module(Bare(config), 1.0, torch.optim.Adam, lr=1e-3)
        _fit(module, loader, max_epochs=1)

    return train


def lightning_until(train: Dataset, val: Dataset) -> Until:
    """Lightning's Trainer on normalized images, validated after each epoch; a callback sets
    rate and beta."""
    from lightning import Callback

    def until(bare: Bare, recipe: Recipe, seed: int, watch: Watch) -> None:
        torch.manual_seed(seed)
        adam = torch.optim.Adam
        module = _lightning_module(bare, recipe.weight, adam, fused=recipe.fused)

        class Follow(Callback):
            def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
                step = trainer.global_step
                trainer.optimizers[0].param_groups[0]["lr"] = recipe.rates[step]
                module.beta = recipe.betas[step]

            def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
                watch(trainer.global_step)

        loaders = (
            DataLoader(train, recipe.batch, shuffle=True),
            DataLoader(val, recipe.batch),
        )
        _fit(module, *loaders, max_epochs=-1, callbacks=[Follow()])

    return until


def _lightning_module(bare: Bare, weight: float, optimizer: Any, **settings: Any):
    """A LightningModule with the loss `weight` * squared error + `beta` * KL."""
    import lightning as L

    class Module(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.bare, self.beta = bare, 1.0

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            sse, kl = self.bare.terms(batch[0])
            return weight * sse + self.beta * kl

        def validation_step(self, batch: list[Tensor], index: int) -> None:
            self.log("val_loss", self.training_step(batch, index))

        def configure_optimizers(self):
            return optimizer(self.parameters(), **settings)

    return Module()


def _fit(module: Any, *loaders: DataLoader, **settings: Any) -> None:
    """Lightning's Trainer without logger, checkpoints and displays."""
    import lightning as L

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it recommends other settings
        L.Trainer(
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **settings,
        ).fit(module, *loaders)


class Pictures(Dataset):
    """PIL images through `transform`, as torchvision's data sets hand them out."""

    def __init__(self, images: Tensor, transform: Callable[[Any], Tensor]):
        self.images = [to_pil_image(image) for image in images]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor]:
        return (self.transform(self.images[i]),)


def _normalized(images: Tensor) -> Tensor:
    return (images.float() / 255 - 0.5) / 0.25
