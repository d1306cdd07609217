"""One grid point, typed, frozen and validated (pydantic; no torch)."""

import copy
import hashlib
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from vae_sweep.errors import UserError, nearest, shown

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

# group -> option -> version, where the option's numbers changed since its first; and of
# metrics, which every run has, name -> version, where its definition changed
VERSIONS: dict[str, dict[str, int]] = {
    "metric": {},
    "head": {"tanh_standardized": 2},  # 1: lagged statistics without a gradient
}

# Bounds, far beyond what trains today: what lies outside overflows a number format, or
# takes memory or days before the first step.
MOST_STEPS = 10**7  # of a run; its schedules are tables of so many float64
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


def _wandb_name(value: str) -> str:
    if not 1 <= len(value) <= 128 or set(value) & set("/\\#?%:") or not value.isprintable():
        raise ValueError(
            "must have 1 to 128 printable characters, none of / \\ # ? % : among them"
        )
    return value


Weight = Annotated[float, Field(ge=0), AfterValidator(_weight)]  # of the KL
FilePath = Annotated[str, AfterValidator(_path)]
WandbName = Annotated[str, AfterValidator(_wandb_name)]


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


class ConstantBeta(Frozen):
    """The same beta at every step."""

    name: Literal["constant"]
    value: Weight

    @property
    def label(self) -> str:
        return f"{self.value:g}"


class WarmupBeta(Frozen):
    """Linear from 0 to `value` over the first `fraction` of the steps."""

    name: Literal["warmup"]
    value: Weight
    fraction: Share

    @property
    def label(self) -> str:
        return f"warmup{self.value:g}"


class CyclicalBeta(Frozen):
    """`cycles` ramps from 0 to `value`, each rising for `ramp` of it (Fu et al. 2019)."""

    name: Literal["cyclical"]
    value: Weight
    cycles: Annotated[int, Field(ge=1, le=MOST_STEPS)]
    ramp: Annotated[float, Field(ge=1e-9, le=1)]

    @property
    def label(self) -> str:
        return f"cyclical{self.value:g}"


class MatchedBeta(Frozen):
    """Solves for beta so that the implied decoder noise is `sigma` 8-bit levels."""

    name: Literal["matched"]
    sigma: Annotated[float, Field(ge=1e-9, le=1e9)]

    @property
    def label(self) -> str:
        return f"matched{self.sigma:g}"


class NormalizedBeta(Frozen):
    """beta = beta_norm * N / D (Higgins et al. 2017)."""

    name: Literal["normalized"]
    beta_norm: Weight

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
    widths: Annotated[tuple[Count, ...], Field(min_length=1, max_length=16, strict=False)]
    depth: Annotated[
        int, Field(ge=1, le=1000)
    ]  # convolutions per resolution; all but the first keep the size
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
    cache: FilePath

    @property
    def cache_dir(self) -> Path:
        return expanded("data.cache", self.cache)


class DeadLeavesConfig(_Data):
    """Procedural images by the dead-leaves model (dead_leaves.py)."""

    name: Literal["dead_leaves"]
    images: Annotated[int, Field(ge=10, le=LARGEST_INTEGER)]
    size: Annotated[int, Field(ge=4, le=256)]
    seed: Annotated[int, Field(ge=0, le=LARGEST_INTEGER)]
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


class NpzConfig(_Data):
    """uint8 arrays [n, H, W] or [n, H, W, C] under train_images/test_images, or images."""

    name: Literal["npz"]
    path: FilePath
    test_images: Count | None


DataConfig = Annotated[
    DeadLeavesConfig | TorchvisionConfig | ImageFolderConfig | NpzConfig,
    Field(discriminator="name"),
]


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
    )  # processes that train on CPU
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
    project: WandbName | None
    entity: WandbName | None


class LogConfig(Frozen):
    """Where numbers go besides the local records, which are always kept."""

    wandb: WandbConfig
    reconstructions: Annotated[int, Field(ge=1, le=1000)]  # images per picture
    optimizer_state: bool = False  # whether finished runs keep it beside their weights


Slug = Annotated[str, AfterValidator(_slug)]


PLACES: Any = {  # keys that say where a run is made and kept, not what it is
    **dict.fromkeys(("experiments", "rerun", "sweep", "runs", "log"), True),
    "data": {"cache"},
    "train": {"device", "workers", "cohort", "kernels"},
}


class RunConfig(Frozen):
    """One point of a grid. `sweep` and `runs` say where it is kept, `experiments` which
    named grid it came from, `rerun` which ended runs train again, the rest what it is."""

    experiments: str | None = None
    rerun: Literal["diverged", "failed", "all"] | None = None
    sweep: Slug
    runs: FilePath
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
    versions: dict[str, int] = {}  # where not 1; see current_versions

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
        return expanded("runs", self.runs) / self.sweep

    @property
    def run_dir(self) -> Path:
        return self.sweep_dir / self.run_id

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the numbers: all but logging, device and folders."""
        first = {group: 1 for group in VERSIONS if group != "metric"}
        versions = {**first, **self.versions}
        return {**self._without_places(defaults=True), "versions": versions}

    @property
    def decisive(self) -> dict[str, Any]:
        """`settings`, but of keys with a default only those that have another value."""
        return self._without_places(defaults=False)

    def _without_places(self, defaults: bool) -> dict[str, Any]:
        values = self.model_dump(mode="json", exclude=PLACES, exclude_defaults=not defaults)
        train = values["train"]  # of epochs the steps are not known before the images are
        train["lr_warmup"] = self.train.warmup(self.train.steps or MOST_STEPS)
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


@cache
def options() -> dict[str, dict[str, type[Frozen]]]:
    """section -> option -> its model, of the sections with several; from the types."""
    found: dict[str, dict[str, type[Frozen]]] = {}
    for section, field in RunConfig.model_fields.items():
        members = [m for m in get_args(field.annotation) if _is_section(m)]
        for member in members:
            for name in get_args(member.model_fields["name"].annotation):
                found.setdefault(section, {})[name] = member
    return found


@cache
def keys() -> dict[str, tuple[str, ...]]:
    """Every key that can be set -> the options that have it; () where all points do."""
    found: dict[str, tuple[str, ...]] = {}
    for section, field in RunConfig.model_fields.items():
        if section == "versions":
            continue
        found[section] = ()
        if _is_section(field.annotation):
            found |= dict.fromkeys(_keys_of(field.annotation, section), ())
        for name, model in options().get(section, {}).items():
            for key in _keys_of(model, section):
                found[key] = (*found.get(key, ()), name)
    return found


def _keys_of(model: Any, prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield f"{prefix}.{name}"
        if _is_section(field.annotation):
            yield from _keys_of(field.annotation, f"{prefix}.{name}")


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Frozen)


def unknown(key: str) -> str:
    """What to say of a key that there is not, or that another option has."""
    section, owners = key.partition(".")[0], keys().get(key, ())
    if owners:
        of = " or ".join(f"{section}={owner}" for owner in owners)
        return f"{key} belongs to {of}; choose that, or remove {key}"
    meant = nearest(key, keys())
    remedy = f"did you mean {meant}?" if meant else "--help lists options and keys"
    return f"unknown key {shown(key)[1:-1]}; {remedy}"


def _parts(location: tuple[str | int, ...]) -> list[str]:
    """Pydantic's location of an error without the option's name in it."""
    tags = options().get(str(location[0]), {}) if location else {}
    return [str(p) for i, p in enumerate(location) if not (i == 1 and p in tags)]


def _key(location: tuple[str | int, ...]) -> str:
    """The key that a user types; what follows it in a location names types and items."""
    parts = _parts(location)
    for n in range(len(parts), 0, -1):
        if ".".join(parts[:n]) in keys():
            return ".".join(parts[:n])
    return ".".join(parts)


def _complaints(errors: list[Any]) -> list[str]:
    """Pydantic's errors as `key: rule, got value; remedy`, one per key."""
    rules: dict[str, list[str]] = {}
    received: dict[str, str] = {}
    for error in errors:
        key, rule = _key(error["loc"]), _rule(error)
        if error["type"] == "extra_forbidden":
            rules[unknown(".".join(_parts(error["loc"])))] = []
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


def current_versions(values: dict[str, Any]) -> dict[str, int]:
    """VERSIONS of the options that `values` choose, and of metrics, where it is not 1."""
    chosen = {f"metric.{name}": version for name, version in VERSIONS["metric"].items()}
    for group, of in VERSIONS.items():
        if group != "metric":
            chosen[group] = of.get(values.get(group, ""), 1)
    return {group: version for group, version in chosen.items() if version != 1}


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
    """A RunConfig from plain containers; UserError names each key that is wrong."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise UserError("; ".join(_complaints(error.errors()))) from None
