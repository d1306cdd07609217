"""TensorBoard as a logger of one run: event files in runs/<sweep>/tensorboard/<run_id>.

Only this file imports torch.utils.tensorboard, when the first run opens.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from vae_sweep.config import RunConfig
from vae_sweep.records.tracker import check_installed, hyperparameters, numbers

FLUSH_S = 10  # how long a row may wait for its file, which TensorBoard reads
SHOWN = ("val/psnr", "val/kl", "val/bits_per_dim_calibrated")  # beside hyperparameters


class TensorboardLogger:
    """The TensorBoard run of one grid point."""

    shown_as: ClassVar[str] = "TensorBoard"

    def __init__(self, config: RunConfig) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        # a run that goes on is told all anew: what the files have of it is passed over
        folder = str(_folder(config) / config.run_id)
        self._writer = SummaryWriter(folder, purge_step=0, flush_secs=FLUSH_S)
        *begin, self._end = hparams(hyperparameters(config), dict.fromkeys(SHOWN, 0))
        for each in begin:
            self._writer._get_file_writer().add_summary(each)

    @staticmethod
    def is_on(config: RunConfig) -> bool:
        """True; raises UserError where tensorboard is not installed."""
        check_installed("tensorboard", "log=tensorboard", "tensorboard")
        return True

    @staticmethod
    def note(config: RunConfig) -> str:
        """How to look at the runs of this sweep."""
        return f"TensorBoard: look at it with: tensorboard --logdir {_folder(config)}"

    def row(self, row: Mapping[str, float]) -> None:
        """See loggers.Logger."""
        for key, value in numbers(row).items():
            self._writer.add_scalar(key, value, int(row["step"]))

    def images(self, step: int, path: Path) -> None:
        """See loggers.Logger."""
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        self._writer.add_image(path.stem, pixels, step, dataformats="HWC")

    def finish(self, summary: Mapping[str, Any]) -> None:
        """See loggers.Logger."""
        self._writer._get_file_writer().add_summary(self._end)
        self._writer.close()


def _folder(config: RunConfig) -> Path:
    return config.sweep_dir / "tensorboard"
