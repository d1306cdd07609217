"""vae-sweep: what normalization, output head and beta do to a VAE, on one scale."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vae_sweep.records import results
    from vae_sweep.records.results import load
    from vae_sweep.reporting import figures
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
    "Schedule",
    "figures",
    "load",
    "results",
]

_API = {  # name -> module, and what of it; imported when first asked for
    "load": ("vae_sweep.records.results", "load"),
    "results": ("vae_sweep.records.results", None),
    "figures": ("vae_sweep.reporting.figures", None),
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
