"""The notebooks on the smallest sweep, and what is committed of the study."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
from study import answers, make, pages, published
from study.ledger import ledger
from study.published import Study

from vae_sweep.errors import UserError

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NOTEBOOKS = make.NOTEBOOKS
RESULTS = ROOT / "experiments" / "results"


@pytest.fixture(scope="module")
def smoke(tmp_path_factory) -> Path:
    """experiments=smoke, as one would run it: 80 runs of 60 steps. Its tests are `long`."""
    folder = tmp_path_factory.mktemp("smoke")
    command = [sys.executable, "-m", "vae_sweep.run", "experiments=smoke"]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return folder / "runs" / "smoke"


def test_there_are_six():
    begin = [path.stem[:2] for path in NOTEBOOKS]
    assert begin == ["01", "02", "03", "04", "05", "ex"]
    found = {path.name for path in (ROOT / "analysis").glob("*.ipynb")}
    assert found == {path.name for path in [*NOTEBOOKS, make.QUICKSTART]}


# zmq and the kernel's own loop have warnings that are none of ours
@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_on_the_smallest_sweep(notebook, smoke, tmp_path):
    make.render(notebook, tmp_path / notebook.name, smoke)
    made = nbformat.read(tmp_path / notebook.name, as_version=4)
    code = [cell for cell in made.cells if cell.cell_type == "code"]
    kinds = {kind for cell in code for out in cell.outputs for kind in out.get("data", {})}
    assert {"image/png", "text/markdown"} <= kinds


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_the_quickstart_runs_in_an_empty_folder(tmp_path, monkeypatch):
    """On a few steps; what is committed was made with those that it states."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("VAE_SWEEP_CACHE", str(tmp_path / "cache"))
    committed = nbformat.read(make.QUICKSTART, as_version=4)
    few = nbformat.read(make.QUICKSTART, as_version=4)
    code = [cell for cell in few.cells if cell.cell_type == "code"]
    code[0].source = "steps = 3"
    assert '"train.steps": steps' in code[1].source
    code[1].source = code[1].source.replace("steps}", 'steps, "data.images": 1200}')
    copy = tmp_path / make.QUICKSTART.name
    nbformat.write(few, copy)
    make.render(copy, tmp_path / "made.ipynb")
    made = nbformat.read(tmp_path / "made.ipynb", as_version=4)
    kinds = [
        kind
        for cell in made.cells
        for out in cell.get("outputs", [])
        for kind in out.get("data", {})
    ]
    assert kinds.count("image/png") >= 5
    assert kinds.count("text/html") >= 3
    assert (tmp_path / "my_vae/model.py").exists()
    code = [cell for cell in committed.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert str(ROOT) not in make.QUICKSTART.read_text()


@pytest.mark.filterwarnings("ignore")
def test_a_cell_that_raises_is_an_error(tmp_path):
    broken = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")])
    broken.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(broken, tmp_path / "00_broken.ipynb")
    with pytest.raises(Exception, match="ZeroDivisionError"):
        make.render(tmp_path / "00_broken.ipynb", tmp_path / "made.ipynb")


@pytest.mark.long
def test_the_smallest_sweep_comes_out_as_committed(smoke):
    again, committed = published.load(smoke), published.load(RESULTS / "smoke")
    both = [each.results.finals.set_index("run_id") for each in (again, committed)]
    assert sorted(both[0].index) == sorted(both[1].index)
    for column, off in (("test/psnr", 0.05), ("test/bits_per_dim_calibrated", 0.01)):
        found, expected = (frame[column].sort_index() for frame in both)
        # other processors round otherwise
        assert found.to_numpy() == pytest.approx(expected.to_numpy(), abs=off)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_committed_notebook_is_executed(notebook):
    made = nbformat.read(notebook, as_version=4)
    nbformat.validate(made)
    code = [cell for cell in made.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code if cell.source)
    outputs = [out for cell in code for out in cell.outputs]
    assert not [out for out in outputs if out.output_type == "error"]
    assert any("image/png" in out.get("data", {}) for out in outputs)
    text = notebook.read_text()
    assert str(ROOT) not in text
    assert "papermill" not in made.metadata


def markdown(notebook: Path) -> str:
    """What its cells have put out as Markdown."""
    made = nbformat.read(notebook, as_version=4)
    outputs = [out for cell in made.cells for out in cell.get("outputs", [])]
    return "\n".join(out.get("data", {}).get("text/markdown", "") for out in outputs)


def test_the_committed_notebooks_say_what_the_tables_say():
    committed = Study(RESULTS)
    *questions, last, _ = map(markdown, NOTEBOOKS)
    for text, answer in zip([last, *questions], answers.QUESTIONS, strict=True):
        assert answer(committed).sentence in text
    assert pages.front(committed) in last
    for entry in ledger(committed):
        assert f"**{entry.verdict}**: {entry.because}" in last
        assert all(line in last for line in entry.lines)


def test_every_experiment_is_published():
    committed = Study(RESULTS)
    for name in make.EXPERIMENTS:
        table = committed.of(name)
        assert (table.results.finals["status"] != "running").all()
        assert f"experiments={name}" in table.about["command"]
        assert table.about["commit"]


def test_the_pages_say_what_the_tables_say():
    committed, page = Study(RESULTS), make.PAGE.read_text()
    assert make.front_page(page, committed) == page
    assert pages.front(committed) in page
    assert make.ANSWERS.read_text() == pages.page(committed)


def test_the_list_of_grids_says_what_they_cost():
    costs = make.LIST.read_text()
    assert make.cost_list(costs, Study(RESULTS)) == costs


def test_each_experiment_has_one_place_for_its_images():
    assert make.data_set("original") == "cifar10"
    assert make.data_set("smoke") == "dead_leaves"


@pytest.mark.parametrize("word", ["sweep=mine", "experiments=smoke", "+runs=there"])
def test_what_would_change_the_published_runs_is_refused(word):
    with pytest.raises(UserError, match=re.escape(f"got {word}; leave it out")):
        make.check({}, ["train.steps=4", word])
    with pytest.raises(UserError, match="names its own sweeps"):
        make.check({"cifar10": make.Place([word], None)}, [])


def test_a_study_with_other_options_has_sweeps_of_its_own():
    assert make.sweep_of("core", []) == "core"
    longer = make.sweep_of("core", ["train.steps=20000"])
    assert longer.startswith("core-")
    assert longer != make.sweep_of("core", ["train.steps=30000"])


def test_a_data_set_has_one_place():
    with pytest.raises(UserError, match="got two of cifar10"):
        make.placed([["cifar10", "data.path=a"], ["cifar10", "data.path=b"]])


def test_a_quote_that_is_not_closed_is_said():
    with pytest.raises(UserError, match="No closing quotation"):
        make.placed([["cifar10", "data.path='photos"]])


@pytest.mark.filterwarnings("ignore")
def test_a_notebook_that_fails_is_left_as_it_was(tmp_path):
    cell = nbformat.v4.new_code_cell("1 / 0")
    notebook = tmp_path / "fails.ipynb"
    kernel = {"name": "python3", "display_name": "Python", "language": "python"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    made = nbformat.v4.new_notebook(cells=[cell], metadata=metadata)
    nbformat.write(made, notebook)
    before = notebook.read_bytes()
    with pytest.raises(papermill.PapermillExecutionError):
        make.render(notebook, notebook)
    assert notebook.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["fails.ipynb"]


def test_a_place_is_options_and_a_name(monkeypatch):
    monkeypatch.setattr(make, "EXPERIMENTS", ("original",))
    found = make.placed([["cifar10", "data=image_folder data.path='a b'", "re-encoded"]])
    options = ["data=image_folder", "data.path=a b"]
    assert found == {"cifar10": make.Place(options, "re-encoded")}
    for wrong in (["mnist", "data=npz"], ["cifar10"], ["cifar10", "a", "b", "c"]):
        with pytest.raises(UserError, match=r"--place takes one of cifar10"):
            make.placed([wrong])


def test_make_hands_places_on_as_they_were_typed():
    place, name = 'data=image_folder data.path="it\'s, here"', 'my "own", 2'
    command = ["make", "-n", "study", f"CIFAR={place}", f"CIFAR_NAME={name}"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    words = shlex.split(said.stdout.replace("\\\n", " "))
    at = words.index("--place")
    assert words[at : at + 4] == ["--place", "cifar10", place, name]
    assert words.count("--place") == 1
