"""The W&B workspace and the W&B sweep, as far as they go without an account."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from helpers import leave_signals, make_config
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from hydra_plugins.vae_sweep_launcher.grid_sweeper import union
from vae_sweep import dashboard
from vae_sweep.command import arguments
from vae_sweep.command.entry import CONF, config_of
from vae_sweep.errors import UserError
from vae_sweep.records.reader import CURVE
from vae_sweep.records.wandb_logger import WandbLogger
from vae_sweep.reporting import workspace
from vae_sweep.training.metrics import columns

ROOT = Path(dashboard.__file__).parents[1]
SWEEP = ROOT / "experiments" / "wandb_sweep.yaml"

# wandb-workspaces declares some of its validators in pydantic's old way
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Pydantic V1 style:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def home(lone_home):
    return lone_home


def sent(*arguments: str, **keywords: tuple[str, ...]) -> dict:
    """What the server would be sent as the workspace's spec."""
    made = workspace.workspace("team", "vae-sweep", *arguments, **keywords)
    spec = made._to_model().spec.model_dump_json(by_alias=True, exclude_none=True)
    return json.loads(spec)["section"]


def panels(section: dict) -> list[tuple[str, dict]]:
    return [
        (panel["viewType"], panel["config"])
        for part in section["panelBankConfig"]["sections"]
        for panel in part["panels"]
    ]


def test_the_panels():
    found = panels(sent())
    lines = [config for kind, config in found if kind == "Run History Line Plot"]
    assert [config["metrics"] for config in lines] == [
        ["val/mse_pixel"],
        ["val/kl"],
        ["val/elbo"],
        ["val/psnr"],
        ["val/bits_per_dim_calibrated"],
        ["val/prior_gap"],
        ["batch/loss"],
        ["batch/mse"],
        ["batch/kl"],
    ]
    assert {config["xAxis"] for config in lines} == {"step"}
    rest = [(kind, config) for kind, config in found if config not in lines]
    scatter, coordinates, *pictures = rest
    assert scatter[0] == "Scatter Plot"
    assert (scatter[1]["xAxis"], scatter[1]["yAxis"]) == (
        "summary:val/kl",
        "summary:val/psnr",
    )
    assert coordinates[0] == "Parallel Coordinates Plot"
    assert {kind for kind, _ in pictures} == {"Media Browser"}
    # the keys that test_loggers reads back from a run's file
    keys = [config["mediaKeys"] for _, config in pictures]
    assert keys == [["samples"], ["reconstructions"]]


def test_every_key_is_one_that_runs_log():
    config = make_config().model_dump(mode="json")
    summaries, configs = [], []
    for kind, panel in panels(sent()):
        if kind == "Run History Line Plot":
            summaries += [panel["xAxis"], *panel["metrics"]]
        accessors = [panel.get("xAxis", ""), panel.get("yAxis", "")]
        accessors += [column["accessor"] for column in panel.get("columns", [])]
        for accessor in accessors:
            section, _, name = accessor.partition(":")
            summaries += [name] * (section == "summary")
            configs += [name] * (section == "config")
    assert len(summaries) == 24
    batches = {f"batch/{name}" for name in CURVE[1:]}
    assert set(summaries) - batches <= set(columns(make_config()))
    assert configs == ["norm.value", "head.value"]
    assert {name.removesuffix(".value") for name in configs} <= set(config)


def test_runs_are_grouped_by_norm_and_head():
    (runs,) = sent()["runSets"]
    assert runs["grouping"] == [
        {"section": "config", "name": "norm.value"},
        {"section": "config", "name": "head.value"},
    ]
    assert runs["filters"]["filters"] == []


def test_runs_can_be_grouped_by_what_else_was_swept():
    (runs,) = sent(by=("norm", "beta.value"))["runSets"]
    # of config {"beta": {"value": {"name": ..., "value": ...}}}, as W&B keeps it
    assert [key["name"] for key in runs["grouping"]] == ["norm.value", "beta.value.value"]
    with pytest.raises(UserError, match=r"got nrom, betas; name some of .* norm,"):
        sent(by=("nrom", "head", "betas"))


@pytest.mark.parametrize("sweep", ["main", "cifar-beta0.1", "beta=0.1,1"])
def test_a_sweep_is_a_filter_on_the_group(sweep):
    (runs,) = sent(sweep)["runSets"]
    (only,) = runs["filters"]["filters"]
    assert (only["key"], only["op"], only["value"]) == (
        {"section": "run", "name": "group"},
        "=",
        sweep,
    )


def test_a_sweeps_name_is_checked():
    with pytest.raises(
        UserError, match=r'--sweep takes what sweep=NAME does.* got "it\'s"'
    ):
        sent("it's")


def test_the_workspace_comes_back_from_its_spec():
    made = workspace.workspace("team", "vae-sweep", "main")
    model = made._to_model()
    back = type(made)._from_model(model)
    assert back._to_model().spec == model.spec
    assert back.name == made.name == "vae-sweep: main"


@pytest.fixture
def server(monkeypatch) -> list:
    """A W&B server that keeps the views it is sent, behind the library's own call."""
    import wandb
    from wandb_workspaces.workspaces import interface, internal

    views = []

    def upsert(view):
        views.append(view)
        return {"upsertView": {"view": {"name": view.name, "id": "1"}}}

    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setattr(wandb, "setup", lambda settings: None)
    monkeypatch.setattr(wandb, "Api", SimpleNamespace)
    monkeypatch.setattr(internal, "upsert_view2", upsert)
    monkeypatch.setattr(interface, "get_app_url", lambda api: "https://wandb.example")
    return views


ARGUMENTS = ("--entity", "team", "--project", "vae-sweep")


@pytest.fixture
def command(monkeypatch):
    def run(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["vae-sweep dashboard", *arguments])
        leave_signals(monkeypatch)
        dashboard.main()

    return run


def test_the_command_saves_one_view_and_prints_its_url(server, command, capsys):
    command(*ARGUMENTS, "--sweep", "main", "--by", "norm", "head", "beta.value")
    (view,) = server
    assert (view.entity, view.project, view.display_name) == (
        "team",
        "vae-sweep",
        "vae-sweep: main",
    )
    assert len(view.spec.section.run_sets[0].grouping) == 3
    name = view.name.removeprefix("nw-").removesuffix("-v")
    assert capsys.readouterr().out == f"https://wandb.example/team/vae-sweep?nw={name}\n"


@pytest.mark.parametrize("answer", [RuntimeError("no such\nentity."), None])
def test_what_the_server_refuses_is_said_in_one_line(
    server, command, monkeypatch, capsys, answer
):
    from wandb_workspaces.workspaces import internal

    def refuse(view):
        if answer is not None:
            raise answer
        return {"upsertView": None}

    monkeypatch.setattr(internal, "upsert_view2", refuse)
    with pytest.raises(SystemExit) as left:
        command(*ARGUMENTS)
    assert left.value.code == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert error.startswith("error: W&B did not take the workspace of team/vae-sweep (")
    assert answer is None or "(no such entity); check --entity" in error
    assert error.endswith("wandb login --relogin\n")


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "run `wandb login`"),
        ({"WANDB_API_KEY": "a" * 40, "WANDB_MODE": "offline"}, "unset WANDB_MODE"),
        ({"WANDB_MODE": "ofline"}, "got 'ofline'; correct it"),
    ],
)
def test_without_a_key_or_offline_it_is_one_line(variables, said):
    ended = subprocess.run(
        [sys.executable, "-m", "vae_sweep", "dashboard", *ARGUMENTS],
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1
    assert said in ended.stderr


def test_without_the_library_it_says_how_to_get_it(command, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(SystemExit) as left:
        command(*ARGUMENTS)
    assert left.value.code == 2
    assert capsys.readouterr().err.endswith("pip install 'vae-sweep[dashboard]'\n")


def test_project_and_entity_are_those_of_the_environment(
    server, command, monkeypatch, capsys
):
    with pytest.raises(SystemExit) as left:
        command()
    assert left.value.code == 2
    assert "give --entity NAME" in capsys.readouterr().err
    monkeypatch.setenv("WANDB_ENTITY", "us")
    command()
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    command()
    assert [(view.entity, view.project) for view in server] == [
        ("us", "vae-sweep"),
        ("us", "theirs"),
    ]


@pytest.fixture
def agent(home, monkeypatch):
    """Our sweep, and what W&B's own agent starts for a run id and its parameters."""
    from wandb import wandb_agent

    for name in ("RUN_ID", "SWEEP_PARAM_PATH"):  # the agent's to set: so restored
        monkeypatch.setenv(f"WANDB_{name}", "")
    monkeypatch.setenv("WANDB_DIR", str(home))
    monkeypatch.setenv("WANDB_SWEEP_ID", "s3w7")
    started = []
    process = SimpleNamespace(last_sigterm_time=None)

    def start(command, **_):
        started.append(command)
        return process

    monkeypatch.setattr(wandb_agent, "AgentProcess", start)
    content = yaml.safe_load(SWEEP.read_text())
    made = wandb_agent.Agent(None, None, sweep_id="s3w7")
    made._sweep_command = content["command"]

    def command(run_id: str, parameters: dict) -> list[str]:
        args = {key: {"value": value} for key, value in parameters.items()}
        program = content["program"]
        made._command_run({"run_id": run_id, "program": program, "args": args})
        return started[-1]

    return SimpleNamespace(command=command, content=content)


def test_the_agents_commands_make_the_points_of_the_grid(agent):
    parameters = agent.content["parameters"]
    axes = [parameters[key]["values"] for key in parameters]
    configs = []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for i, values in enumerate(itertools.product(*axes)):
            point = dict(zip(parameters, values, strict=True))
            env, python, m, module, *overrides = agent.command(f"run{i}", point)
            assert (env, python, m, module) == (
                "/usr/bin/env",
                "python",
                "-m",
                "vae_sweep.run",
            )
            lines = arguments.read(overrides).lines  # as the command reads them
            [job] = union(OverridesParser.create().parse_overrides(lines))
            config = config_of(compose("config", job))
            for key in ("norm", "head", "seed"):
                assert getattr(config, key) == point[key]
            assert config.beta.label == f"{point['beta.value']:g}"
            assert config.log.wandb.mode == "online"
            configs.append(config)
    assert len(configs) == 60
    assert len({config.run_id for config in configs}) == 60
    # two agents at once never lock each other out, and all runs are in one group
    assert len({config.sweep_dir for config in configs}) == 60
    assert {config.sweep for config in configs} == {"s3w7"}


def test_wandb_accepts_the_sweep(agent):
    from wandb.apis.public.sweeps import _validate_config_and_fill_distribution

    content = agent.content
    assert _validate_config_and_fill_distribution(content) == content
    assert content["metric"]["name"] in columns(make_config())
    note = WandbLogger.note(make_config("log.wandb.mode=online", "sweep=agent"))
    assert f"project {content['project']}," in note
