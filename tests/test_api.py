"""The Python API against the command, and in the places where it is called."""

import os
import random
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import Cli
from hydra.core.global_hydra import GlobalHydra
from hydra.version import VersionBase

import vae_sweep
from vae_sweep import UserError
from vae_sweep.system import stop

SMALL = {
    "model": "small",
    "model.latent": 4,
    "model.widths": (4, 8),
    "data": "npz",
    "data.path": "images.npz",
    "train.batch_size": 8,
    "train.steps": 8,
    "train.eval_every": 4,
    "train.device": "cpu",
    "log": [],
}
GRID = {"norm": ["zscore", "minus1_1"], "head": ["tanh", "linear"]}
TYPED = (
    *("norm=zscore,minus1_1", "head=tanh,linear", "model=small", "model.latent=4"),
    *("model.widths=[4,8]", "data=npz", "data.path=images.npz", "train.batch_size=8"),
    *("train.steps=8", "train.eval_every=4", "train.device=cpu", "log=[]"),
)


@pytest.fixture
def cli(tmp_path, monkeypatch) -> Cli:
    """A command in a folder that holds images.npz, which is this process's, too."""
    found = Cli(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("VAE_SWEEP_CACHE", "COLUMNS"):
        monkeypatch.setenv(name, found.env[name])
    return found


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """SIGINT as a terminal's process has it, here and in what is started from here: what
    a shell starts in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def script(cli: Cli, code: str, **options) -> subprocess.Popen[str]:
    (cli.folder / "script.py").write_text(textwrap.dedent(code))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "script.py"]
    return subprocess.Popen(command, cwd=cli.folder, env=cli.env, **pipes, **options)


def ended(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    return out


@pytest.mark.slow
def test_a_sweep_is_the_command(cli, capsys):
    found = vae_sweep.sweep(**GRID, **SMALL)
    out, err = capsys.readouterr()
    assert err == ""
    assert "training 4 points" in out
    assert "calibrated" not in out  # the table
    assert found.finals["norm"].tolist() == ["zscore", "zscore", "minus1_1", "minus1_1"]
    assert found.finals["head"].tolist() == ["tanh", "linear"] * 2
    assert found.finals["status"].tolist() == ["finished"] * 4
    files = {f: f.read_bytes() for f in (cli.folder / "runs").glob("*/*/*.*")}
    said, _ = cli(*TYPED)
    assert "4 points have ended already" in said
    assert {f: f.read_bytes() for f in files} == files
    commands = {run.summary.command for run in found.runs}
    assert [shlex.split(command)[3:] for command in commands] == [[*TYPED]]


@pytest.mark.slow
def test_again_and_again_in_one_process(cli, capsys):
    first = vae_sweep.sweep(norm="unit", **SMALL)
    again = vae_sweep.sweep(norm=["minus1_1", "unit"], quiet=True, **SMALL)
    assert again.finals["norm"].tolist() == ["minus1_1", "unit"]
    assert again.finals["run_id"][1] == first.finals["run_id"][0]
    assert "ended already" not in capsys.readouterr().out  # quiet
    pd.testing.assert_frame_equal(
        vae_sweep.results("runs/main").finals.sort_values("norm", ignore_index=True),
        again.finals,
    )
    shown = again._repr_html_()
    assert "2 finished" in shown
    assert "<code>runs/main</code>" in shown
    assert shown.count("<tr") == 3  # header and runs
    assert not re.search(r"\binf\b|nan", shown)


@pytest.mark.slow
def test_two_sweeps_and_own_keys_of_named_grids(cli):
    folder = cli.folder / "experiments"
    folder.mkdir()
    for name in ("one", "two"):
        (folder / f"{name}.yaml").write_text("grids: [norm=unit head=linear]\n")
    found = vae_sweep.sweep(experiments=["one", "two"], quiet=True, **SMALL)
    assert [path.name for path in found.folders] == ["one", "two"]
    assert len(found.finals) == 2


@pytest.mark.slow
def test_a_point_that_diverged_is_among_the_results_and_named(cli):
    odd = {**SMALL, "train.lr": [1e-3, 1e30], "norm": "raw255"}
    with pytest.warns(
        UserWarning, match="1 of 2 points did not finish: .*diverged"
    ) as told:
        found = vae_sweep.sweep(quiet=True, **odd)
    assert found.finals["status"].tolist() == ["finished", "diverged"]
    assert {w.filename for w in told} == {__file__}  # it points at the call


def state() -> dict[str, object]:
    """What of a process a call could change."""
    return {
        "argv": list(sys.argv),
        "path": list(sys.path),
        "environ": dict(os.environ),
        "folder": os.getcwd(),
        "handlers": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)],
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "precision": torch.backends.cuda.matmul.fp32_precision,
        "convolutions": torch.backends.cudnn.conv.fp32_precision,
        "torch": torch.get_rng_state().tolist(),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "python": random.getstate(),
        "hydra": GlobalHydra.instance(),
        "initialized": GlobalHydra.instance().is_initialized(),
        "version": VersionBase.instance().getbase(),
        "filters": list(warnings.filters),
        "streams": [sys.stdout, sys.stderr],
        "excepthook": sys.excepthook,
    }


@pytest.mark.slow
def test_nothing_of_the_process_is_changed(cli):
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    before = state()
    vae_sweep.sweep(norm="unit", quiet=True, **SMALL)
    vae_sweep.predict(norm="unit", quiet=True, **SMALL)
    with pytest.raises(UserError):
        vae_sweep.sweep(norm="unti", **SMALL)
    after = state()
    torch.backends.cuda.matmul.fp32_precision = "none"
    assert after == before


def test_a_prediction_is_the_commands_file(cli):
    predicted = vae_sweep.predict(**GRID, **SMALL, quiet=True)
    assert not Path("runs").exists()
    cli.module = "predict"
    cli(*TYPED)
    kept = pd.read_csv("runs/main/predicted.csv", keep_default_na=False)
    assert predicted.columns.tolist() == kept.columns.tolist()
    assert predicted["run_id"].tolist() == kept["run_id"].tolist()
    assert predicted["psnr_cap"].tolist() == kept["psnr_cap"].tolist()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"hed": "tanh"}, "unknown option hed; did you mean head?"),
        ({"head": "tahn"}, "unknown option head=tahn; did you mean tanh?"),
        ({"train.lr": "fast"}, "train.lr: must be a number, got 'fast'"),
        ({"train": {"stepz": 3}}, "did you mean train.steps?"),
        ({"norm": []}, "at least one point"),
        ({"beta.cycles": 3}, "beta.cycles belongs to beta=cyclical"),
        ({"data": "npz", "data.path": "none.npz"}, "none.npz"),
        ({"experiments": "nothing"}, "experiments/NAME.yaml, got 'nothing'"),
        ({"head": "__main__:HEAD"}, "write it to a file, mine.py"),
        ({"data": "npz"}, "data.path is missing"),
    ],
)
def test_mistakes_are_user_errors(cli, options, said):
    with pytest.raises(UserError, match=re.escape(said)) as raised:
        vae_sweep.sweep(**{"runs": "new", **options})
    assert str(raised.value).count("\n") < 2
    assert not Path("new").exists()


def test_an_edited_module_needs_a_new_process(cli, monkeypatch):
    monkeypatch.syspath_prepend(str(cli.folder))
    file = cli.folder / "edited_norm.py"
    source = "from vae_sweep import Affine\nNORM = lambda c: Affine(0.5 + 0 * c[:, 0], "
    file.write_text(source + "1 + 0.0 * c[:, 0])\n")
    asked = {**SMALL, "norm": "edited_norm:NORM", "quiet": True}
    vae_sweep.predict(**asked)
    file.write_text(source + "2 + 0.0 * c[:, 0])\n")
    with pytest.raises(UserError, match="edited_norm was edited after"):
        vae_sweep.predict(**asked)


@pytest.mark.slow
def test_from_another_thread(cli):
    found = []
    call = lambda: found.append(vae_sweep.sweep(norm="unit", quiet=True, **SMALL))  # noqa: E731
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert found[0].finals["status"].tolist() == ["finished"]


@pytest.mark.slow
def test_a_script_needs_no_guard(cli):
    code = f"""
    import vae_sweep
    print("once")
    found = vae_sweep.sweep(norm=["unit", "zscore"], **{SMALL!r}, train={{"workers": 2}})
    print(found)
    """
    out = ended(script(cli, code))
    assert out.count("once") == 1
    assert "2 processes of" in out
    assert "2 finished" in out


@pytest.mark.slow
def test_an_interrupt_keeps_checkpoints_and_the_call_goes_on(cli):
    long = {**SMALL, "train.steps": 100_000, "train.eval_every": 50}
    code = f"""
    import signal, vae_sweep
    try:
        vae_sweep.sweep(norm="unit", **{long!r})
    except KeyboardInterrupt:
        print("interrupted", signal.getsignal(signal.SIGINT) is signal.default_int_handler)
    found = vae_sweep.results("runs/main")
    print(found, len(found.curves))
    model = vae_sweep.load(found.finals["run_id"][0])
    print("at", model.step)
    """
    process = script(cli, code)
    deadline = time.monotonic() + 60
    while not any(
        p.read_text().count("\n") > 3 for p in cli.folder.glob("runs/*/*/metrics.csv")
    ):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out = ended(process)
    assert "interrupted True" in out
    assert "1 interrupted" in out
    # a checkpoint of where it was, not only of the last evaluation
    [at] = re.findall(r"^at (\d+)$", out, re.MULTILINE)
    assert int(at) >= 100


class Ended(Exception):
    pass


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_call_as_the_process_would_have_it(signum):
    def mine(number: int, _: object) -> None:
        raise Ended(number)

    def call() -> None:
        with stop.borrowed():
            with stop.deferred():
                signal.raise_signal(signum)
                assert stop.requested()  # training writes its checkpoints now
            pytest.fail("the signal was lost")

    before = signal.signal(signal.SIGTERM, mine)
    try:
        expected = KeyboardInterrupt if signum == signal.SIGINT else Ended
        with pytest.raises(expected):
            call()
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not stop.requested()


def test_a_second_interrupt_waits_for_nothing():
    def call() -> None:
        with stop.borrowed(), stop.deferred():
            signal.raise_signal(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        call()
    assert not stop.requested()


def test_what_a_process_ignores_stays_ignored():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with stop.borrowed():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_importing_takes_nothing_heavy_and_commands_hide_no_function():
    code = (
        "import sys, vae_sweep; assert set(vae_sweep.__all__) <= set(dir(vae_sweep)); "
        "heavy = {'torch', 'hydra', 'pandas', 'numpy', 'yaml'} & set(sys.modules); "
        "import vae_sweep.predict, vae_sweep.export; "
        "print(heavy, vae_sweep.predict.__module__, vae_sweep.export.__module__)"
    )
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said == "set() vae_sweep.api vae_sweep.reporting.standalone\n"


@pytest.mark.slow
def test_a_notebook_shows_few_pieces_of_output(cli):
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    code = f"""
    import vae_sweep
    found = vae_sweep.sweep(norm=["unit", "zscore"], **{SMALL!r})
    found
    """
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(textwrap.dedent(code).strip())]
    environment = {**cli.env, "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    with pytest.MonkeyPatch.context() as patched, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zmq's loops
        for name, value in environment.items():
            patched.setenv(name, value)
        client.NotebookClient(  # streams are one output, as a browser shows them
            notebook,
            resources={"metadata": {"path": cli.folder}},
            coalesce_streams=True,
        ).execute()
    outputs = notebook.cells[0].outputs
    kinds = [output["output_type"] for output in outputs]
    assert kinds[-1] == "execute_result"
    assert set(kinds[:-1]) <= {"stream", "display_data"}
    assert kinds.count("display_data") <= 1  # which updates in place
    assert len(outputs) <= 4
    assert "text/html" in outputs[-1]["data"]
    text = "".join(o["text"] for o in outputs if o["output_type"] == "stream")
    assert "training 2 points" in text
