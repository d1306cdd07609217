"""The object of a name, and what is said where there is none."""

import hashlib
import subprocess
import sys

import pytest
from helpers import make_config

from vae_sweep import options
from vae_sweep.config import own_keys, validate
from vae_sweep.errors import UserError


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a user's module, of a name that no other test imports, into the working
    folder; returns its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def write(source: str, name: str = "own") -> str:
        unique = f"{name}_{tmp_path.name.replace('-', '_')}"
        (tmp_path / f"{unique}.py").write_text(source)
        return unique

    return write


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("mine:HEAD", True),
        ("a.b_2:Head", True),
        ("tanh", False),
        ("mine:", False),
        (":HEAD", False),
        ("mine:a.b", False),
        ("mine:HEAD,other:HEAD", False),
        ("../mine:HEAD", False),
        ("mine :HEAD", False),
        ("2mine:HEAD", False),
        (3, False),
    ],
)
def test_module_colon_object_is_a_users(name, own):
    assert options.is_own(name) is own


def test_a_module_is_digested_without_being_imported(module):
    name = module("raise SystemExit('imported')")
    expected = hashlib.sha256(b"raise SystemExit('imported')").hexdigest()
    assert options.sha256(name) == expected
    assert name not in sys.modules


@pytest.mark.parametrize(
    ("source", "attribute", "said"),
    [
        ("x = 1\nundefined", "HEAD", r"NameError in own_\w+.py, line 2"),
        ("def f(:\n", "HEAD", r"SyntaxError in own_\w+.py, line 1"),
        ("import not_there_at_all", "HEAD", r"line 1: No module named 'not_there_at_all'"),
        ("raise SystemExit(3)", "HEAD", "SystemExit"),
        ("SOFTSIGN = 1", "SOFTSIN", r"has no SOFTSIN; did you mean own_\w+:SOFTSIGN\?"),
        ("", "HEAD", "has no HEAD; define it there"),
    ],
)
def test_what_cannot_be_had_is_said_with_its_line(module, source, attribute, said):
    name = module(source)
    with pytest.raises(UserError, match=said) as error:
        make_config(f"head={name}:{attribute}")
    assert f"head={name}:{attribute}" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_module_that_is_not_there_is_said(module):
    with pytest.raises(UserError, match=r"no module nowhere: it must be nowhere.py"):
        make_config("head=nowhere:HEAD")
    with pytest.raises(UserError, match="must be a file of Python"):
        make_config("head=math:sin")


def test_an_object_of_another_kind_is_said_with_its_line(module):
    from vae_sweep.vae import heads, likelihoods, normalize

    name = module("x = 1\n\nHEAD = 3\ndef f(a): ...\nclass C: ...\n")
    for named, attribute, said in (
        (heads.named, "HEAD", "a Head.*got a int .*line 3"),
        (heads.named, "f", "a Head.*got the function f .*line 4"),
        (likelihoods.named, "C", "a Likelihood, .*got the class C .*line 5"),
        (normalize.named, "HEAD", "a function: level counts.*got a int"),
    ):
        with pytest.raises(UserError, match=said):
            named(f"{name}:{attribute}")


def test_the_source_is_part_of_a_run_and_is_recorded(tmp_path):
    """An edited head is another run."""
    ids = []
    for content in ("H = Head(torch.tanh, -1, 1)", "H = Head(torch.sin, -1, 1)"):
        source = f"import torch\nfrom vae_sweep import Head\n{content}\n"
        (tmp_path / "mine.py").write_text(source)
        code = (
            "from helpers import make_config; c = make_config('head=mine:H'); "
            "print(c.run_id, c.sources['mine'])"
        )
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path = {[*sys.path, '.']}; {code}"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        run_id, digest = done.stdout.split()
        assert digest == hashlib.sha256(source.encode()).hexdigest()
        assert run_id.startswith("zscore-h-b1-s0-")
        ids.append(run_id)
    assert ids[0] != ids[1]


def test_records_are_read_without_the_module(module):
    from vae_sweep.config import validate_recorded

    name = module("from vae_sweep import Head\nimport torch\nH = Head(torch.sin, -1, 1)")
    config = make_config(f"head={name}:H")
    recorded = config.model_dump(mode="json")
    recorded["head"], recorded["sources"] = "gone:H", {"gone": config.sources[name]}
    found, unknown = validate_recorded(recorded)
    assert (found.head, unknown) == ("gone:H", [])
    assert found.run_id.startswith("zscore-h-b1-s0-")


def test_keyword_parameters_are_keys_checked_by_their_annotations(module):
    name = module(
        "class Net:\n"
        "    def __init__(self, shape, latent=12, *, blocks: int = 2, act: str = 'relu'):\n"
        "        ...\n"
    )
    net = f"{name}:Net"
    assert own_keys("model", net) == [
        *("model.name", "model.output_init", "model.latent"),
        *("model.blocks", "model.act"),
    ]
    config = make_config(f"model={net}")
    assert (config.model.latent, config.model.parameters) == (  # pyright: ignore
        *(12, {"blocks": 2, "act": "relu"}),
    )
    more = make_config(f"model={net}", "model.blocks=3")
    assert more.model.parameters["blocks"] == 3  # pyright: ignore
    assert more.run_id != config.run_id
    values = more.model_dump(mode="json")
    for changes, said in (
        ({"blocks": "three"}, "^model.blocks: must be a whole number, got 'three'$"),
        ({"blocks": 1.5}, "^model.blocks: must be a whole number, got 1.5$"),
        ({"block": 3}, "^unknown key model.block; did you mean model.blocks"),
        ({"latent": 0}, "^model.latent: must be greater than or equal to 1"),
    ):
        with pytest.raises(UserError, match=said):
            validate({**values, "model": {**values["model"], **changes}})


def test_parameters_that_cannot_be_keys_are_said(module):
    name = module(
        "def latent(shape, latent, *, cache: int): ...\n"
        "def odd(*, sigma: object.__subclasses__): ...\n"
        "def undefined(*, sigma: 'Nope'): ...\n"
        "def taken(*, name: str): ...\n"
    )
    with pytest.raises(UserError, match=r"line 2.*cannot be keys"):
        own_keys("beta", f"{name}:odd")
    with pytest.raises(UserError, match=r"line 3.*cannot be read: NameError"):
        own_keys("beta", f"{name}:undefined")
    with pytest.raises(UserError, match="parameter name is a key of every beta"):
        own_keys("beta", f"{name}:taken")


# --- files of ./conf ---


def write(folder, group: str, name: str, content: str):
    (folder / "conf" / group).mkdir(parents=True, exist_ok=True)
    (folder / "conf" / group / f"{name}.yaml").write_text(content)


def test_files_of_conf_stand_beside_ours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert options.own_files("head") == {}
    write(tmp_path, "head", "soft", "# @package _global_\nhead: mine:SOFT\n")
    write(tmp_path, "head", "other", "name: mine:OTHER\n")
    write(tmp_path, "model", "deep", "name: mine:Net\nblocks: 8\n")
    assert sorted(options.own_files("head")) == ["other", "soft"]
    content = options.read_file("model", options.own_files("model")["deep"])
    assert content == {"name": "mine:Net", "blocks": 8}


@pytest.mark.parametrize(
    "content",
    ["driver: mysql", "- a\n- b", "head: tanh", "name: 3", "{", "", "head: {x: y}", "\0"],
)
def test_a_foreign_conf_changes_nothing(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "head", "tanh", content)
    write(tmp_path, "db", "mysql", "name: mine:HEAD")
    assert options.own_files("head") == {}
    assert make_config("head=tanh").head == "tanh"


def test_a_file_named_like_one_of_ours_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "head", "tanh", "head: mine:SOFT")
    with pytest.raises(UserError, match=r"conf/head/tanh.yaml has the name .*rename it"):
        options.own_files("head")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            "def f(*, name: str): ...",
            "parameter name is a key of every beta; rename it",
        ),
        (
            "def f(*, k=object()): ...",
            "parameter k must have a default that can be typed",
        ),
        ("import numpy as np\ndef f(*, k=np.ones(3)): ...", "line 2.*got a ndarray"),
    ],
)
def test_parameters_that_no_key_can_be_are_said(module, source, said):
    with pytest.raises(UserError, match=said):
        own_keys("beta", f"{module(source)}:f")


def test_lists_may_be_tuples(module):
    name = module(
        "from vae_sweep import Schedule\n"
        "def f(*, ends: tuple[float, float] = (0.5, 1.0)): return Schedule(1.0)\n"
    )
    config = make_config(f"beta={name}:f")
    assert make_config(f"beta={name}:f", "beta.ends=[0.5,1]").run_id == config.run_id
    assert make_config(f"beta={name}:f", "beta.ends=[0.5,2]").run_id != config.run_id
    with pytest.raises(UserError, match=r"^beta\.ends"):
        make_config(f"beta={name}:f", "beta.ends=[0.5]")
