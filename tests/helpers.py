"""What several test files share: configs, small images, run folders, commands."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from PIL import Image
from torch import Tensor

from vae_sweep.command import entry
from vae_sweep.command.entry import CONF, config_of
from vae_sweep.config import DataConfig, RunConfig, validate
from vae_sweep.data import dataset
from vae_sweep.data.dataset import Datasets, Images
from vae_sweep.predict import predict_grid
from vae_sweep.reporting.console import Console
from vae_sweep.run import run_grid
from vae_sweep.training.locate import locate
from vae_sweep.training.prepare import Prepared, prepare

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
TINY = (  # a network and a data set on which hundreds of steps take a second
    "model=small",
    "model.latent=4",
    "model.widths=[4,8]",
    "model.norm_layer=none",
    "train.batch_size=8",
    "train.device=cpu",
    "log.wandb.mode=disabled",
)


PLAIN = {  # what tests rest on, whatever the defaults are
    "beta": "constant",
    "model": "conv",
    "model.output_init": "random",
    "train.steps": 500,
    "train.batch_size": 128,
    "train.lr": 0.001,
    "train.eval_every": 125,
}
PLAIN_LEAVES = {"radius_min": 1.5, "radius_max": "null", "correlation": "null"}


def make_config(*overrides: str) -> RunConfig:
    """A RunConfig from conf/, on PLAIN, with Hydra overrides as they are typed."""
    typed = {override.lstrip("+~").partition("=")[0] for override in overrides}
    plain = dict(PLAIN)
    if not {"data"} & typed:
        plain |= {f"data.{key}": value for key, value in PLAIN_LEAVES.items()}
    rest = [f"{key}={value}" for key, value in plain.items() if key not in typed]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return config_of(compose("config", [*rest, *overrides]))


def with_first_metrics(config: RunConfig) -> RunConfig:
    """`config` as of releases that had version 1 of the metrics."""
    versions = {group: v for group, v in config.versions.items() if group != "metric"}
    return config.model_copy(update={"versions": versions})


def make_images(n: int, channels: int = 3, size: int = 8, seed: int = 0) -> Tensor:
    """uint8 [n, C, size, size]: smooth random fields with unequal channel statistics."""
    rng = np.random.default_rng(seed)
    small = rng.normal(size=(n, channels, size // 2, size // 2))
    fields = small.repeat(2, axis=2).repeat(2, axis=3)
    fields += 0.2 * rng.normal(size=fields.shape)
    center = np.linspace(100, 150, channels)[:, None, None]
    spread = np.linspace(40, 60, channels)[:, None, None]
    return torch.from_numpy((center + spread * fields).clip(0, 255).astype(np.uint8))


def load_images(config: DataConfig) -> Images:
    """The images of a data set, as training has them."""
    return dataset.load(config).images


def prepared(configs: Iterable[RunConfig]) -> list[Prepared]:
    """Points as the commands make them ready to train."""
    datasets = Datasets()
    say = Console(least=120).say
    ready = prepare(locate(list(configs), datasets), say)
    datasets.say(say)
    return ready


# --- run folders that no training wrote ---

COLUMNS = "step,epoch,train/loss,val/loss,val/mse_pixel,val/psnr,val/kl,val/elbo"
COLUMNS += ",val/active_units,val/bits_per_dim_calibrated,test/psnr"


def config_values(**changes: Any) -> dict[str, Any]:
    """A run's config.yaml; dotted keys with `__`."""
    values: dict[str, Any] = {
        "sweep": "s",
        "runs": "runs",
        "seed": 0,
        "norm": "zscore",
        "target": "same",
        "head": "tanh",
        "likelihood": "mse",
        "reduction": "sum",
        "beta": {"name": "constant", "value": 1.0},
        "model": {
            "name": "conv",
            "latent": 4,
            "widths": [4, 8],
            "depth": 1,
            "kernel": 4,
            "activation": "silu",
            "norm_layer": "none",
        },
        "data": {"name": "mnist", "val_images": None, "cache": "c"},
        "train": {
            "steps": 20,
            "epochs": None,
            "batch_size": 8,
            "optimizer": "adam",
            "lr": 0.001,
            "momentum": 0.9,
            "weight_decay": 0.0,
            "lr_warmup": 0,
            "lr_schedule": "constant",
            "clip": None,
            "precision": "fp32",
            "eval_every": 10,
            "device": "auto",
            "workers": "auto",
            "cohort": "auto",
            "kernels": "auto",
        },
        "log": {
            "wandb": {"mode": "disabled", "project": None, "entity": None},
            "reconstructions": 8,
        },
    }
    for key, value in changes.items():
        *sections, last = key.split("__")
        place = values
        for section in sections:
            place = place[section]
        place[last] = value
    return values


PREDICTED = {"floor_mse": 0.2, "active_units": 2, "kl": 3.25, "psnr": 5.125}
PREDICTED |= {"psnr_cap_val": 18.7, "psnr_cap_test": 18.6}
PREDICTED |= {"bits_per_dim": None, "curve": [[0.0, 1.5, 4.0], [2.0, 4.0, 7.0]]}


def cap(val: float | None, training: float | None = 99.0) -> dict[str, Any]:
    """Parts of a summary: the caps of the validation and of the training split."""
    return {"psnr_cap": training, "predicted": PREDICTED | {"psnr_cap_val": val}}


def summary(**changes: Any) -> dict[str, Any]:
    """A finished run's summary.json."""
    final = {"step": 20, "epoch": 2.0, "val/psnr": 18.42, "val/kl": 12.34}
    final |= {"val/active_units": 3, "val/bits_per_dim_calibrated": 4.5678}
    return {
        "status": "finished",
        "final": final | {"test/psnr": None},
        "implied_sigma": 48.3,
        "beta": 1.0,
        "psnr_cap": 18.5,
        "predicted": PREDICTED,
        "seconds": 3.5,
        "device": "cpu",
        "diverged_at": None,
    } | changes


ROWS = ["10,1,5,6,0.5,3.01,1.5,-9,4,7,", "20,2,4,5,0.25,6.02,2.5,-8,3,6.5,5.5"]


def write_run(
    folder: Path, ended: dict[str, Any] | None, rows=ROWS, tail="", **changes: Any
) -> str:
    """Writes a run folder below the sweep's `folder`; returns the run id."""
    values = config_values(**changes)
    run_id = validate(values).run_id
    path = folder / run_id
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    if rows:
        (path / "metrics.csv").write_text("\n".join([COLUMNS, *rows]) + "\n" + tail)
    if ended is not None:
        (path / "summary.json").write_text(json.dumps(ended))
    tiles = np.arange(2 * 6 * 4 * 6, dtype=np.uint8).reshape(12, 24)
    Image.fromarray(tiles).save(path / "reconstructions.png")
    return run_id


def claim_elsewhere(folder: Path, number: int = 1, age: float = 0.0, **stated: Any) -> Path:
    """Claims a run for a process of another machine, which was heard of `age` seconds ago;
    returns the claim."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"claim-{number}.json"
    content = {"schema": 3, "host": "elsewhere", "boot": "b", "pid": 7, "start": "1"}
    path.write_text(json.dumps({**content, "token": "t", "time": 0.0, **stated}))
    heard = path.stat().st_mtime - age
    os.utime(path, (heard, heard))
    return path


# --- commands ---


def leave_signals(monkeypatch: Any) -> None:
    """A command in this process leaves its signals alone."""
    monkeypatch.setattr("vae_sweep.system.stop.install", lambda: None)
    monkeypatch.setattr("signal.signal", lambda *_: None)


def said_by(
    module: Any, capsys: Any, monkeypatch: Any, *arguments: str, code: int = 0
) -> tuple[str, str]:
    """What a command's module prints in this process, for what needs none of its own."""
    monkeypatch.setattr("sys.argv", ["vae-sweep", *arguments])
    leave_signals(monkeypatch)
    try:
        module.main()
        ended = 0
    except SystemExit as exit_:
        ended = exit_.code or 0
    out, err = capsys.readouterr()
    assert ended == code, err
    return out, err


class Cli:
    """Runs `python -m vae_sweep.<module>` in a folder that holds images.npz."""

    def __init__(self, folder: Path, module: str = "run"):
        self.folder, self.module = folder, module
        images = make_images(120).permute(0, 2, 3, 1).numpy()
        np.savez(folder / "images.npz", images=images)
        self.env = {
            **os.environ,
            "VAE_SWEEP_CACHE": str(folder / "cache"),
            "WANDB_MODE": "disabled",
            "COLUMNS": "120",
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", f"vae_sweep.{self.module}", *arguments],
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=300)
        assert process.returncode == code, out + err
        assert "Traceback" not in err
        return out, err

    def refused(self, monkeypatch, capsys, *arguments: str) -> str:
        """What the command says on stderr before exit code 2, in this process: where it
        refuses, it starts nothing, and a process of its own takes three seconds."""
        grids = {"run": run_grid, "predict": predict_grid}
        with monkeypatch.context() as patched:
            patched.chdir(self.folder)
            patched.setattr("sys.argv", [f"{self.module}.py", *arguments])
            for name, value in self.env.items():
                patched.setenv(name, value)
            patched.setenv("HYDRA_FULL_ERROR", "0")  # so that it is put back
            with pytest.raises(SystemExit) as ended:
                entry.main(grids[self.module], "")
        assert ended.value.code == 2
        return capsys.readouterr().err

    def runs(self, sweep: str = "main") -> list[Path]:
        folders = (self.folder / "runs" / sweep).glob("*/config.yaml")
        return sorted(p.parent for p in folders)
