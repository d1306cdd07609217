"""What is typed after a command, before Hydra sees it."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from hydra_plugins.vae_sweep_launcher.grid_sweeper import union
from vae_sweep import options
from vae_sweep.command import arguments
from vae_sweep.config import keys
from vae_sweep.errors import UserError


def jobs(*typed: str) -> list[list[str]]:
    """The points of a command line, as the sweeper makes them."""
    parser = OverridesParser.create()
    return union(parser.parse_overrides(arguments.read(list(typed)).lines))


@pytest.mark.parametrize(
    "typed",
    [
        ["-m", "norm=unit", "seed=1,2"],
        ["norm=unit", "-m", "seed=1,2"],
        ["norm=unit", "seed=1,2", "--multirun"],
        ["-m", "norm=unit", "-m", "seed=1,2", "--multirun"],
        ["norm=unit", "seed=1,2"],
    ],
)
def test_m_may_stand_anywhere_or_nowhere(typed):
    assert arguments.read(typed).argv() == ["--multirun", "norm=unit", "seed=1,2"]


@pytest.mark.parametrize(
    ("typed", "argv"),
    [
        (["seed=1", "--cfg", "job", "norm=unit"], ["--cfg=job", "seed=1", "norm=unit"]),
        (["seed=1", "-c", "all"], ["-c", "all", "seed=1"]),
        (["--cfg=hydra", "--resolve"], ["--cfg=hydra", "--resolve"]),
        (["--info"], ["--info=all"]),
        (["--hydra-help"], ["--hydra-help"]),
        (["-sc", "query=bash"], ["-sc", "query=bash"]),
        (["hydra.mode=RUN", "seed=1"], ["hydra.mode=RUN", "seed=1"]),
    ],
)
def test_hydras_flags_reach_it_before_the_options(typed, argv):
    assert arguments.read(typed).argv() == argv


WRONG = {
    ("train.step=20",): "unknown option train.step; did you mean train.steps?",
    ("train.stps=20", "-m"): "unknown option train.stps; did you mean train.steps?",
    ("+typo=1",): "unknown option typo; --options",
    ("++trian.lr=1",): "did you mean train.lr?",
    ("nrm=unit",): "unknown option nrm; did you mean norm?",
    ("nrm=unit,zscore",): "unknown option nrm; did you mean norm?",
    ("norm=zscor",): "unknown option norm=zscor; did you mean zscore?",
    ("norm=unit,zscor",): "unknown option norm=zscor; did you mean zscore?",
    ("norm=choice(unit,zscor)",): "did you mean zscore?",
    ("NORM=unit",): "did you mean norm?",
    ("lr=0.1",): "unknown option lr; did you mean train.lr?",
    ("train/lr=0.1",): "did you mean train.lr?",
    ("data.pth=x",): "did you mean data.path?",
    ("norm.x=1",): "unknown option norm.x; a norm has no keys of its own",
    ("norm=null",): "norm takes one of minus1_1, raw255, unit",
    ("train=null",): "train takes one of default",
    ("head=1",): "unknown option head=1",
    ("beta=true",): "unknown option beta=true; beta takes a number, or one of constant",
    ("beta=",): "beta takes a number, or one of constant",
    ("norm=[zscore,unit]",): "commas without brackets make a grid",
    ("data={name: npz}",): "data takes one of",
    ("model=5",): "model takes one of conv, linear, mlp, ",
    ("norm=",): "there are minus1_1",
    ("norm=${head}",): "unknown option norm=${head}",
    ("~norm",): "every point has norm",
    ("~train.steps",): "every point has train.steps",
    ("+norm=unit",): "type norm=unit",
    ("+train.lr=1",): "type train.lr=1",
    ("norm@x=unit",): "type norm=...",
    ("norm",): "type norm=...",
    ("=3",): "an option is key=value",
    ("",): "an option is key=value",
    ("norm=[unit",): "cannot read the option norm=[unit",
    ("beta=0.5,",): "cannot read the option beta=0.5,; remove the comma at its end",
    ("norm=unit,",): "remove the comma at its end",
    ("sweep=größe",): "name it with letters a-z, A-Z, digits and . _ = , -",
    ("runs='a",): "check its quotes",
    ("--multirun=3",): "--multirun takes no value, got --multirun=3",
    ("-m=3",): "-m takes no value",
    ("runs=~/x,~/y",): "'runs=\"~/x,~/y\"'",
    ("seed=1\udc80",): "UTF-8",
    ("runs=a\0b",): "cannot read the option",
    ("seed=" + 5000 * "1",): "cannot read the option seed=111",
    ("sweep=" + 30_000 * "a",): "at most 20,000 characters",
    ("sweep=" + 5000 * "[",): "cannot read the option",
    ("--frob",): "unknown flag --frob",
    ("--multi",): "did you mean --multirun?",
    ("--experiments=core",): "options have no dashes: type experiments=core",
    ("--head", "tanh"): "options have no dashes: type head=...",
    ("--train.steps=5",): "options have no dashes: type train.steps=5",
    ("--options=3",): "--options takes no value",
    ("--cfg",): "--cfg takes job or hydra or all",
    ("--cfg", "foo"): "--cfg takes job or hydra or all, got 'foo'",
    ("--resolve",): "type --cfg job --resolve",
    ("--cfg", "job", "--info", "all"): "one thing is shown at a time",
    ("--cfg=job", "seed=1,2"): "one point is shown or run here, got seed=1,2",
    ("hydra.mode=RUN", "norm=unit,zscore"): "leave out hydra.mode=RUN",
    ("beta=interval(0,1)",): "type beta=range(START,STOP,STEP)",
    ("rerun=diverged,failed",): "set rerun=all",
}


@pytest.mark.parametrize("typed", WRONG)
def test_what_is_wrong_is_answered_with_what_is_right(typed):
    with pytest.raises(UserError) as refused:
        arguments.read(list(typed))
    assert WRONG[typed] in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "multirun to" not in str(refused.value)


@pytest.mark.parametrize("typed", ["runs=~/x", "data.path=~/my photos", "runs=~ada/x"])
def test_a_home_folder_needs_no_quotes(typed):
    key, _, value = typed.partition("=")
    [override] = OverridesParser.create().parse_overrides(arguments.read([typed]).lines)
    assert (override.key_or_group, override.value()) == (key, value)


def test_images_in_place_of_their_kind_are_answered_with_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "mine.npz").touch()
    for typed, kind in {"photos": "image_folder", "mine.npz": "npz"}.items():
        with pytest.raises(UserError, match=rf"data={kind} data.path={typed}$"):
            arguments.read([f"data={typed}"])


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("seed=range(1000000000000)", "at most 100,000 points"),
        ("seed=range(0,1,1e-300)", "at most 100,000 points"),
        ("seed=range(0,1,0)", "a step other than 0"),
        ("seed=range(inf)", "finite numbers"),
        ("seed=range(0,10,nan)", "finite numbers"),
        ("seed=range(5,1)", "at least one point"),
        ("seed=interval(0,1)", "an interval names no values"),
    ],
)
def test_a_grid_is_counted_before_it_is_made(typed, said):
    with pytest.raises(UserError, match=said):
        jobs(typed)


def test_the_product_of_axes_counts():
    with pytest.raises(UserError, match="at most 100,000 points"):
        jobs("seed=range(1000)", "train.lr=range(1,102)")
    assert len(jobs("seed=range(100)", "train.lr=range(1,11)")) == 1000


@pytest.mark.parametrize(
    ("typed", "betas"),
    [
        ("beta=0.5", ["beta=constant beta.value=0.5"]),
        ("beta=.5", ["beta=constant beta.value=.5"]),
        ("beta=1e-3,2", ["beta=constant beta.value=0.001", "beta=constant beta.value=2"]),
        (
            "beta=range(1,4)",
            [
                "beta=constant beta.value=1",
                "beta=constant beta.value=2",
                "beta=constant beta.value=3",
            ],
        ),
        ("beta=choice(1,2)", ["beta=constant beta.value=1", "beta=constant beta.value=2"]),
        ('beta="0.5"', ["beta=constant beta.value=0.5"]),
        ("beta='0.5',2", ["beta=constant beta.value=0.5", "beta=constant beta.value=2"]),
        ("beta=warmup", ["beta=warmup"]),
        ("beta=0.5,warmup", ["beta=constant beta.value=0.5", "beta=warmup"]),
        ("beta=choice(warmup,4)", ["beta=warmup", "beta=constant beta.value=4"]),
    ],
)
def test_numbers_are_constant_betas_beside_schedules_too(typed, betas):
    found = [" ".join(job) for job in jobs(typed)]
    assert [line.replace("=.5", "=0.5") for line in found] == [
        line.replace("=.5", "=0.5") for line in betas
    ]


CONDITIONAL = {
    ("beta=matched,constant", "beta.sigma=12"): [
        ["beta=matched", "beta.sigma=12"],
        ["beta=constant"],
    ],
    ("beta=constant,matched", "beta.sigma=12", "beta.value=3"): [
        ["beta=constant", "beta.value=3"],
        ["beta=matched", "beta.sigma=12"],
    ],
    ("beta=0.5,matched", "beta.sigma=12,24"): [
        ["beta=constant", "beta.value=0.5"],
        ["beta=matched", "beta.sigma=12"],
        ["beta=matched", "beta.sigma=24"],
    ],
    ("beta=warmup", "beta.value=1,2"): [
        ["beta=warmup", "beta.value=1"],
        ["beta=warmup", "beta.value=2"],
    ],
    ("model=small,linear", "model.widths=[4,8]"): [
        ["model=small", "model.widths=[4,8]"],
        ["model=linear"],
    ],
    ("data=dead_leaves,cifar10", "data.images=50"): [
        ["data=dead_leaves", "data.images=50"],
        ["data=cifar10"],
    ],
}


@pytest.mark.parametrize("typed", CONDITIONAL)
def test_a_key_goes_to_the_options_that_have_it(typed):
    assert jobs(*typed) == CONDITIONAL[typed]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["beta.value=2"], r"beta.value belongs to beta=.*, got beta=matched"),
        (["beta=2", "beta.sigma=12"], "belongs to beta=matched"),
        (["beta=warmup,constant", "beta.sigma=12"], "got beta=constant, beta=warmup"),
        (["model=linear", "model.depth=2"], "model.depth belongs to model=conv"),
        (["data.path=x"], "belongs to data=image_folder or data=npz"),
        (["beta=0.5,warmup", "beta.value=2"], "leave one of them out"),
    ],
)
def test_a_key_of_another_option_is_named_with_it(typed, said):
    with pytest.raises(UserError, match=said):
        jobs(*typed)


def test_an_experiment_is_checked_like_what_is_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    file = tmp_path / "experiments" / "mine.yaml"
    wrong = {
        "norm=zscor": "in experiments/mine.yaml: unknown option norm=zscor; did you mean",
        "train.step=3": "in experiments/mine.yaml: .*did you mean train.steps",
        "beta=interval(0,1)": "in experiments/mine.yaml: an interval names no values",
    }
    for line, said in wrong.items():
        file.write_text(f"grids: ['{line}']")
        with pytest.raises(UserError, match=said):
            jobs("experiments=mine")
    file.write_text("grids: ['beta=0.5,matched beta.sigma=12 head=tanh']")
    made = [
        sorted(line for line in job if "beta" in line) for job in jobs("experiments=mine")
    ]
    assert made == [
        ["beta.value=0.5", "beta=constant"],
        ["beta.sigma=12", "beta=matched"],
    ]
    file.write_text("grids: ['beta=matched head=tanh']")
    assert arguments.read(["experiments=mine", "beta.sigma=12"]).lines[1] == (
        "beta.sigma=choice(12)"  # Hydra would set it under the default option as well
    )
    [job] = jobs("experiments=mine", "beta.sigma=12")
    assert "beta.sigma=12" in job
    with pytest.raises(UserError, match="did you mean mine"):
        jobs("experiments=mne")
    with pytest.raises(UserError, match="without brackets: experiments=a,b"):
        jobs("experiments=[mine,smoke]")


def test_every_key_and_option_of_conf_is_known():
    """The types are what keys are held against; the files are what Hydra has."""
    import yaml

    for group, names in arguments.choices().items():
        assert group in keys()
        for name in names:
            content = yaml.safe_load((options.CONF / group / f"{name}.yaml").read_text())
            own = {k for k in content if k not in ("defaults", group)}
            if group == "metric":
                continue  # a list of names
            assert {f"{group}.{k}" for k in own} <= keys().keys(), name


def test_a_key_that_is_set_twice_is_said(capsys):
    """Hydra lets the last one count."""
    arguments.read(
        ["norm=unit", "seed=1", "train.lr=1", "norm=zscore", "seed=2", "train.lr=2"]
    )
    assert capsys.readouterr().err.splitlines() == [
        "warning: norm=unit is ignored: norm=zscore follows",
        "warning: seed=1 is ignored: seed=2 follows",
    ]
    arguments.read(["norm=unit,zscore", "seed=1", "train.lr=1", "train.lr=2"])
    assert capsys.readouterr().err == ""


# --- a user's own options in a grid ---

OWN = """
from vae_sweep import Schedule

def ramp(*, value: float = 1.0, share: float = 0.5):
    return Schedule(value)

def waves(*, value: float = 1.0, count: int = 3):
    return Schedule(value)
"""


@pytest.fixture
def own(tmp_path, monkeypatch) -> str:
    """A module of two schedules, in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    name = f"grid_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(OWN)
    return name


def points(*typed: str) -> list[list[str]]:
    """The lines of beta in each job, unescaped."""
    made = jobs(*arguments.read(list(typed)).lines)
    return [[x.replace("\\:", ":") for x in job if x.startswith("beta")] for job in made]


def test_keys_of_own_options_go_to_those_that_have_them(own):
    ramp, waves = f"{own}:ramp", f"{own}:waves"
    assert points(f"beta=constant,{ramp}", "beta.share=0.25,0.5") == [
        ["beta=constant"],
        [f"beta={ramp}", "beta.share=0.25"],
        [f"beta={ramp}", "beta.share=0.5"],
    ]
    assert points(f"beta={ramp},{waves}", "beta.share=0.25", "beta.count=2") == [
        [f"beta={ramp}", "beta.share=0.25"],
        [f"beta={waves}", "beta.count=2"],
    ]
    assert points(f"beta={waves},2", "beta.count=4,5") == [
        [f"beta={waves}", "beta.count=4"],
        [f"beta={waves}", "beta.count=5"],
        ["beta=constant", "beta.value=2"],
    ]
    with pytest.raises(UserError, match=r"did you mean beta\.share"):
        points(f"beta={ramp},{waves}", "beta.shere=1")


def test_an_own_word_stands_for_its_file(own, tmp_path):
    for group, content in {
        "beta": f"name: {own}:ramp\nshare: 0.125",
        "norm": f"norm: {own}:ramp",
    }.items():
        (tmp_path / "conf" / group).mkdir(parents=True)
        (tmp_path / "conf" / group / "mine.yaml").write_text(content)
    content, package = arguments.own_option("beta", "mine")
    assert (package, content) == (
        *("beta", {"name": f"{own}:ramp", "value": 1.0, "share": 0.125}),
    )
    named = ({"target": f"{own}:ramp"}, "_global_")  # a target is a norm
    assert arguments.own_option("target", "mine") == named
    assert points("beta=mine,constant", "beta.share=0.5")[0] == [
        *("beta=mine", "beta.share=0.5"),
    ]
    (tmp_path / "conf/norm/mine.yaml").write_text(f"norm: {own}:ramp\nfactor: 2")
    with pytest.raises(UserError, match="sets factor, but a norm has no keys"):
        arguments.own_option("norm", "mine")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("log=wandb,mine:L", r"brackets, got log=wandb,mine:L; type log=\[wandb,mine:L\]"),
        ("metric=default,mine:M", r"type metric=\[default,mine:M\]"),
        ("metric=[defalt]", "unknown option metric=defalt; did you mean default"),
        ("head=[tanh,mine:H]", "commas without brackets make a grid"),
        ("head.scale=3", "unknown option head.scale; a head has no keys"),
        ("head=mine:", "or your own by module:object"),
        ("train=mine:T", "unknown option train=mine:T; there are default$"),
    ],
)
def test_own_options_that_are_mistyped(typed, said):
    with pytest.raises(UserError, match=said):
        arguments.read([typed])


@pytest.mark.parametrize(
    "content", ["nam: mine:H", "name: tanh", "{", "", "- a", "name: 3"]
)
def test_a_file_that_names_no_option_is_said_where_it_is_chosen(
    content, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf/head").mkdir(parents=True)
    (tmp_path / "conf/head/bad.yaml").write_text(content)
    with pytest.raises(UserError, match=r"^conf/head/bad.yaml must say name: module"):
        arguments.read(["head=bad"])
    arguments.read(["head=tanh"])
