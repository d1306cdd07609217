"""`vae-sweep` as a user types it: its subcommands, helps, versions, mistakes and ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import TINY, Cli, said_by, summary, write_run

import vae_sweep
from vae_sweep import __main__ as command
from vae_sweep.command import completion

HELPS = ["run", "predict", "show", "status", "report", "export", "dashboard"]
SMALL = ("data=npz", "data.path=images.npz", *TINY, "train.steps=4", "train.eval_every=2")


@pytest.fixture
def cli(tmp_path) -> Cli:
    return Cli(tmp_path, "__main__")


def said(capsys, monkeypatch, *arguments: str, code: int = 0) -> tuple[str, str]:
    return said_by(command, capsys, monkeypatch, *arguments, code=code)


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",), ("help",)])
def test_the_help_is_one_screen_of_all_commands(capsys, monkeypatch, arguments):
    out, _ = said(capsys, monkeypatch, *arguments)
    lines = out.splitlines()
    assert len(lines) <= 24
    assert all(len(line) <= 80 for line in lines)
    assert [line.split()[0] for line in lines if line[:2] == "  "][:7] == [
        *command.COMMANDS
    ]
    assert sum(line.startswith("  vae-sweep ") for line in lines) == 3


@pytest.mark.parametrize("name", HELPS)
@pytest.mark.parametrize("ask", [("{}", "--help"), ("help", "{}")])
def test_each_help_is_one_screen_with_examples(capsys, monkeypatch, name, ask):
    out, _ = said(capsys, monkeypatch, *(word.format(name) for word in ask))
    lines = out.splitlines()
    assert lines[0].startswith(f"usage: vae-sweep {name}")
    assert len(lines) <= 24
    assert all(len(line) <= 80 for line in lines)
    assert sum(line.startswith(f"  vae-sweep {name}") for line in lines) >= 3


@pytest.mark.parametrize("name", [None, *HELPS])
def test_the_version_is_the_products(capsys, monkeypatch, name):
    if name in ("run", "predict", "show"):  # Hydra's flags are read beside it
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    out, _ = said(capsys, monkeypatch, *([name] if name else []), "--version")
    assert out == f"vae-sweep {vae_sweep.__version__}\n"


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("repot", "did you mean report?"),
        ("statsu", "did you mean status?"),
        ("zzz", "there are run, predict, show, status, report, export, dashboard"),
    ],
)
def test_a_word_that_is_no_command_is_answered(capsys, monkeypatch, word, answer):
    _, err = said(capsys, monkeypatch, word, code=2)
    assert err.count("\n") == 1
    assert answer in err


def test_an_unknown_flag_is_answered_with_the_nearest(capsys, monkeypatch):
    _, err = said(capsys, monkeypatch, "status", "--jsn", code=2)
    assert "unknown argument --jsn; did you mean --json?" in err


NEEDLESS = """
import sys
from vae_sweep.__main__ import main
sys.argv = ["vae-sweep", *sys.argv[1:]]
try:
    main()
finally:
    heavy = {"torch", "hydra", "omegaconf", "wandb", "matplotlib"} & {*sys.modules}
    assert not heavy, heavy
"""


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [(), ("run", "--help"), ("status", "s")])
def test_what_asks_for_little_imports_little(tmp_path, arguments):
    write_run(tmp_path / "s", summary())
    line = [sys.executable, "-c", NEEDLESS, *arguments]
    subprocess.run(line, cwd=tmp_path, check=True, capture_output=True)


@pytest.mark.slow
def test_the_word_run_may_be_left_out(cli):
    cli(*SMALL, "-m", "norm=unit")
    out, _ = cli("run", *SMALL, "-m", "norm=unit")
    assert "1 point has ended already" in out
    assert len(cli.runs()) == 1
    out, _ = cli("status", "runs/main")
    assert "1 finished" in out
    [run] = cli.runs()
    out, _ = cli("show", run.name[-8:])
    assert str(run.relative_to(cli.folder)) in out
    out, _ = cli("predict", *SMALL, "norm=unit")
    assert "predicted.csv" in out


def test_a_command_behind_options_is_answered(capsys, monkeypatch):
    _, err = said(capsys, monkeypatch, "beta=1,2", "predict", code=2)
    assert err == "error: a command comes first: vae-sweep predict KEY=VALUE ...\n"


# a folder that is missing, one without runs, a name that two runs have
@pytest.mark.slow
@pytest.mark.parametrize("name", ["status", "report", "show"])
@pytest.mark.parametrize("mistake", ["missing", "empty", "none"])
def test_mistakes_are_a_line_and_exit_code_2(cli, name, mistake):
    (cli.folder / "empty").mkdir()
    arguments = [] if mistake == "none" else [mistake]
    if name == "show" and mistake == "none":
        arguments = ["abcd"]
    out, err = cli(name, *arguments, code=2)
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_a_name_of_two_runs_is_refused(capsys, monkeypatch, tmp_path):
    for sweep in ("a", "b"):
        run_id = write_run(tmp_path / "runs" / sweep, summary())
    monkeypatch.chdir(tmp_path)
    _, err = said(capsys, monkeypatch, "show", run_id, code=2)
    assert "means 2 runs: runs/a/" in err
    assert err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("status", "runs/s"), ("show", "runs/s/*"), ()])
def test_a_closed_pipe_is_141(tmp_path, arguments):
    write_run(tmp_path / "runs/s", summary())
    shell = f"{sys.executable} -m vae_sweep {' '.join(arguments)} | head -0; "
    line = ["bash", "-c", shell + "exit ${PIPESTATUS[0]}"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.slow
def test_without_display_home_or_a_terminals_abilities(tmp_path):
    write_run(tmp_path / "runs/s", summary())
    bare = {"PATH": os.environ["PATH"], "TERM": "dumb", "COLUMNS": "40"}
    bare |= {"PYTHONPATH": os.pathsep.join(sys.path)}
    for arguments in (("status", "runs/s"), ("show", "runs/s")):
        line = [sys.executable, "-m", "vae_sweep", *arguments]
        done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, env=bare)
        assert done.returncode == (0 if "status" in arguments else 2), done.stderr
        assert "\x1b" not in done.stdout


# --- completion ---

LINES = {  # typed -> what is offered of commands; None where Hydra is not asked
    "vae-sweep ": [*command.COMMANDS],
    "vae-sweep s": ["show", "status"],
    "vae-sweep norm=": [],
    "vae-sweep status ru": [],
    "vae-sweep run head=t": [],
}


@pytest.mark.parametrize("line", LINES)
def test_commands_are_offered_at_the_first_word(capsys, monkeypatch, line):
    monkeypatch.setenv("COMP_LINE", line)
    asks_hydra = line not in ("vae-sweep ", "vae-sweep status ru")
    try:
        completion.offer(command.COMMANDS)
    except SystemExit:
        assert not asks_hydra
    else:
        assert asks_hydra
    assert capsys.readouterr().out.split() == LINES[line]
    assert "run" not in os.environ["COMP_LINE"].split() or not asks_hydra


COMPLETE = """
eval "$(vae-sweep -sc install=bash)"
COMP_LINE="$1"; COMP_POINT=${#1}; words=($1); COMP_CWORD=$((${#words[@]} - 1))
[[ $(complete -p vae-sweep) == *"-F hydra_bash_completion vae-sweep" ]] || exit 9
hydra_bash_completion; echo "${COMPREPLY[@]}"
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("vae-sweep st", "status"),
        ("vae-sweep head=sig", "head=sigmoid head=sigmoid_rescaled"),
        ("vae-sweep predict norm=min", "norm=minus1_1"),
        ("vae-sweep run train.ste", "train.steps="),
    ],
)
def test_bash_completes_commands_and_options(tmp_path, line, offered):
    script = tmp_path / "vae-sweep"  # as an installer writes it
    script.write_text(
        f"#!{sys.executable}\nimport sys\nfrom vae_sweep.__main__ import main\nmain()\n"
    )
    script.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    root = str(Path(vae_sweep.__file__).parents[1])
    env = {**os.environ, "PATH": path, "PYTHONPATH": root}
    done = subprocess.run(
        ["bash", "-c", COMPLETE, "bash", line], env=env, capture_output=True, text=True
    )
    assert (done.stdout.split(), done.stderr) == (offered.split(), "")
