"""A trained run as a folder that needs PyTorch alone: model.py, weights, a model card.

model.py is written for its run: each layer is a line of torch.nn, and nothing is in it that
this network does not have.
"""

import ast
import importlib.util
import inspect
import json
import math
import os
import shutil
from functools import singledispatch
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from safetensors.torch import save
from torch import nn
from torch.nn import functional as F

from vae_sweep import options
from vae_sweep.config import RunConfig
from vae_sweep.errors import UserError
from vae_sweep.records import model, reader, results
from vae_sweep.records.model import Model
from vae_sweep.records.results import Run
from vae_sweep.records.summary import Predicted, Summary
from vae_sweep.vae import heads, likelihoods
from vae_sweep.vae.heads import Head
from vae_sweep.vae.layers import (
    BatchNorm,
    Conv,
    Elementwise,
    GroupNorm,
    Linear,
    Residual,
)

PICTURES = {
    "reconstructions.png": "Validation images above, their reconstructions below",
    "samples.png": "Images decoded from the prior",
}
# metric -> its name with its unit, and digits; of the linear optimum by the same name
NUMBERS = {
    "psnr": ("PSNR (dB)", 2),
    "mse_pixel": ("squared error of pixels in [0, 1], per element", 5),
    "kl": ("KL (nats per image)", 1),
    "active_units": ("active latents", 0),
    "bits_per_dim": ("bits/dim, at the decoder's noise", 3),
    "bits_per_dim_calibrated": ("bits/dim, at the noise that fits best", 3),
    "prior_gap": ("gap of the aggregate posterior to the prior (nats)", 2),
}
CLOSE = {"rtol": 1e-3, "atol": 1e-4}  # of what model.py computes to what the run does


def export(run: Run | Path | str, out: Path | str, runs: Path | str = "runs") -> Path:
    """Writes a trained run as ordinary PyTorch, which needs no vae-sweep.

    `out` then holds model.py, whose `load()` gives a torch.nn.Module with `encode`,
    `decode`, `reconstruct` and `sample`, its weights and constants, the configuration, the
    pictures, and a model card with the numbers. Of a user's own network the source is
    copied. Before anything is left there, model.py is loaded and compared with the run.

    Args:
        run: As of `vae_sweep.load`.
        out: A new or an empty folder.
        runs: Where runs are looked for by name.

    Returns:
        `out`.

    Raises:
        UserError: `out` holds files or cannot be written, the run cannot be loaded, or its
            head or likelihood is a user's own that cannot be written down.

    Example:
        >>> vae_sweep.export("0e718e1e", "my_vae")
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            f"{out} must be a new or an empty folder, so that nothing is overwritten; name "
            f"another"
        )
    loaded = model.load(run, runs)
    loaded.cohort.bf16 = False  # model.py computes in the weights' own type
    output = _Output(loaded)
    sources = _sources(loaded.config)
    made = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        made.mkdir()
        _write(made, loaded, output, sources)
        _check(made, loaded)
        os.replace(made, out)
    except OSError as error:
        said = f"the export is written to {out}: {error.strerror or error}"
        raise UserError(f"{said}; name another folder") from None
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return out


def _write(
    folder: Path, loaded: Model, output: "_Output", sources: dict[Path, Path]
) -> None:
    (folder / "model.py").write_text(_source(loaded, output), "utf-8")
    (folder / "model.safetensors").write_bytes(save(_weights(loaded, output)))
    (folder / "config.json").write_text(_constants(loaded, output))
    shutil.copy(loaded.folder / "config.yaml", folder)
    pictures = {k: v for k, v in PICTURES.items() if (loaded.folder / k).is_file()}
    for name in pictures:
        shutil.copy(loaded.folder / name, folder)
    for name, source in sources.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, folder / name)
    summary = reader.read_summary(loaded.folder) or Summary(status="running")
    card = _card(loaded, summary, output, pictures, sources)
    (folder / "README.md").write_text(card, "utf-8")


def _constants(loaded: Model, output: "_Output") -> str:
    """config.json."""
    norm = loaded.ends.norm
    constants = {"shift": norm.shift.tolist(), "scale": norm.scale.tolist()}
    constants |= output.constants
    each = ",\n".join(f'    "{name}": {json.dumps(v)}' for name, v in constants.items())
    about = {"run_id": loaded.run_id, "shape": loaded.shape, "latent": loaded.latent}
    lines = [f'  "{name}": {json.dumps(value)},' for name, value in about.items()]
    return "\n".join(["{", *lines, f'  "constants": {{\n{each}\n  }}', "}\n"])


def _check(folder: Path, loaded: Model) -> None:
    """Raises UserError where model.py does not compute what the run does."""
    written = _imported(folder / "model.py").load(folder)
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, *loaded.shape), generator=draw, dtype=torch.uint8)
    z = torch.randn(2, loaded.latent, generator=draw)
    with torch.no_grad():
        pairs = {
            "encode": (written.encode(images), loaded.encode(images)),
            "decode": ((written.decode(z.to(written.shift)),), (loaded.decode(z),)),
        }
    for name, (found, expected) in pairs.items():
        for a, b in zip(found, expected, strict=True):
            if not torch.allclose(a, b.to(a), equal_nan=True, **CLOSE):
                raise UserError(
                    f"{name} of the written model.py differs from the run's by up to "
                    f"{(a - b.to(a)).abs().max().item():.2g}; keep every number that the "
                    f"network computes with in a parameter or a buffer, or load the run "
                    f"with vae_sweep.load"
                )


def _imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("exported_model", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _Output:
    """What turns the decoder's last pre-activation a into pixels, as source code: `image`.

    It is gain * f(a) + bias, f standardized per channel of some heads; or the mean of a
    likelihood whose image is not the head's output. `bounded`: whether it is in [0, 1].
    """

    def __init__(self, loaded: Model):
        config, ends = loaded.config, loaded.ends
        head, likelihood = heads.named(config.head), likelihoods.named(config.likelihood)
        self.mean = likelihood.mean
        self.standardized = self.mean is None and head.onto == "standardized"
        if self.mean is not None:
            if options.is_own(config.likelihood):
                raise UserError(
                    f"likelihood={config.likelihood} has a mean of its own, whose source "
                    f"cannot be written into model.py; load the run with vae_sweep.load"
                )
            self.constants: dict[str, list[float]] = {}
            self.image = f"{self.mean.__name__}({_logit(head, config.head)})"
            self.bounded = True
            return
        function = _function(head, config.head)
        function = f"self.standardize({function})" if self.standardized else function
        self.image = f"self.gain * {function} + self.bias"
        gain, bias = head.affine(ends.target, ends.zscore)
        scale, shift = ends.target.scale, ends.target.shift
        self.constants = {
            "gain": (scale * gain).tolist(),
            "bias": (scale * bias + shift).tolist(),
        }
        low, high = (scale * end + shift for end in head.range(ends.target))
        self.bounded = bool((low > -1e-9).all() and (high < 1 + 1e-9).all())

    @property
    def mean_source(self) -> str:
        """The source of `mean`, after the numbers of its module that it uses."""
        if self.mean is None:
            return ""
        used = {
            name: value
            for name in self.mean.__code__.co_names
            if isinstance(value := self.mean.__globals__.get(name), int | float)
        }
        numbers = "\n".join(f"{name} = {value!r}" for name, value in used.items())
        return f"{numbers}\n\n\n{inspect.getsource(self.mean).strip()}".strip()


def _function(head: Head, name: str) -> str:
    """f(a) of a head, as source code."""
    if head.function is heads.identity:
        return "a"
    own = getattr(head.function, "__name__", "")
    for module, prefix in ((torch, "torch"), (F, "F")):
        if getattr(module, own, None) is head.function:
            return f"{prefix}.{own}(a)"
    raise UserError(
        f"head={name} has a function that is neither torch's nor torch.nn.functional's, "
        f"and cannot be written into model.py; use one of these, or load the run with "
        f"vae_sweep.load"
    )


def _logit(head: Head, name: str) -> str:
    """The logit of a head's output, as source code."""
    a = torch.linspace(-3, 3, 7, dtype=torch.float64)
    logit = head.logits(a)
    factor = logit[-1].item() / 3
    if not torch.allclose(logit, factor * a):
        raise UserError(
            f"head={name} has a logit that cannot be written into model.py; load the run "
            f"with vae_sweep.load"
        )
    return "a" if factor == 1 else f"{factor:g} * a"


def _source(loaded: Model, output: _Output) -> str:
    """model.py."""
    config = loaded.config
    is_own = options.is_own(config.model.name)
    template = "own" if is_own else config.model.name
    channels, height, width = loaded.shape
    module, _, name = config.model.name.partition(":")
    return (
        _environment()
        .get_template(f"{template}.py.j2")
        .render(
            run_id=loaded.run_id,
            channels=channels,
            height=height,
            width=width,
            latent=loaded.latent,
            double=config.train.precision == "fp64",
            network=loaded.cohort.model,
            own={"module": module, "object": name, "call": _call(config, loaded)}
            if is_own
            else None,
            residual=any(isinstance(m, Residual) for m in loaded.cohort.model.modules()),
            output=output,
            source=source,
        )
    )


def _call(config: RunConfig, loaded: Model) -> str:
    """What makes a user's network."""
    given: Any = config.model
    keywords = [f"{key}={value!r}" for key, value in given.parameters.items()]
    name = given.name.partition(":")[2]
    return f"{name}({', '.join([repr(loaded.shape), str(loaded.latent), *keywords])})"


def _weights(loaded: Model, output: _Output) -> dict[str, torch.Tensor]:
    """The weights by the names that they have in model.py."""
    state = loaded.cohort.state_dict()
    named = {k.removeprefix("model."): v for k, v in state.items() if k[:6] == "model."}
    if output.standardized:
        named["standardize.running_mean"] = state["heads.mean"]
        named["standardize.running_var"] = state["heads.var"]
    return {name: value[0].cpu().contiguous().clone() for name, value in named.items()}


def _environment() -> Environment:
    return Environment(  # no HTML, so that nothing is to be escaped
        loader=PackageLoader("vae_sweep.reporting", "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


# --- layers as source code ---


@singledispatch
def source(layer: nn.Module) -> str:
    """A layer of one run, as ordinary PyTorch makes it."""
    raise TypeError(f"no source of a {type(layer).__name__}")


def _sequence(name: str, layers: nn.Sequential) -> str:
    inner = "\n".join(f"{source(layer)}," for layer in layers)
    return f"{name}(\n{_indented(inner)}\n)"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


@source.register
def _(layer: nn.Sequential) -> str:
    return _sequence("nn.Sequential", layer)


@source.register
def _(layer: Residual) -> str:
    return _sequence("Residual", layer)


@source.register
def _(layer: Conv) -> str:
    first, second = layer.weight.shape[1:3]
    kind, sizes = "Conv2d", (second, first)
    if layer.transposed:
        kind, sizes = "ConvTranspose2d", (first, second)
    given = [*map(str, sizes), str(layer.kernel)]
    given += [f"stride={layer.stride}"] if layer.stride != 1 else []
    given += [f"padding={layer.padding}"] if layer.padding else []
    if any(layer.output_padding):
        tall, wide = layer.output_padding
        given.append(f"output_padding={tall if tall == wide else (tall, wide)}")
    return f"nn.{kind}({', '.join(given)})"


@source.register
def _(layer: Linear) -> str:
    outputs, inputs = layer.weight.shape[1:]
    return f"nn.Linear({inputs}, {outputs})"


@source.register
def _(layer: Elementwise) -> str:
    return f"nn.{layer.function!r}".replace("'", '"')


@source.register
def _(layer: BatchNorm) -> str:
    return f"nn.BatchNorm2d({layer.weight.shape[1]})"


@source.register
def _(layer: GroupNorm) -> str:
    return f"nn.GroupNorm({layer.groups}, {layer.weight.shape[1]})"


# --- a user's own network ---


def _sources(config: RunConfig) -> dict[Path, Path]:
    """Place in the export -> file, of a user's network and of what it imports beside it;
    empty for ours."""
    if not options.is_own(config.model.name):
        return {}
    module = options.module_of(config.model.name)
    file = options.source_file(module)
    parts = module.split(".")
    depth = len(parts) - (file.name != "__init__.py")
    root = file.parents[depth]
    found: dict[Path, Path] = {}
    _collect(file, root, found)
    return found


def _collect(file: Path, root: Path, found: dict[Path, Path]) -> None:
    """Adds a file below `root`, the packages that it is in, and what it imports of
    `root`; an installed package's neighbors are installed as well."""
    place = file.relative_to(root)
    if place in found:
        return
    found[place] = file
    for package in place.parents[:-1]:
        if (root / package / "__init__.py").is_file():
            found.setdefault(package / "__init__.py", root / package / "__init__.py")
    if "site-packages" in root.parts:
        return
    for name in _imports(file, place):
        path = root.joinpath(*name.split("."))
        for candidate in (path.with_suffix(".py"), path / "__init__.py"):
            if candidate.is_file():
                _collect(candidate, root, found)


def _imports(file: Path, place: Path) -> set[str]:
    """Dotted names that a file may import, relative ones as from the root."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = place.parts[: -node.level] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            names |= {base, *(f"{base}.{a.name}".lstrip(".") for a in node.names)} - {""}
    return names


# --- the model card ---


def _card(
    loaded: Model,
    summary: Summary,
    output: _Output,
    pictures: dict[str, str],
    sources: dict[Path, Path],
) -> str:
    """README.md."""
    channels, height, width = loaded.shape
    return (
        _environment()
        .get_template("card.md.j2")
        .render(
            run_id=loaded.run_id,
            config=loaded.config,
            channels=channels,
            height=height,
            width=width,
            latent=loaded.latent,
            step=loaded.step,
            pictures=pictures,
            sources=[str(place) for place in sources],
            output=output,
            rows=_rows(loaded, summary),
            sentence=(summary.predicted or Predicted()).sentence,
            settings=_settings(loaded, summary),
            command=summary.command,
            versions=summary.versions,
            commit=summary.commit,
            limits=_limits(loaded, summary, sources),
        )
    )


def _rows(loaded: Model, summary: Summary) -> list[list[str]]:
    """Name, val, test and linear optimum of each metric that is known."""
    last: dict[str, Any] = dict(summary.final)
    if not last and (rows := reader.read_rows(loaded.folder)):
        last = rows[-1]
    predicted = (summary.predicted or Predicted()).model_dump()
    found = []
    for metric, (name, digits) in NUMBERS.items():
        values = [last.get(f"{split}/{metric}") for split in ("val", "test")]
        if any(map(_known, values)):
            values.append(predicted.get(metric))
            found.append([name, *(_decimal(value, digits) for value in values)])
    caps = [predicted.get(f"psnr_cap_{split}") for split in ("val", "test")]
    if any(map(_known, caps)):
        name = "PSNR that the head's range allows (dB)"
        found.insert(1, [name, *(_decimal(cap, 2) for cap in caps), "–"])
    return found


def _known(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _decimal(value: Any, digits: int) -> str:
    return f"{value:,.{digits}f}" if _known(value) else "–"


def _settings(loaded: Model, summary: Summary) -> dict[str, str]:
    config, train = loaded.config, loaded.config.train
    data = config.data.model_dump(exclude={"name", "cache"}, exclude_none=True)
    network: Any = config.model.model_dump(exclude={"name", "output_init"})
    noise = summary.implied_sigma or summary.final.get("val/sigma")
    found = {
        "images": f"{config.data.name}: {_keys(data)}",
        "network": f"{config.model.name}: {_keys(network)}",
        "normalization": config.norm,
        "target": config.target_norm,
        "output head": config.head,
        "likelihood": config.likelihood,
        "reduction": config.reduction,
        "beta": f"{config.beta.label}"
        + (f", {summary.beta:.4g} at the end" if _known(summary.beta) else ""),
        "decoder noise": f"{_decimal(noise, 1)} 8-bit levels" if _known(noise) else "",
        "optimizer": f"{train.optimizer}, learning rate {train.lr:g} "
        f"({train.lr_schedule}), batches of {train.batch_size}, {train.precision}",
        "steps": f"{loaded.step:,}",
        "seed": str(config.seed),
        "machine": summary.device or "",
        "time": f"{summary.seconds:,.0f} s, {summary.cohort_size} runs together"
        if summary.seconds and summary.cohort_size
        else "",
    }
    return {name: value for name, value in found.items() if value}


def _keys(values: dict[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in results.flattened(values).items())


def _limits(loaded: Model, summary: Summary, sources: dict[Path, Path]) -> list[str]:
    config = loaded.config
    channels, height, width = loaded.shape
    found = [
        f"It takes images of {height}x{width} with {channels} channel"
        f"{'' if channels == 1 else 's'}, and was measured on {config.data.name} alone.",
        "Its numbers are those of one seed; the quality of its samples was not rated.",
    ]
    if loaded.status != "finished":
        found.insert(0, f"The run did not finish: it is {loaded.status}.")
    active = summary.final.get("val/active_units")
    if active is not None and active < loaded.latent:
        found.append(
            f"{loaded.latent - int(active)} of {loaded.latent} latents do not vary with "
            f"the images and have almost no effect on the output."
        )
    if getattr(config.data, "binarize", False):
        found.append("It was trained on black and white pixels, drawn from gray ones.")
    if config.train.precision == "bf16":
        found.append("It was trained in bfloat16; model.py computes in float32.")
    needing = [str(p) for p, f in sources.items() if _needs_us(f, p)]
    if needing:
        found.append(
            f"{', '.join(needing)} imports vae_sweep, so vae-sweep must be installed."
        )
    found.append(
        "The weights have no license of their own; the license of the images may apply."
    )
    return found


def _needs_us(file: Path, place: Path) -> bool:
    return any(name.split(".")[0] == "vae_sweep" for name in _imports(file, place))
