"""vae-sweep: what normalization, output head and beta do to a VAE, on one scale."""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vae_sweep.api import predict, sweep
    from vae_sweep.errors import UserError
    from vae_sweep.records.model import Model, load, to_uint8
    from vae_sweep.records.results import Results
    from vae_sweep.records.results import load as results
    from vae_sweep.reporting import figures
    from vae_sweep.reporting.standalone import export
    from vae_sweep.training.metrics import Metric
    from vae_sweep.vae.heads import Head
    from vae_sweep.vae.likelihoods import Likelihood
    from vae_sweep.vae.normalize import Affine
    from vae_sweep.vae.schedules import Schedule

__version__ = "0.1.0"
__all__ = [
    "Affine",
    "Head",
    "Likelihood",
    "Metric",
    "Model",
    "Results",
    "Schedule",
    "UserError",
    "export",
    "figures",
    "load",
    "predict",
    "results",
    "sweep",
    "to_uint8",
]

_API = {  # name -> module, and what it is called there; imported when first asked for
    "sweep": ("vae_sweep.api", "sweep"),
    "predict": ("vae_sweep.api", "predict"),
    "results": ("vae_sweep.records.results", "load"),
    "Results": ("vae_sweep.records.results", "Results"),
    "load": ("vae_sweep.records.model", "load"),
    "Model": ("vae_sweep.records.model", "Model"),
    "export": ("vae_sweep.reporting.standalone", "export"),
    "figures": ("vae_sweep.reporting.figures", None),
    "to_uint8": ("vae_sweep.records.model", "to_uint8"),
    "UserError": ("vae_sweep.errors", "UserError"),
    # what an own option needs
    "Affine": ("vae_sweep.vae.normalize", "Affine"),
    "Head": ("vae_sweep.vae.heads", "Head"),
    "Likelihood": ("vae_sweep.vae.likelihoods", "Likelihood"),
    "Metric": ("vae_sweep.training.metrics", "Metric"),
    "Schedule": ("vae_sweep.vae.schedules", "Schedule"),
}


def __getattr__(name: str) -> Any:
    if name not in _API:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, member = _API[name]
    found = import_module(module)
    return found if member is None else getattr(found, member)


def __dir__() -> list[str]:
    return sorted([*globals(), *_API])


class _Package(ModuleType):
    """Keeps a function of the API where a command has its name: importing the command's
    module would put that in its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _API and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
