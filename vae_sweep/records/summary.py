"""What a run states of itself in summary.json: one type for who writes and who reads."""

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Number = float | int | None  # None: not finite, or not known
Best = Literal["", "highest", "lowest"]  # which end of a metric is better; "": neither


class _Kept(BaseModel):
    """Base: everything may be missing, of an earlier version; what a later one added is
    kept as it is."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)


class Predicted(_Kept):
    """theory.prediction.Prediction, as far as readers know it."""

    curve: Annotated[list[list[Number]], Field(min_length=2, max_length=2)] | None = None
    psnr_cap_val: Number = None
    psnr_cap_test: Number = None
    sigma: Number = None
    beta_pixel: Number = None
    floor_mse: Number = None
    floor_mse_pixel: Number = None
    active_units: Number = None
    kl: Number = None
    kl_error: Number = None
    mse_pixel: Number = None
    psnr: Number = None
    psnr_clipped: Number = None
    bits_per_dim: Number = None
    bits_per_dim_calibrated: Number = None
    bits_per_dim_clipped: Number = None
    sentence: str | None = None


class Measured(_Kept):
    """How a metric that not every run has is shown: `<split> <label> (<unit>)` with so many
    decimals."""

    split: str = "val"
    label: str = ""
    unit: str = ""
    digits: Annotated[int, Field(ge=0, le=15)] = 3
    best: Best = ""


class Constants(_Kept):
    """A normalization x = (u - shift) / scale of pixels u in [0, 1], per channel."""

    shift: list[float]
    scale: list[float]


class Normalization(_Kept):
    """What a run's images fix of its network's ends: the normalization of what the encoder
    sees, that of what the decoder is compared with, and, of a head that standardizes, the
    z-score."""

    norm: Constants
    target: Constants
    zscore: Constants | None = None


class Summary(_Kept):
    """A run as its summary.json states it.

    `steps` are those that it has trained, of `total_steps`; `final` is its last row;
    `implied_sigma` is in 8-bit levels, `psnr_cap` in dB, of the training split, where None
    that is stated is no cap. `seconds` are those of its cohort, of `cohort_size` runs.
    `metrics` are those that not every run has, by name. `shape` is an image's (C, H, W),
    `images` a digest of every pixel.
    `rows` and the digests say what belongs to a run that ended: metrics.csv, training.csv,
    reconstructions.png and samples.png.
    """

    status: Literal["running", "failed", "diverged", "finished"]
    run_id: str | None = None
    identity: str | None = None
    images: str | None = None
    steps: int | None = None
    total_steps: int | None = None
    diverged_at: int | None = None
    reason: str | None = None
    shape: Annotated[list[int], Field(min_length=3, max_length=3)] | None = None
    normalization: Normalization | None = None
    final: dict[str, Number] = {}
    beta: Number = None
    implied_sigma: Number = None
    psnr_cap: Number = None
    predicted: Predicted | None = None
    seconds: Number = None
    cohort_size: int | None = None
    kernels: list[str] = []
    metrics: dict[str, Measured] = {}
    device: str | None = None
    processor: str | None = None
    command: str | None = None
    versions: dict[str, str] = {}
    commit: str | None = None
    threads: int | None = None
    rows: int | None = None
    metrics_sha256: str | None = None
    training_sha256: str | None = None
    picture_sha256: str | None = None
    samples_sha256: str | None = None
    checksum: str | None = None

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Summary":
        """From numbers as they were computed: what is not finite is None."""
        return cls.model_validate(_plain(values))

    def but(self, **changes: Any) -> "Summary":
        """This one with some values changed, or stated for the first time."""
        return Summary.of({**self.stated(), **changes})

    def stated(self) -> dict[str, Any]:
        """What it states, as JSON has it."""
        return self.model_dump(exclude_unset=True)

    def states(self, name: str) -> bool:
        """Whether it states a field, if only that it is None."""
        return name in self.model_fields_set


def _plain(value: Any) -> Any:
    """As JSON has it: tuples are lists, and numbers that are not finite are None."""
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
