"""One grid point, typed, frozen and validated (pydantic; no torch)."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

Norm = Literal["unit", "minus1_1", "zscore", "zscore_global", "raw255"]
Head = Literal[
    "linear",
    "tanh",
    "sigmoid",
    "hardtanh",
    "tanh_rescaled",
    "sigmoid_rescaled",
    "tanh_standardized",
]
Likelihood = Literal[
    "mse",
    "l1",
    "laplace",
    "gaussian_learned",
    "gaussian_optimal",
    "bernoulli",
    "continuous_bernoulli",
    "discretized_logistic",
    "discretized_gaussian",
]
Reduction = Literal["sum", "gaussian", "mean", "pixel_mean"]

# errors whose weight against the KL, and so beta, implies the decoder's noise
ERRORS: tuple[Likelihood, ...] = ("mse", "l1")
# likelihoods of values in [0, 1], and the heads whose range is (0, 1) on unit targets
UNIT_INTERVAL: tuple[Likelihood, ...] = ("bernoulli", "continuous_bernoulli")
UNIT_HEADS: tuple[Head, ...] = ("sigmoid", "sigmoid_rescaled", "tanh_rescaled")

# keys that came after runs were recorded -> the value that reproduces those runs, fixed for
# ever: only another value enters the run_id, so that finished runs stay finished
NEUTRAL: dict[str, Any] = {"data.background": "white"}
# group -> option -> version, where the option's numbers changed since its first
VERSIONS: dict[str, dict[str, int]] = {
    "head": {"tanh_standardized": 2},  # 1: lagged statistics without a gradient
}

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class UserError(Exception):
    """Something a user can mend: one or two lines with rule, what was received, remedy."""


class Failed(Exception):
    """What ends a run though its input was right: said in a line, exit code 1."""


class Frozen(BaseModel):
    """Base of all sections: unknown keys, lossy conversions and nan are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ConstantBeta(Frozen):
    """The same beta at every step."""

    name: Literal["constant"]
    value: NonNegative

    @property
    def label(self) -> str:
        return f"{self.value:g}"


class WarmupBeta(Frozen):
    """Linear from 0 to `value` over the first `fraction` of the steps."""

    name: Literal["warmup"]
    value: NonNegative
    fraction: Share

    @property
    def label(self) -> str:
        return f"warmup{self.value:g}"


class CyclicalBeta(Frozen):
    """`cycles` ramps from 0 to `value`, each rising for `ramp` of it (Fu et al. 2019)."""

    name: Literal["cyclical"]
    value: NonNegative
    cycles: Count
    ramp: Annotated[float, Field(gt=0, le=1)]

    @property
    def label(self) -> str:
        return f"cyclical{self.value:g}"


class MatchedBeta(Frozen):
    """Solves for beta so that the implied decoder noise is `sigma` 8-bit levels."""

    name: Literal["matched"]
    sigma: Positive

    @property
    def label(self) -> str:
        return f"matched{self.sigma:g}"


class NormalizedBeta(Frozen):
    """beta = beta_norm * N / D (Higgins et al. 2017)."""

    name: Literal["normalized"]
    beta_norm: NonNegative

    @property
    def label(self) -> str:
        return f"normalized{self.beta_norm:g}"


BetaConfig = Annotated[
    ConstantBeta | WarmupBeta | CyclicalBeta | MatchedBeta | NormalizedBeta,
    Field(discriminator="name"),
]


class ConvConfig(Frozen):
    """Strided convolutions, linear layers, transposed convolutions (models.ConvVAE)."""

    name: Literal["conv"]
    latent: Count
    widths: Annotated[tuple[Count, ...], Field(min_length=1, strict=False)]
    depth: Count  # convolutions per resolution; all but the first keep the size
    kernel: Literal[3, 4, 5]
    activation: Literal["relu", "leaky_relu", "silu", "gelu", "tanh"]
    norm_layer: Literal["none", "batch", "group"]


class LinearConfig(Frozen):
    """Linear encoder and decoder, one posterior variance per latent (models.LinearVAE)."""

    name: Literal["linear"]
    latent: Count


ModelConfig = Annotated[ConvConfig | LinearConfig, Field(discriminator="name")]


class _Data(Frozen):
    """Split sizes; None means a tenth of the images, at most 1,000."""

    val_images: Count | None
    cache: str

    @property
    def cache_dir(self) -> Path:
        return Path(self.cache).expanduser()


class DeadLeavesConfig(_Data):
    """Procedural images by the dead-leaves model (dead_leaves.py)."""

    name: Literal["dead_leaves"]
    images: Annotated[int, Field(ge=10)]
    size: Annotated[int, Field(ge=4, le=256)]
    seed: Annotated[int, Field(ge=0)]
    test_images: Count | None


class TorchvisionConfig(_Data):
    """A torchvision set, downloaded into `cache` on first use, with its own test split."""

    name: Literal["cifar10", "cifar100", "svhn", "mnist", "fashion_mnist"]


Level = Annotated[int, Field(ge=0, le=255)]


def _background(value: Any) -> Any:
    """One spelling for each color: a name, a gray level, or three levels."""
    levels = tuple(value) if isinstance(value, list | tuple) else (value,) * 3
    names = {"white": (255,) * 3, "black": (0,) * 3}
    if isinstance(value, str):
        levels = names.get(value, ())
    whole = all(isinstance(v, int) and not isinstance(v, bool) for v in levels)
    if not (whole and len(levels) == 3 and all(0 <= v <= 255 for v in levels)):
        raise ValueError("must be white, black, a gray level 0..255 or [r,g,b]")
    for name, color in names.items():
        if levels == color:
            return name
    return levels[0] if len(set(levels)) == 1 else levels


Background = Annotated[
    Literal["white", "black"] | Level | tuple[Level, Level, Level],
    BeforeValidator(_background),
]


class ImageFolderConfig(_Data):
    """`path` holds train/ and test/, or class folders directly (then split here)."""

    name: Literal["image_folder"]
    path: str
    size: Annotated[int, Field(ge=1, le=4096)] | None  # of the short side; cropped square
    grayscale: bool
    background: Background = "white"  # what shows through transparent pixels
    test_images: Count | None

    @property
    def background_rgb(self) -> tuple[int, int, int]:
        """Its three levels."""
        if isinstance(self.background, tuple):
            return self.background
        level = int({"white": 255, "black": 0}.get(str(self.background), self.background))
        return level, level, level


class NpzConfig(_Data):
    """uint8 arrays [n, H, W] or [n, H, W, C] under train_images/test_images, or images."""

    name: Literal["npz"]
    path: str
    test_images: Count | None


DataConfig = Annotated[
    DeadLeavesConfig | TorchvisionConfig | ImageFolderConfig | NpzConfig,
    Field(discriminator="name"),
]


class TrainConfig(Frozen):
    """Optimization. `epochs`, where set, replaces `steps`."""

    steps: Count | None
    epochs: Positive | None
    batch_size: Count
    optimizer: Literal["adam", "adamw", "sgd"]
    lr: Positive
    momentum: Annotated[float, Field(ge=0, lt=1)]  # sgd only
    weight_decay: NonNegative
    lr_warmup: Annotated[int, Field(ge=0)]  # steps
    lr_schedule: Literal["constant", "cosine"]
    clip: Positive | None  # largest gradient norm, per run
    precision: Literal["fp32", "tf32", "bf16", "fp64"]  # tf32: CUDA only
    eval_every: Count  # steps; rows, checkpoints
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")]
    workers: Literal["auto"] | Count  # processes that train on CPU
    cohort: Literal["auto"] | Count  # most runs that train as one
    kernels: Literal["auto", "loop", "grouped", "products"]  # of convolutions

    @model_validator(mode="before")
    @classmethod
    def _epochs_replace_steps(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("epochs") is not None:
            return {**values, "steps": None}
        return values

    @model_validator(mode="after")
    def _one_length(self) -> "TrainConfig":
        if self.steps is None and self.epochs is None:
            raise ValueError("set train.steps or train.epochs")
        return self


class WandbConfig(Frozen):
    """W&B; WANDB_* environment variables fill what is null."""

    mode: Literal["auto", "online", "offline", "disabled"]
    project: str | None
    entity: str | None


class LogConfig(Frozen):
    """Where numbers go besides the local records, which are always kept."""

    wandb: WandbConfig
    reconstructions: Count  # images per picture


Slug = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._=,-]*$", max_length=100)]


class RunConfig(Frozen):
    """One point of a grid. `sweep` and `runs` say where it is kept, `experiments` which
    named grid it came from, the rest what it is."""

    experiments: str | None = None
    rerun: Literal["diverged", "failed", "all"] | None = None
    sweep: Slug
    runs: str
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    norm: Norm
    target: Literal["same"] | Norm
    head: Head
    likelihood: Likelihood
    reduction: Reduction
    beta: BetaConfig
    model: ModelConfig
    data: DataConfig
    train: TrainConfig
    log: LogConfig
    versions: dict[str, int] = {}  # of options by group, where not 1; see current_versions

    @model_validator(mode="after")
    def _likelihood_has_a_meaning(self) -> "RunConfig":
        name = self.likelihood
        if name in UNIT_INTERVAL and self.target_norm != "unit":
            raise ValueError(
                f"likelihood={name} is one of values in [0, 1], which needs target=unit, "
                f"got target={self.target_norm}; set target=unit"
            )
        if name in UNIT_INTERVAL and self.head not in UNIT_HEADS:
            raise ValueError(
                f"likelihood={name} needs a head with outputs in (0, 1), got "
                f"head={self.head}; set head={', '.join(UNIT_HEADS[:-1])} or "
                f"{UNIT_HEADS[-1]}"
            )
        if name != "mse" and self.reduction == "gaussian":
            raise ValueError(
                f"reduction=gaussian is the 1/2 of a Gaussian's squared error, which "
                f"likelihood={name} has not; set reduction=sum"
            )
        if name not in ERRORS and self.beta.name == "matched":
            raise ValueError(
                f"beta=matched solves for the noise that beta implies, but "
                f"likelihood={name} has one of its own or none; set beta=1"
            )
        return self

    @property
    def target_norm(self) -> Norm:
        """The decoder's target normalization: `target`, or `norm` where that is `same`."""
        return self.norm if self.target == "same" else self.target

    @property
    def sweep_dir(self) -> Path:
        return Path(self.runs).expanduser() / self.sweep

    @property
    def run_dir(self) -> Path:
        return self.sweep_dir / self.run_id

    @property
    def decisive(self) -> dict[str, Any]:
        """What decides the numbers: all but logging, device and folders."""
        values = self.model_dump(
            mode="json",
            exclude={
                "experiments": True,
                "rerun": True,
                "sweep": True,
                "runs": True,
                "log": True,
                "data": {"cache"},
                "train": {"device", "workers", "cohort", "kernels"},
            },
        )
        for key, neutral in NEUTRAL.items():
            section, _, name = key.partition(".")
            if values[section].get(name) == neutral:
                del values[section][name]
        if not self.versions:
            del values["versions"]
        return {**values, "target": self.target_norm}

    @property
    def run_id(self) -> str:
        """Readable, at most 64 characters of [a-z0-9._-], ends in a hash of `decisive`."""
        target = "" if self.target_norm == self.norm else f"{self.target_norm}-"
        likelihood = "" if self.likelihood == "mse" else f"{self.likelihood}-"
        reduction = "" if self.reduction == "sum" else f"{self.reduction}-"
        name = (
            f"{self.norm}-{target}{self.head}-{likelihood}{reduction}"
            f"b{self.beta.label}-s{self.seed}"
        ).replace("+", "")
        canonical = json.dumps(self.decisive, sort_keys=True)
        digest = hashlib.sha256(canonical.encode()).hexdigest()[:8]
        return f"{name[:55]}-{digest}"


def _complaint(error: Any) -> str:
    """One pydantic error as `key: rule, got value`."""
    # a discriminator's tag (`beta.constant.value`) is no key of the user's
    tags = {"constant", "warmup", "cyclical", "matched", "normalized", "conv", "linear"}
    tags |= {"dead_leaves", "image_folder", "npz"}
    tags |= set(TorchvisionConfig.model_fields["name"].annotation.__args__)  # pyright: ignore
    parts = [str(p) for i, p in enumerate(error["loc"]) if not (i == 1 and p in tags)]
    key = ".".join(parts)
    if error["type"] == "extra_forbidden":
        return f"unknown key {key}; remove it or mend its spelling"
    if error["type"] == "missing":
        return f"{key} is missing; set {key}=..."
    rule = error["msg"].removeprefix("Value error, ")
    if not key:  # of several keys together, which the rule names
        return rule
    return f"{key}: {rule[0].lower()}{rule[1:]}, got {error['input']!r}"


def current_versions(values: dict[str, Any]) -> dict[str, int]:
    """VERSIONS of the options that `values` choose, of those where it is not 1."""
    chosen = {group: of.get(values.get(group, ""), 1) for group, of in VERSIONS.items()}
    return {group: version for group, version in chosen.items() if version != 1}


def validate(values: dict[str, Any]) -> RunConfig:
    """A RunConfig from plain containers; UserError names each key that is wrong."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        complaints = [_complaint(e) for e in error.errors()]
        raise UserError("; ".join(dict.fromkeys(complaints))) from None
