from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from hydra_plugins.vae_sweep_launcher.grid_sweeper import union
from vae_sweep.command import experiments
from vae_sweep.errors import UserError

STUDY = (
    *("core", "balance", "original", "latents16", "without_batch_norm", "output_init"),
    *("input_target", "residual", "mnist", "likelihoods", "warmup"),
)


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Writes ./experiments/NAME.yaml."""
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "mine") -> Path:
        path = tmp_path / "experiments" / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write


def jobs(*typed: str) -> list[list[str]]:
    overrides = OverridesParser.create().parse_overrides(list(typed))
    return [sorted(job) for job in union(overrides)]


UNION = """
common: seed=0,1
grids:
  - norm=unit,zscore head=tanh
  - norm=zscore head=tanh,linear beta=0.5
  - norm=unit head=tanh
"""


def test_a_union_of_grids_has_each_point_once(mine):
    mine(UNION)
    made = jobs("experiments=mine")
    assert len(made) == 4 + 4
    assert len({tuple(job) for job in made}) == 8
    common = ["experiments=mine", "sweep=mine"]
    assert sorted([*common, "head=tanh", "norm=unit", "seed=1"]) in made
    beta = ("beta=constant", "beta.value=0.5")
    assert sorted([*common, *beta, "head=linear", "norm=zscore", "seed=0"]) in made


def test_what_is_typed_beside_it_overrules_the_file(mine):
    mine(UNION)
    made = jobs("experiments=mine", "seed=7", "norm=raw255", "sweep=other", "beta=warmup")
    assert [sorted(job) for job in made] == [
        sorted(
            ["experiments=mine", "beta=warmup", "norm=raw255", "seed=7", "sweep=other", h]
        )
        for h in ("head=tanh", "head=linear")
    ]


@pytest.mark.parametrize(
    ("line", "typed", "point"),
    [
        (  # of other images, the same ones of them, and the same numbers
            "data=mnist data.binarize=true data.val_images=400",
            "data=npz data.path=m.npz",
            "data=npz data.binarize=True data.path=m.npz data.val_images=400",
        ),
        (
            "model=small model.norm_layer=batch model.latent=64",
            "model=residual",
            "model=residual model.norm_layer=batch model.latent=64",
        ),
        (
            "model=small model.norm_layer=batch model.latent=64",
            "model=linear",
            "model=linear model.latent=64",
        ),
        ("beta=matched beta.sigma=30 beta.fraction=0", "beta=2", "beta=2"),
        ("beta=warmup beta.value=1 beta.fraction=0", "beta=4", "beta=4"),
        ("beta=matched beta.sigma=30", "beta=matched", "beta=matched beta.sigma=30"),
        ("beta=warmup beta.fraction=0", "beta=matched", "beta=matched beta.fraction=0"),
        ("log.wandb.mode=offline", "log=[]", "log=[]"),
    ],
)
def test_other_keys_stay_where_the_option_typed_has_them(mine, line, typed, point):
    mine(f"grids: [{line!r}]")
    [made] = jobs("experiments=mine", *typed.split())
    assert {"experiments=mine", "sweep=mine", *point.split()} <= {*made}
    assert len(made) == 2 + len(point.split())


def test_a_key_stays_in_the_points_whose_option_has_it(mine):
    mine("grids: ['beta=matched beta.sigma=30']")
    made = jobs("experiments=mine", "beta=1,matched")
    common = ["experiments=mine", "sweep=mine"]
    assert made == [
        sorted([*common, "beta=constant", "beta.value=1"]),
        sorted([*common, "beta=matched", "beta.sigma=30"]),
    ]


def test_a_number_typed_under_beta_replaces_the_files_value(mine):
    mine("grids: ['beta=warmup beta.value=4 beta.fraction=0']")
    made = jobs("experiments=mine", "beta=1,warmup")
    common = ["experiments=mine", "sweep=mine"]
    assert made == [
        sorted([*common, "beta=constant", "beta.value=1"]),
        sorted([*common, "beta=warmup", "beta.fraction=0"]),
    ]


def test_several_experiments_keep_to_their_sweeps(mine):
    mine(UNION, "one")
    mine("grids: [norm=unit]", "two")
    made = jobs("experiments=one,two")
    assert len(made) == 9
    assert ["experiments=two", "norm=unit", "sweep=two"] in made


def test_without_an_experiment_the_grid_is_the_one_typed():
    assert jobs("norm=unit,zscore", "seed=3") == [
        ["norm=unit", "seed=3"],
        ["norm=zscore", "seed=3"],
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("grids: []", "got no line in grids"),
        ("points: [norm=unit]", "grids"),
        ("grids: norm=unit", "list"),
        ("- norm=unit", "grids"),
        ("grids: ['norm=\"unit']", "quotation"),
        ("grids: [norm", "grids"),
        ("{grids: [norm=unit, norm=zscore], about: [{a: 1}]}", "1 in about beside 2 in"),
        ("{grids: [norm=unit], about: 3}", "about: 3"),
        ("grids: [norm=unit]\ngrids: [norm=zscore]", "'grids' 2 times in line 1"),
    ],
)
def test_a_file_that_is_none_is_refused_in_a_line(mine, text, said):
    path = mine(text)
    with pytest.raises(UserError, match=said) as refused:
        experiments.load("mine")
    assert str(path.name) in str(refused.value)


def test_about_is_of_each_grid_and_running_ignores_it(mine):
    path = mine("{grids: [norm=unit, norm=zscore], about: [{from: here}, {from: there}]}")
    assert experiments.load("mine") == [
        ["sweep=mine", "norm=unit"],
        ["sweep=mine", "norm=zscore"],
    ]
    assert experiments.read(path).about == [{"from": "here"}, {"from": "there"}]


@pytest.mark.parametrize(
    "text",
    [
        "grids: ['experiments=smoke']",
        "grids: ['norm=unit sweep=other']",
        "{common: 'experiments=smoke', grids: ['norm=unit']}",
    ],
)
def test_a_line_that_would_lead_elsewhere_is_refused(mine, text):
    mine(text)
    with pytest.raises(UserError, match="remove it"):
        experiments.load("mine")


def test_the_sweep_may_be_named_for_all(mine):
    mine("{common: 'sweep=other', grids: ['norm=unit']}")
    assert experiments.load("mine") == [["sweep=other", "norm=unit"]]


def test_an_unknown_name_lists_the_known(mine):
    mine(UNION)
    with pytest.raises(UserError, match="mine") as refused:
        experiments.load("q9")
    assert all(name in str(refused.value) for name in STUDY)


def test_a_users_own_hides_ours(mine):
    mine("grids: [norm=unit]", "original")
    assert experiments.load("original") == [["sweep=original", "norm=unit"]]


@pytest.mark.parametrize("name", STUDY)
def test_the_study_has_five_seeds_and_says_what_it_expects(name):
    path = experiments.available()[name]
    header = path.read_text().partition("common:")[0]
    assert "Hypothesis:" in header
    assert "Theory" in header
    assert "Margins:" in header
    by_point: dict[tuple[str, ...], int] = {}
    for job in jobs(f"experiments={name}"):
        point = tuple(line for line in job if not line.startswith("seed="))
        by_point[point] = by_point.get(point, 0) + 1
    assert min(by_point.values()) >= 5
