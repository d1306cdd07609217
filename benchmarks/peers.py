"""The same network trained by pythae and by Lightning, as their manuals show it.

They come with `pip install -e .[bench]`.
"""

# pyright: reportMissingImports=false
import logging
import tempfile
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision import transforms
from torchvision.transforms.functional import to_pil_image

from benchmarks.bare import Bare
from vae_sweep.config import ConvConfig

Train = Callable[[], None]  # trains one point


def pythae(images: Tensor, config: ConvConfig, batch: int, steps: int) -> Train:
    """pythae's BaseTrainer with its VAE and our encoder and decoder."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    logging.getLogger("pythae").setLevel(logging.ERROR)

    class Encoder(BaseEncoder):
        def __init__(self, layers: nn.Module):
            super().__init__()
            self.layers, self.latent_dim = layers, config.latent

        def forward(self, x: Tensor):
            mu, logvar = self.layers(x).chunk(2, 1)
            return ModelOutput(embedding=mu, log_covariance=logvar)

    class Decoder(BaseDecoder):
        def __init__(self, layers: nn.Module):
            super().__init__()
            self.layers = layers

        def forward(self, z: Tensor):
            return ModelOutput(reconstruction=self.layers(z))

    data = _normalized(images[: batch * steps])

    def train() -> None:
        bare = Bare(config)
        shape = VAEConfig(input_dim=(3, 32, 32), latent_dim=config.latent)
        model = VAE(shape, Encoder(bare.encoder), Decoder(bare.decoder))
        with tempfile.TemporaryDirectory() as folder:
            settings = BaseTrainerConfig(
                output_dir=folder,
                num_epochs=1,
                per_device_train_batch_size=batch,
                learning_rate=1e-3,
            )
            dataset = BaseDataset(data, torch.zeros(len(data)))
            BaseTrainer(model, dataset, training_config=settings).train()

    return train


def lightning(
    images: Tensor, config: ConvConfig, batch: int, steps: int, usual_transforms: bool
) -> Train:
    """Lightning's Trainer with a DataLoader over tensors that are normalized already, or
    over PIL images with torchvision's ToTensor and Normalize."""
    import lightning as L

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    images = images[: batch * steps]

    class Module(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = Bare(config)

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            return self.model(batch[0])

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=1e-3)

    dataset = _Pictures(images) if usual_transforms else TensorDataset(_normalized(images))

    def train() -> None:
        loader = DataLoader(dataset, batch, shuffle=True, drop_last=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it recommends other settings
            L.Trainer(
                max_epochs=1,
                accelerator="cpu",
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            ).fit(Module(), loader)

    return train


class _Pictures(Dataset):
    """PIL images through the transforms that torchvision's examples use."""

    def __init__(self, images: Tensor):
        self.images = [to_pil_image(image) for image in images]
        scale = transforms.Normalize((0.5,) * 3, (0.25,) * 3)
        self.transform = transforms.Compose([transforms.ToTensor(), scale])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor]:
        return (self.transform(self.images[i]),)


def _normalized(images: Tensor) -> Tensor:
    return (images.float() / 255 - 0.5) / 0.25
