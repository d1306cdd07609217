"""One grid point, typed, frozen and validated (pydantic; no torch)."""

import copy
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic_core import PydanticCustomError

from vae_sweep import options
from vae_sweep.errors import UserError, nearest, shown

GROUPS = (  # whose options are objects, ours or a user's
    *("norm", "target", "head", "likelihood", "reduction", "beta", "model", "data"),
    "metric",
)
SAME = "same"  # of target: the normalization of the encoder
OUR_METRICS = "default"  # of metric: the columns that every run has

# Bounds, far beyond what trains today: what lies outside overflows a number format, or
# takes memory or days before the first step.
MOST_STEPS = 10**7  # of a run; its schedules are tables of so many float64
MOST_SAMPLES = 10**6  # of an image's posterior
LARGEST_INTEGER = 2**63 - 1
LARGEST_WEIGHT = 1e15  # of the KL; squared gradients then stay within float32
SMALLEST_WEIGHT = 1e-30
LONGEST_PATH = 4096  # bytes
DEEPEST_PATH = 100  # folders; Python 3.11 makes them by recursion
# pydantic's types of errors -> what a value must be
TYPES = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **{"finite_number": "a finite number", "string_type": "text"},
    **{"bool_type": "true or false", "tuple_type": "a list"},
}
WARMUP = 50  # steps, where a run is long enough; see TrainConfig.warmup

Count = Annotated[int, Field(ge=1, le=LARGEST_INTEGER)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


def _option(group: str, name: str) -> str:
    """The name of an option of `group`, ours or a user's own."""
    if name in options.words(group) or options.is_own(name):
        return name
    listed = ", ".join(map(repr, options.words(group)))
    raise PydanticCustomError(
        "literal_option", "must be {listed} or module:object", {"listed": listed}
    )


def _own_name(value: str) -> str:
    if not options.is_own(value):
        raise ValueError("must be module:object")
    return value


def _weight(value: float) -> float:
    if value and not SMALLEST_WEIGHT <= value <= LARGEST_WEIGHT:
        raise ValueError(
            f"must be 0 or from {SMALLEST_WEIGHT:g} to {LARGEST_WEIGHT:g}, so that losses "
            f"and squared gradients fit float32"
        )
    return value


def _path(value: str) -> str:
    if not value.strip() or "\0" in value:
        raise ValueError("must be a path, without NUL bytes")
    if len(value.encode()) > LONGEST_PATH or value.count("/") > DEEPEST_PATH:
        raise ValueError(
            f"must be a path of at most {LONGEST_PATH} bytes and {DEEPEST_PATH} folders"
        )
    return value


def _device(value: str) -> str:
    kind, colon, index = value.partition(":")
    numbered = kind == "cuda" and index in {str(i) for i in range(128)}
    if value not in ("auto", "cpu", "cuda") and not (colon and numbered):
        raise ValueError("must be auto, cpu, cuda or cuda:N with N from 0 to 127")
    return value


def _slug(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._=,-]{0,99}", value):
        raise ValueError(
            "must be 1 to 100 letters a-z, A-Z, digits or . _ = , - and begin with a "
            "letter or digit"
        )
    return value


def _tracker_name(value: str) -> str:
    if not 1 <= len(value) <= 128 or set(value) & set("/\\#?%:") or not value.isprintable():
        raise ValueError(
            "must have 1 to 128 printable characters, none of / \\ # ? % : among them"
        )
    return value


Weight = Annotated[float, Field(ge=0), AfterValidator(_weight)]  # of the KL
Norm = Annotated[str, AfterValidator(partial(_option, "norm"))]
Target = Annotated[str, AfterValidator(partial(_option, "target"))]
Head = Annotated[str, AfterValidator(partial(_option, "head"))]
Likelihood = Annotated[str, AfterValidator(partial(_option, "likelihood"))]
Reduction = Annotated[str, AfterValidator(partial(_option, "reduction"))]
Metric = Annotated[str, AfterValidator(partial(_option, "metric"))]
OwnName = Annotated[str, AfterValidator(_own_name)]
FilePath = Annotated[str, AfterValidator(_path)]
TrackerName = Annotated[str, AfterValidator(_tracker_name)]


def expanded(key: str, path: str) -> Path:
    """`path` with its ~ replaced by a home folder.

    Raises UserError where there is no such home folder: HOME is not set and the user has
    no entry in the password database, or `~name` names nobody.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        also = ", VAE_SWEEP_CACHE=FOLDER" if key == "data.cache" else ""
        raise UserError(
            f"{key} begins with ~, but no such home folder is known (HOME is not set, or "
            f"there is no such user), got {shown(path)}; set {key}=FOLDER{also} or HOME"
        ) from None


class Frozen(BaseModel):
    """Base of all sections: unknown keys, lossy conversions and nan are errors.

    A key that has a default here came after runs had been recorded. Its default gives the
    numbers of those runs and is fixed for ever: only another value enters the run_id, so
    that finished runs stay finished.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def leaves(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of all that is in nested sections: {"model": {"latent": 16}} has
    ("model.latent", 16)."""
    for key, value in section.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


class Own(Frozen):
    """Base of the sections of a user's own options: the keys that none of ours has are the
    keyword parameters of the object, checked by their annotations in `validate`."""

    model_config = ConfigDict(extra="allow")
    name: OwnName

    @property
    def parameters(self) -> dict[str, Any]:
        """The keyword parameters that the point sets."""
        return dict(self.model_extra or {})


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else _typed(value)


def _is_own(value: Any) -> str:
    name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
    return "own" if options.is_own(name) else "ours"


OURS, THEIRS, BY_NAME = Tag("ours"), Tag("own"), Discriminator(_is_own)


class _Beta(Frozen):
    """Base of the schedules."""

    key: ClassVar[str]  # that the final beta follows from

    def warnings(self, steps: int) -> list[str]:
        """What of it makes no sense in a run of `steps` steps; a sentence each."""
        return []


class ConstantBeta(_Beta):
    """The same beta at every step."""

    key: ClassVar[str] = "beta.value"
    name: Literal["constant"]
    value: Weight

    @property
    def label(self) -> str:
        """As tables and run_ids name it: `0.5`."""
        return f"{self.value:g}"


class WarmupBeta(_Beta):
    """Linear from 0 to `value` over the first `fraction` of the steps."""

    key: ClassVar[str] = "beta.value"
    name: Literal["warmup"]
    value: Weight
    fraction: Share

    @property
    def label(self) -> str:
        """As tables and run_ids name it: `warmup0.5`."""
        return f"warmup{self.value:g}"


class CyclicalBeta(_Beta):
    """`cycles` ramps from 0 to `value`, each rising for `ramp` of it (Fu et al. 2019)."""

    key: ClassVar[str] = "beta.value"
    name: Literal["cyclical"]
    value: Weight
    cycles: Annotated[int, Field(ge=1, le=MOST_STEPS)]
    ramp: Annotated[float, Field(ge=1e-9, le=1)]

    @property
    def label(self) -> str:
        """As tables and run_ids name it: `cyclical0.5`."""
        return f"cyclical{self.value:g}"

    def warnings(self, steps: int) -> list[str]:
        """Warns of cycles shorter than two steps."""
        if 2 * self.cycles <= steps:
            return []
        return [
            f"beta.cycles={self.cycles} cycles in {steps} steps are less than two steps "
            f"each; lower beta.cycles"
        ]


class MatchedBeta(_Beta):
    """Solves for beta so that the implied decoder noise is `sigma` 8-bit levels, to which
    it rises, linearly from 0, over the first `fraction` of the steps; 1 where the
    likelihood has a noise of its own or none."""

    key: ClassVar[str] = "beta.sigma"
    name: Literal["matched"]
    sigma: Annotated[float, Field(ge=1e-9, le=1e9)]
    fraction: Share = 0.0

    @property
    def label(self) -> str:
        """As tables and run_ids name it: `matched30`."""
        return f"matched{self.sigma:g}"


class NormalizedBeta(_Beta):
    """beta = beta_norm * N / D (Higgins et al. 2017)."""

    key: ClassVar[str] = "beta.beta_norm"
    name: Literal["normalized"]
    beta_norm: Weight

    @property
    def label(self) -> str:
        """As tables and run_ids name it: `normalized0.5`."""
        return f"normalized{self.beta_norm:g}"


class OwnBeta(_Beta, Own):
    """A user's schedule."""

    key: ClassVar[str] = "key of beta"

    @property
    def label(self) -> str:
        """As tables and run_ids name it: the object and its keys."""
        values = ",".join(f"{key}={_short(v)}" for key, v in self.parameters.items())
        name = self.name.partition(":")[2]
        return f"{name}({values})" if values else name


OurBeta = Annotated[
    ConstantBeta | WarmupBeta | CyclicalBeta | MatchedBeta | NormalizedBeta,
    Field(discriminator="name"),
]
BetaConfig = Annotated[Annotated[OurBeta, OURS] | Annotated[OwnBeta, THEIRS], BY_NAME]


class _Model(Frozen):
    """Base of the networks."""

    output_init: Literal["random", "data"] = "random"  # of the decoder's last layer


Widths = Annotated[tuple[Count, ...], Field(min_length=1, max_length=16, strict=False)]
Activation = Literal["relu", "leaky_relu", "silu", "gelu", "tanh"]


class ConvConfig(_Model):
    """Strided convolutions, linear layers, transposed convolutions (models.ConvVAE)."""

    name: Literal["conv"]
    latent: Count
    widths: Widths
    depth: Annotated[
        int, Field(ge=1, le=1000)
    ]  # convolutions per resolution; all but the first keep the size
    kernel: Literal[3, 4, 5]
    activation: Activation
    norm_layer: Literal["none", "batch", "group"]
    residual: bool = False  # whether those that keep the size add their input

    @model_validator(mode="after")
    def _something_to_add(self) -> "ConvConfig":
        if self.residual and self.depth == 1:
            raise ValueError(
                "model.residual=true needs convolutions that keep the image size, and "
                "model.depth=1 has none; set model.depth=2"
            )
        return self


class LinearConfig(_Model):
    """Linear encoder and decoder, one posterior variance per latent (models.LinearVAE)."""

    name: Literal["linear"]
    latent: Count


class MlpConfig(_Model):
    """Linear layers of `widths` units, and the mirror image (networks.MlpVAE)."""

    name: Literal["mlp"]
    latent: Count
    widths: Widths
    activation: Activation


class OwnModel(_Model, Own):
    """A user's network, a torch.nn.Module for one run."""

    latent: Count


OurModel = Annotated[ConvConfig | LinearConfig | MlpConfig, Field(discriminator="name")]
ModelConfig = Annotated[Annotated[OurModel, OURS] | Annotated[OwnModel, THEIRS], BY_NAME]


class _Data(Frozen):
    """Split sizes; None means a tenth of the images, at most 1,000."""

    place: ClassVar[str | None] = None  # the key that says where a user's files lie
    val_images: Count | None
    cache: FilePath

    @property
    def cache_dir(self) -> Path:
        return expanded("data.cache", self.cache)


class _OurData(_Data):
    """Base of our sources."""

    binarize: bool = False  # every pixel 1 with the probability u, drawn anew; see source


class DeadLeavesConfig(_OurData):
    """Procedural images by the dead-leaves model (dead_leaves.py)."""

    name: Literal["dead_leaves"]
    images: Annotated[int, Field(ge=10, le=LARGEST_INTEGER)]
    size: Annotated[int, Field(ge=4, le=256)]
    seed: Annotated[int, Field(ge=0, le=LARGEST_INTEGER)]
    grayscale: bool = False  # one channel, the luma of the colored images
    test_images: Count | None
    radius_min: Annotated[float, Field(ge=1, le=512)] = 1.5  # pixels
    radius_max: Annotated[float, Field(ge=1, le=512)] | None = None  # None: 2 * size
    # of each two channels' colors; None: CIFAR-10's, 0.81 to 0.92
    correlation: Annotated[float, Field(ge=0, le=0.99)] | None = None

    @property
    def radii(self) -> tuple[float, float]:
        """The smallest and the largest, pixels."""
        return self.radius_min, self.radius_max or 2.0 * self.size

    @model_validator(mode="after")
    def _radii_rise(self) -> "DeadLeavesConfig":
        smallest, largest = self.radii
        if smallest >= largest:
            raise ValueError(
                f"radius_min must be below radius_max, which is 2 * size where null; got "
                f"{smallest:g} and {largest:g}"
            )
        return self


class TorchvisionConfig(_OurData):
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


class ImageFolderConfig(_OurData):
    """`path` holds train/ and test/, or class folders directly (then split here)."""

    place: ClassVar[str | None] = "path"
    name: Literal["image_folder"]
    path: FilePath
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


class NpzConfig(_OurData):
    """uint8 arrays [n, H, W] or [n, H, W, C] under train_images/test_images, or images."""

    place: ClassVar[str | None] = "path"
    name: Literal["npz"]
    path: FilePath
    test_images: Count | None


class OwnData(_Data, Own):
    """A user's images."""

    test_images: Count | None


OurData = Annotated[
    DeadLeavesConfig | TorchvisionConfig | ImageFolderConfig | NpzConfig,
    Field(discriminator="name"),
]
DataConfig = Annotated[Annotated[OurData, OURS] | Annotated[OwnData, THEIRS], BY_NAME]


class TrainConfig(Frozen):
    """Optimization. `epochs`, where set, replaces `steps`."""

    steps: Annotated[int, Field(ge=1, le=MOST_STEPS)] | None
    epochs: Annotated[float, Field(gt=0, le=MOST_STEPS)] | None
    batch_size: Count
    optimizer: Literal["adam", "adamw", "sgd"]
    lr: Positive
    momentum: Annotated[float, Field(ge=0, lt=1)]  # sgd only
    weight_decay: NonNegative
    # steps; auto: see warmup
    lr_warmup: Literal["auto"] | Annotated[int, Field(ge=0, le=LARGEST_INTEGER)]
    lr_schedule: Literal["constant", "cosine"]
    clip: Positive | None  # largest gradient norm, per run
    precision: Literal["fp32", "tf32", "bf16", "fp64"]  # tf32: CUDA only
    eval_every: Count  # steps; rows, checkpoints
    device: Annotated[str, AfterValidator(_device)]
    workers: (
        Literal["auto"] | Annotated[int, Field(ge=1, le=1024)]
    )  # processes that train; on CUDA each has a GPU
    cohort: Literal["auto"] | Count  # most runs that train as one
    kernels: Literal["auto", "loop", "grouped", "products"]  # of convolutions
    # of the bound that the last evaluation has (bound.py); 0: none
    importance_samples: Annotated[int, Field(ge=0, le=MOST_SAMPLES)] = 0

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

    def warmup(self, steps: int) -> int:
        """Steps over which the learning rate rises in a run of `steps` steps.

        `auto` is a tenth of the run, at most WARMUP.
        """
        return min(WARMUP, steps // 10) if self.lr_warmup == "auto" else self.lr_warmup

    def total_steps(self, images: int) -> int:
        """Updates of a run on a training split of `images`; an epoch drops the last batch.

        Raises UserError where a batch is larger than the split.
        """
        if self.batch_size > images:
            raise UserError(
                f"train.batch_size must be at most the number of training images, "
                f"{images}; got {self.batch_size}"
            )
        if self.epochs is not None:
            return max(1, round(self.epochs * (images // self.batch_size)))
        assert self.steps is not None
        return self.steps


class WandbConfig(Frozen):
    """W&B; WANDB_* environment variables fill what is null."""

    mode: Literal["auto", "online", "offline", "disabled"]
    project: TrackerName | None
    entity: TrackerName | None


class TrackioConfig(Frozen):
    """trackio, in its own folder."""

    project: TrackerName


class TensorboardConfig(Frozen):
    """TensorBoard, in the sweep's folder; it has no keys."""


class LogConfig(Frozen):
    """Where numbers go besides the local records, which are always kept."""

    wandb: WandbConfig | None = None  # None: not to W&B, and so on
    trackio: TrackioConfig | None = None
    tensorboard: TensorboardConfig | None = None
    own: Annotated[tuple[OwnName, ...], Field(strict=False)] = ()  # a user's loggers
    reconstructions: Annotated[int, Field(ge=1, le=1000)]  # images per picture
    # steps between rows of training.csv
    every: Annotated[int, Field(ge=1, le=MOST_STEPS)] = 25
    optimizer_state: bool = False  # whether finished runs keep it beside their weights

    @model_validator(mode="before")
    @classmethod
    def _names_are_loggers(cls, values: Any) -> Any:
        """log=[wandb,mine:LOGGER] composes {wandb: {...}, mine:LOGGER: {}}."""
        own = [key for key in values if options.is_own(key)] if _is_plain(values) else []
        if not own:
            return values
        rest = {key: value for key, value in values.items() if key not in own}
        return {**rest, "own": tuple(own)}


Slug = Annotated[str, AfterValidator(_slug)]


def _is_plain(values: Any) -> bool:
    return isinstance(values, dict)


def _metrics(value: Any) -> Any:
    """metric=[default,mine:MAE] composes {default: {}, mine:MAE: {}}."""
    names = tuple(value) if isinstance(value, dict | list) else value
    if isinstance(names, tuple) and OUR_METRICS not in names:
        raise ValueError(f"must hold {OUR_METRICS}: metric=[{OUR_METRICS},mine:METRIC]")
    return names


Metrics = Annotated[
    tuple[Metric, ...],
    BeforeValidator(_metrics),
    Field(min_length=1, strict=False),
]


PLACES: Any = {  # keys that say where a run is made and kept, not what it is
    **dict.fromkeys(("experiments", "rerun", "extend", "sweep", "runs", "log"), True),
    "data": {"cache"},
    "train": {"device", "workers", "cohort", "kernels"},
}


UNNAMED = {"likelihood": "mse", "reduction": "sum"}  # what a run_id leaves out


class RunConfig(Frozen):
    """One point of a grid. `sweep` and `runs` say where it is kept, `experiments` which
    named grid it came from, `rerun` which ended runs train again, `extend` which run it
    goes on from, the rest what it is."""

    experiments: str | None = None
    rerun: Literal["diverged", "failed", "all"] | None = None
    extend: Annotated[str, Field(min_length=1)] | None = None
    sweep: Slug
    runs: FilePath
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    norm: Norm
    target: Target
    head: Head
    likelihood: Likelihood
    reduction: Reduction
    beta: BetaConfig
    model: ModelConfig
    data: DataConfig
    train: TrainConfig
    log: LogConfig
    metric: Metrics = (OUR_METRICS,)
    versions: dict[str, int] = {}  # of options, where not 1; see `provenance`
    sources: dict[str, str] = {}  # module of a user's options -> SHA-256 of its file

    @property
    def target_norm(self) -> str:
        """The decoder's target normalization: `target`, or `norm` where that is `same`."""
        return self.norm if self.target == SAME else self.target

    @property
    def sweep_dir(self) -> Path:
        """runs/<sweep>."""
        return expanded("runs", self.runs) / self.sweep

    @property
    def run_dir(self) -> Path:
        """runs/<sweep>/<run_id>."""
        return self.sweep_dir / self.run_id

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the numbers: all but logging, device and folders."""
        versions = {**dict.fromkeys(GROUPS, 1), **self.versions}
        sources = {module: digest[:8] for module, digest in self.sources.items()}
        values = self._without_places(defaults=True)
        return {**values, "versions": versions, "sources": sources}

    @property
    def decisive(self) -> dict[str, Any]:
        """`settings`, but of keys with a default only those that have another value."""
        return self._without_places(defaults=False)

    def _without_places(self, defaults: bool) -> dict[str, Any]:
        values = self.model_dump(mode="json", exclude=PLACES, exclude_defaults=not defaults)
        train = values["train"]  # of epochs the steps are not known before the images are
        train["lr_warmup"] = self.train.warmup(self.train.steps or MOST_STEPS)
        return {**values, "target": self.target_norm}

    @cached_property  # asked a dozen times of each point
    def run_id(self) -> str:
        """Readable, at most 64 characters of [a-z0-9._-], ends in a hash of `decisive`."""
        target = "" if self.target_norm == self.norm else self.target_norm
        unusual = [v for k, usual in UNNAMED.items() if (v := getattr(self, k)) != usual]
        beta, seed = f"b{self.beta.label}", f"s{self.seed}"
        parts = (self.norm, target, self.head, *unusual, beta, seed)
        # of a user's option the object's name; a label may have any character
        names = [re.sub(r"^[\w.]+:", "", part).replace("+", "") for part in parts if part]
        name = "-".join(re.sub(r"[^a-z0-9._-]+", "-", n.lower()).strip("-") for n in names)
        canonical = json.dumps(self.decisive, sort_keys=True)
        digest = hashlib.sha256(canonical.encode()).hexdigest()[:8]
        return f"{name[:55]}-{digest}"

    def model_copy(
        self, *, update: Mapping[str, Any] | None = None, deep: bool = False
    ) -> "RunConfig":
        """As pydantic's, which copies what was computed of the original as well."""
        copied = super().model_copy(update=update, deep=deep)
        vars(copied).pop("run_id", None)
        return copied


@cache
def sections() -> dict[str, dict[str, type[Frozen]]]:
    """section -> option -> its model, of the sections with several; from the types."""
    found: dict[str, dict[str, type[Frozen]]] = {}
    for section, field in RunConfig.model_fields.items():
        for member in _members(field.annotation):
            if "name" in member.model_fields and not issubclass(member, Own):
                for name in get_args(member.model_fields["name"].annotation):
                    found.setdefault(section, {})[name] = member
    return found


@cache
def owns() -> dict[str, type[Own]]:
    """section -> the model of a user's own option; from the types."""
    found = {s: _members(field.annotation) for s, field in RunConfig.model_fields.items()}
    return {s: m for s, members in found.items() for m in members if issubclass(m, Own)}


def _members(annotation: Any) -> list[type[Frozen]]:
    """The sections in a type, however deep in unions."""
    if _is_section(annotation):
        return [annotation]
    return [member for each in get_args(annotation) for member in _members(each)]


@cache
def keys() -> dict[str, tuple[str, ...]]:
    """Every key of ours that can be set -> the options that have it; () where all points
    do."""
    found: dict[str, tuple[str, ...]] = {}
    for section, field in RunConfig.model_fields.items():
        if section in ("versions", "sources"):
            continue
        found[section] = ()
        if section in sections():
            for name, model in sections()[section].items():
                for key, _ in _keys_of(model, section):
                    found[key] = (*found.get(key, ()), name)
        elif members := _members(field.annotation):
            for key, owner in _keys_of(members[0], section):
                found[key] = owner
    return found


def _keys_of(model: Any, prefix: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each key of a section, and the option that it belongs to: () where all points have
    it, one where it is of a section that a point may lack, as log.wandb."""
    for name, field in model.model_fields.items():
        if (prefix, name) == ("log", "own"):
            continue  # log=[wandb,mine:LOGGER] sets it
        owner = () if field.is_required() or not _members(field.annotation) else (name,)
        yield f"{prefix}.{name}", owner
        for member in _members(field.annotation):
            for key, _ in _keys_of(member, f"{prefix}.{name}"):
                yield key, owner


# what the product hands a user's object before its keyword parameters
HANDED = {"beta": 0, "model": 2, "data": 0}


class _Typed(Frozen):
    """Base of own parameters, of which lists may be tuples."""

    model_config = ConfigDict(strict=False)


def _is_value(default: Any) -> bool:
    """Whether a default is a value that can be typed, and recorded."""
    if isinstance(default, list | tuple):
        return all(map(_is_value, default))
    return default is None or type(default) in (bool, int, float, str)


@cache
def own_model(section: str, name: str) -> type[Frozen]:
    """The keyword parameters of a user's option, as types; imports the user's module."""
    fields: dict[str, Any] = {}
    for key, parameter in options.parameters(section, name, HANDED[section]).items():
        annotation = parameter.annotation
        annotation = Any if annotation is parameter.empty else annotation
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[key] = (annotation, default)
    taken = sorted(set(fields) & set(owns()[section].model_fields))
    where = f"{section}={name} ({options.where(name)})"
    if taken:
        raise UserError(
            f"{where}: its parameter {taken[0]} is a key of every {section}; rename it"
        )
    for key, (_, default) in fields.items():
        if default is not ... and not _is_value(default):
            raise UserError(
                f"{where}: its parameter {key} must have a default that can be typed, got "
                f"a {type(default).__name__}; make it a number, a text or a list of these"
            )
    try:
        return create_model(f"{section}={name}", __base__=_Typed, **fields)
    except Exception as error:  # of a type that pydantic does not know
        said = str(error).partition("\n")[0]
        raise UserError(
            f"{where} has parameters that cannot be keys: {said}; annotate them with int, "
            f"float, bool, str or lists of these"
        ) from None


def own_keys(section: str, name: str) -> list[str]:
    """The keys of a user's option."""
    own = [*owns()[section].model_fields, *own_model(section, name).model_fields]
    return [f"{section}.{key}" for key in own]


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Frozen)


def unknown(key: str, known: Mapping[str, tuple[str, ...]] | None = None) -> str:
    """What to say of a key that there is not, or that another option has; `known` are the
    keys that there are."""
    known = keys() if known is None else known
    section, owners = key.partition(".")[0], known.get(key, ())
    if owners:
        of = " or ".join(f"{section}={owner}" for owner in owners)
        return f"{key} belongs to {of}; choose that, or remove {key}"
    if key != section and section in GROUPS and section not in sections():
        return f"unknown key {shown(key)[1:-1]}; a {section} has no keys of its own"
    meant = nearest(key, known)
    remedy = f"did you mean {meant}?" if meant else "--options lists all"
    return f"unknown key {shown(key)[1:-1]}; {remedy}"


def _parts(location: tuple[str | int, ...]) -> list[str]:
    """Pydantic's location of an error without the option's name in it."""
    first, *rest = location or ("",)
    tags = sections().get(str(first), {})
    if tags and rest[:1] in (["ours"], ["own"]):
        rest = rest[2:] if rest[0] == "ours" and rest[1:2] and rest[1] in tags else rest[1:]
    return [str(part) for part in (first, *rest)] if location else []


def _key(location: tuple[str | int, ...], known: Mapping[str, Any]) -> str:
    """The key that a user types; what follows it in a location names types and items."""
    parts = _parts(location)
    for n in range(len(parts), 0, -1):
        if ".".join(parts[:n]) in known:
            return ".".join(parts[:n])
    return ".".join(parts)


def _complaints(
    errors: list[Any], known: Mapping[str, tuple[str, ...]] | None = None
) -> list[str]:
    """Pydantic's errors as `key: rule, got value; remedy`, one per key of those `known`."""
    known = keys() if known is None else known
    rules: dict[str, list[str]] = {}
    received: dict[str, str] = {}
    for error in errors:
        key, rule = _key(error["loc"], known), _rule(error)
        if error["type"] == "extra_forbidden":
            rules[unknown(".".join(_parts(error["loc"])), known)] = []
        elif error["type"] == "missing":
            rules[f"{key} is missing; set {key}=..."] = []
        elif not key:  # of several keys together, which the rule names
            rules[rule] = []
        else:
            rules.setdefault(key, []).append(f"{rule[0].lower()}{rule[1:]}")
            whole = isinstance(error["input"], dict)  # a section, whose keys the rule names
            received[key] = "" if whole else f", got {_typed(error['input'])}"
            choices = re.findall(r"'([^']*)'", rule) if "literal" in error["type"] else []
            meant = isinstance(error["input"], str) and nearest(error["input"], choices)
            if meant:
                received[key] += f"; did you mean {meant}?"
    return [
        f"{key}: {_either(said)}{received[key]}" if said else key
        for key, said in rules.items()
    ]


def _rule(error: Any) -> str:
    """Pydantic's message in the words of this project."""
    kind, least = error["type"], error.get("ctx", {}).get("min_length")
    if kind in TYPES:
        return f"must be {TYPES[kind]}"
    if kind == "too_short":
        return f"must have at least {least} item{'' if least == 1 else 's'}"
    rule = error["msg"].removeprefix("Value error, ")
    return rule.replace("Input should be", "must be").replace("Tuple should", "must")


def _typed(value: Any) -> str:
    """`value` as it is typed."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return shown(value)


def _either(rules: list[str]) -> str:
    """`must be 'auto' or less than or equal to 1024`, of the types that a key may have."""
    first, *others = dict.fromkeys(rules)
    return " or ".join([first, *(other.removeprefix("must be ") for other in others)])


def provenance(values: dict[str, Any]) -> dict[str, Any]:
    """`versions` of the options that `values` choose, where not 1, and `sources`, the
    SHA-256 of the modules of a user's own."""
    chosen: dict[str, list[str]] = {}
    for group in GROUPS:
        value = values.get(group, ())
        if isinstance(value, dict) and group in sections():
            value = value.get("name", ())
        chosen[group] = [value] if isinstance(value, str) else list(value or ())
    versions = {
        group: max((options.version(group, name) for name in names), default=1)
        for group, names in chosen.items()
    }
    sources: dict[str, str] = {}
    for group, names in chosen.items():
        for name in filter(options.is_own, names):
            options.own(group, name)  # what it is now, and not what a file says later
            sources[options.module_of(name)] = options.sha256(options.module_of(name))
    return {
        "versions": {group: v for group, v in versions.items() if v != 1},
        "sources": dict(sorted(sources.items())),
    }


def validate_recorded(values: dict[str, Any]) -> tuple[RunConfig, list[str]]:
    """A RunConfig from what a run recorded, and the keys that this version does not know,
    which are left out.

    Raises UserError as `validate`.
    """
    unknown_keys: list[str] = []
    while True:
        try:
            return RunConfig.model_validate(values), unknown_keys
        except ValidationError as error:
            found = [e["loc"] for e in error.errors() if e["type"] == "extra_forbidden"]
            if not found:
                raise UserError("; ".join(_complaints(error.errors()))) from None
        values = copy.deepcopy(values)
        for location in found:
            *sections, key = _parts(location)
            section = values
            for name in sections:
                section = section[name]
            del section[key]
            unknown_keys.append(".".join([*sections, key]))


def validate(values: dict[str, Any]) -> RunConfig:
    """A RunConfig from plain containers; UserError names each key that is wrong.

    The keyword parameters of a user's options are checked, and those that are missing have
    their defaults.
    """
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        raise UserError("; ".join(_complaints(error.errors()))) from None
    chosen = ((section, getattr(config, section)) for section in owns())
    own = {
        s: _with_parameters(s, option) for s, option in chosen if isinstance(option, Own)
    }
    return config.model_copy(update=own) if own else config


def _with_parameters(section: str, option: Own) -> Own:
    """A user's option with all keyword parameters, of the types that they must have."""
    try:
        checked = own_model(section, option.name)(**option.parameters)
    except ValidationError as error:
        errors = [{**e, "loc": (section, *e["loc"])} for e in error.errors()]
        known = dict.fromkeys(own_keys(section, option.name), ())
        raise UserError("; ".join(_complaints(errors, known))) from None
    return type(option).model_validate({**option.model_dump(), **checked.model_dump()})
