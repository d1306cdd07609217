import json
import math

import pytest
import torch
from helpers import TINY, make_config, make_images

from vae_sweep.training.tune import Tuner, best_size, convolutions, tune_layers
from vae_sweep.vae import networks
from vae_sweep.vae.cohort import Cohort
from vae_sweep.vae.layers import WAYS
from vae_sweep.vae.normalize import histograms
from vae_sweep.vae.point import point

CPU = torch.device("cpu")
IMAGES = make_images(16)


def cohort_of(*overrides: str) -> Cohort:
    configs = [make_config(*TINY, *overrides, f"seed={seed}") for seed in (0, 1)]
    points = [point(config, histograms(IMAGES), 64) for config in configs]
    return Cohort(configs, points, (3, 8, 8))


class Costs(Tuner):
    """A tuner whose clock follows a table: seconds by the name of the way."""

    def __init__(self, cache, costs):
        super().__init__(cache, CPU)
        self.costs, self.timed = costs, 0

    def fastest(self, ways):
        self.timed += 1
        for run in ways.values():
            run()  # each must work
        return min(ways, key=lambda way: self.costs[way])


@pytest.mark.parametrize("best", WAYS)
def test_every_layer_gets_what_was_fastest_and_it_is_timed_once(
    tmp_path, best, monkeypatch
):
    monkeypatch.setattr(networks, "separate", lambda x: x)  # as on CUDA
    costs = {way: 1.0 + (way != best) for way in WAYS}
    tuner, cohort = Costs(tmp_path, costs), cohort_of("model.norm_layer=batch")
    before = {name: t.clone() for name, t in cohort.state_dict().items()}
    tune_layers(cohort, IMAGES, tuner)
    assert [conv.way for conv in convolutions(cohort)] == [best] * 4
    assert tuner.timed == 4
    after = cohort.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    again = Costs(tmp_path, dict.fromkeys(WAYS, 0.0))
    other = cohort_of("model.norm_layer=batch")
    tune_layers(other, IMAGES, again)
    assert again.timed == 0
    assert [conv.way for conv in convolutions(other)] == [best] * 4


def test_what_was_timed_is_kept_by_device_and_survives_damage(tmp_path):
    file, answers = tmp_path / "tuning.json", ("x", "y")
    Tuner(tmp_path, CPU).remember("a", lambda: "x", answers)
    [(where, kept)] = json.loads(file.read_text())["content"].items()
    assert where == f"cpu, torch {torch.__version__}"
    assert kept == {"a": "x"}
    assert Tuner(tmp_path, CPU).remember("a", lambda: "y", answers) == "x"
    assert Tuner(tmp_path, CPU).remember("a", lambda: "y", ("y",)) == "y"  # "x" is none
    altered = file.read_text().replace('"a": "y"', '"a": "x"')
    for content in ("{torn", "", "[]", "{}", '{"content": {}}', "[" * 10**5, altered):
        file.write_text(content)
        assert Tuner(tmp_path, CPU).remember("a", lambda: "y", answers) == "y"


def test_two_processes_keep_what_both_timed(tmp_path):
    one, other = Tuner(tmp_path, CPU), Tuner(tmp_path, CPU)
    one.remember("a", lambda: "x", ("x",))
    other.remember("b", lambda: "y", ("y",))
    [kept] = json.loads((tmp_path / "tuning.json").read_text())["content"].values()
    assert kept == {"a": "x", "b": "y"}


def test_a_tuning_file_that_cannot_be_written_stops_nothing(tmp_path):
    (tmp_path / "cache").write_text("no folder")
    assert Tuner(tmp_path / "cache", CPU).remember("a", lambda: "x", ("x",)) == "x"
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_a_way_without_memory_is_never_the_fastest(tmp_path):
    def full() -> None:
        raise torch.OutOfMemoryError

    tuner = Tuner(tmp_path, CPU)
    assert tuner.seconds(full) == math.inf
    assert tuner.fastest({"full": full, "fits": lambda: None}) == "fits"


def test_a_cohort_grows_while_its_step_per_run_gets_cheaper():
    launch_bound = {8: 1.0, 16: 1.05, 32: 1.2, 64: 2.3, 128: 4.6}
    assert best_size(launch_bound, lambda n: launch_bound[n]) == 32
    assert best_size([8, 16], lambda n: 1.0) == 16
    assert best_size([8, 16, 32], lambda n: math.inf if n > 8 else 1.0) == 8
    assert best_size([3], lambda n: 1.0) == 3
