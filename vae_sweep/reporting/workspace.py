"""A W&B workspace of vae-sweep's runs, as code.

Panels for distortion, rate, ELBO and the gap to the prior, for training batches, for rate
against distortion, and for samples and reconstructions.
"""

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from vae_sweep.config import RunConfig, Slug
from vae_sweep.errors import UserError
from vae_sweep.records.tracker import check_installed

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

CURVES = {  # what a run logs at every evaluation -> the panel's title
    "val/mse_pixel": "Distortion: val pixel MSE (pixels in [0, 1])",
    "val/kl": "Rate: val KL (nats per image)",
    "val/elbo": "val ELBO at each run's own noise (nats per image)",
    "val/psnr": "val PSNR (dB)",
    "val/bits_per_dim_calibrated": "val calibrated bits/dim, comparable across the grid",
    "val/prior_gap": "val gap of the aggregate posterior to the prior (nats)",
}
BATCHES = {  # what it logs every log.every steps
    "batch/loss": "Loss of the training batch (objective per image)",
    "batch/mse": "MSE of the training batch (per element of the target)",
    "batch/kl": "KL of the training batch (nats per image)",
}
LOG = ("val/mse_pixel", "batch/loss", "batch/mse")  # on a logarithmic axis
RATE, DISTORTION = "val/kl", "val/psnr"
COORDINATES = ("norm", "head", "val/sigma", RATE, DISTORTION, "val/active_units")
PICTURES = {
    "samples": "Samples: decoded from the prior",
    "reconstructions": "Originals above reconstructions",
}
GROUPS = ("norm", "head")
SHOWN = 100  # groups that a panel draws; W&B's own limit is 10


def workspace(
    entity: str, project: str, sweep: str | None = None, by: Sequence[str] = GROUPS
) -> "Workspace":
    """The workspace, not yet saved; no network is used.

    `sweep` restricts it to the runs of that W&B group. A line is the mean of the runs
    that agree in the keys `by` of RunConfig (`beta.value` is one), its band their extremes.

    Raises:
        UserError: No such keys or sweep, or wandb-workspaces is not installed.
    """
    check_installed("wandb_workspaces", "a workspace", "dashboard")
    import wandb_workspaces.workspaces as ws

    unknown = [key for key in by if key.partition(".")[0] not in RunConfig.model_fields]
    if unknown:
        raise UserError(
            f"runs are grouped by keys of the configuration, got {', '.join(unknown)}; "
            f"name some of {', '.join(RunConfig.model_fields)}"
        )
    try:
        TypeAdapter(Slug | None).validate_python(sweep)
    except ValidationError:
        raise UserError(
            f"--sweep takes what sweep=NAME does, letters, digits and ._=,- got {sweep!r}"
        ) from None
    sections = {  # name -> panels, and how many stand side by side
        f"Curves, by {', '.join(by)}": (_curves(CURVES), 3),
        f"Training batches, by {', '.join(by)}": (_curves(BATCHES), 3),
        "Rate and distortion": (_trade_off(), 2),
        "Samples and reconstructions": (_pictures(), 1),
    }
    return ws.Workspace(
        entity=entity,
        project=project,
        # the library takes `=` in a name for an emoji
        name=f"vae-sweep: {sweep.replace('=', '-')}" if sweep else "vae-sweep",
        sections=[
            ws.Section(
                name=name,
                panels=panels,
                is_open=True,
                layout_settings=ws.SectionLayoutSettings(
                    columns=columns, rows=math.ceil(len(panels) / columns)
                ),
            )
            for name, (panels, columns) in sections.items()
        ],
        settings=ws.WorkspaceSettings(x_axis="step", max_runs=SHOWN),
        runset_settings=ws.RunsetSettings(
            groupby=[ws.Config(_stored(key)) for key in by],
            filters=_only(sweep) if sweep else "",
        ),
    )


def _curves(titles: Mapping[str, str]) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    return [
        wr.LinePlot(
            title=title,
            x="step",
            y=[key],
            log_y=key in LOG,
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
            max_runs_to_show=SHOWN,
        )
        for key, title in titles.items()
    ]


def _trade_off() -> list[Any]:
    import wandb_workspaces.reports.v2 as wr
    from wandb_workspaces.reports.v2.interface import ParallelCoordinatesPlotColumn

    scatter = wr.ScatterPlot(
        title="Val PSNR (dB) over val KL (nats per image)",
        x=wr.SummaryMetric(RATE),
        y=wr.SummaryMetric(DISTORTION),
    )
    columns = [
        ParallelCoordinatesPlotColumn(
            metric=wr.SummaryMetric(key) if "/" in key else wr.Config(key)
        )
        for key in COORDINATES
    ]
    title = "Norm and head, the noise that beta implies, and what came of them"
    return [scatter, wr.ParallelCoordinatesPlot(title=title, columns=columns)]


def _pictures() -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    return [
        wr.MediaBrowser(
            title=title,
            media_keys=[key],
            mode="grid",
            grid_x_axis="step",
            grid_y_axis="run",
        )
        for key, title in PICTURES.items()
    ]


def _stored(key: str) -> str:
    """Where W&B keeps a key of the config: `beta.value` is beta's entry `value`."""
    first, *rest = key.split(".")
    return ".".join([first, "value", *rest])


def _only(group: str) -> str:
    """A filter on the group in the library's language, where `=` is `==` in quotes, too."""
    escaped = group.replace("=", r"\x3d")  # which it reads as Python does
    return f"Metric('Group') == '{escaped}'"


def save(made: "Workspace") -> str:
    """Saves a new view on the server and returns its URL; UserError where that fails."""
    # else wandb reports its own errors at exit, and waits for a server it lacks
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    try:
        wandb.setup(settings=wandb.Settings(silent=True))
        return str(made.save().url)
    except Exception as error:  # of many kinds, some of them the answer's shape
        said = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"W&B did not take the workspace of {made.entity}/{made.project} "
            f"({said.rstrip('.')}); check --entity, --project, the network, and the key: "
            "wandb login --relogin"
        ) from None
