"""data.binarize: images of ours, drawn black and white."""

import numpy as np
import pytest
import torch
from helpers import TINY, make_config, make_images, prepared
from torch import Tensor

from vae_sweep import grid
from vae_sweep.config import RunConfig
from vae_sweep.data import dataset
from vae_sweep.records.summary import Summary
from vae_sweep.training.batches import Feed
from vae_sweep.training.device import limited_threads
from vae_sweep.training.prepare import Prepared
from vae_sweep.training.step import Trainer


@pytest.fixture
def config_of(tmp_path):
    """Configs on 60 small images in an npz, 49 of them to train on."""

    def made(*overrides: str, images: Tensor | None = None) -> RunConfig:
        images = make_images(60, 1, 4) if images is None else images
        np.savez(tmp_path / "gray.npz", images=images[:, 0].numpy())
        where = ("data=npz", f"data.path={tmp_path}/gray.npz", f"data.cache={tmp_path}/c")
        more = (f"runs={tmp_path}/runs", "train.steps=12", "data.binarize=true")
        return make_config(*TINY, *where, *more, *overrides)

    return made


def trainer_of(*points: Prepared) -> Trainer:
    made = points[0].dataset
    configs, constants = [p.config for p in points], [p.point for p in points]
    return Trainer(configs, constants, made.images.train, "cpu", random=made.random)


def test_a_pixel_is_white_with_its_levels_probability(config_of):
    levels = torch.tensor([0, 1, 64, 128, 200, 254, 255], dtype=torch.uint8)
    images = levels[:, None, None, None].expand(7, 1, 8, 8).contiguous()
    images = images.repeat(9, 1, 1, 1)
    random = dataset.load(config_of(images=images).data).random
    assert random is not None
    index, steps = torch.arange(len(random.images)), 400
    drawn = torch.stack([random.batch(index, 0, step) for step in range(steps)])
    assert set(drawn.unique().tolist()) == {0, 1}
    for level in levels.tolist():
        u = level / 255
        values = drawn[:, random.images[:, 0, 0, 0] == level]
        error = (u * (1 - u) / values.numel()) ** 0.5
        assert abs(values.mean().item() - u) <= 4.5 * error
    # neighbors, and one pixel from step to step, are drawn apart
    half = drawn[:, random.images[:, 0, 0, 0] == 128].flatten(2) - 128 / 255
    assert abs((half[..., 1:] * half[..., :-1]).mean()) < 0.01
    assert abs((half[1:] * half[:-1]).mean()) < 0.01


def test_evaluation_sees_one_draw_and_others_none(config_of):
    first, again = (dataset.load(config_of().data) for _ in range(2))
    gray = dataset.load(config_of("data.binarize=false").data)
    assert first.fingerprint == again.fingerprint != gray.fingerprint
    assert gray.random is None
    assert first.random is not None
    assert torch.equal(first.random.images, gray.images.train)
    for a, b in zip(first.images, again.images, strict=True):
        assert torch.equal(a, b)
        assert set(a.unique().tolist()) == {0, 255}


def test_points_of_one_seed_see_the_same_draws(config_of):
    overrides = ((), ("head=tanh", "norm=unit"), ("seed=1",))
    points = prepared(config_of(*o) for o in overrides)
    configs, constants = [p.config for p in points], [p.point for p in points]
    feed = Feed(configs, constants, 49, 12, points[0].dataset.random)
    assert feed.seeds == [0, 1]
    u = feed.block(0, 4).images  # [K, S, B, ...]
    assert torch.equal(u[:, 0], Feed(configs[1:2], constants[1:2], 49, 12, feed.random)
                       .block(0, 4).images[:, 0])  # fmt: skip
    assert not torch.equal(u[:, 0], u[:, 1])
    assert len({step.numpy().tobytes() for step in u[:, 0]}) == 4


def test_a_run_resumes_bit_for_bit(config_of):
    points = prepared(config_of(f"seed={seed}") for seed in range(2))
    whole = trainer_of(*points)
    for _ in range(7):
        whole.update()
    resumed = trainer_of(*points)
    resumed.restore([whole.state(r) for r in range(2)])
    for _ in range(5):
        whole.update()
        resumed.update()
    for r in range(2):
        a, b = whole.state(r).tensors, resumed.state(r).tensors
        assert a.keys() == b.keys()
        assert all(torch.equal(value, b[name]) for name, value in a.items())


def test_the_run_id_is_as_before_without_it(config_of):
    assert config_of("data.binarize=false").run_id != config_of().run_id
    assert "binarize" not in config_of("data.binarize=false").decisive["data"]


@pytest.mark.parametrize(("levels", "said"), [(255, "changes nothing"), (200, "anew")])
def test_a_line_says_what_it_does(config_of, levels, said, capsys):
    images = torch.zeros(60, 1, 4, 4, dtype=torch.uint8)
    images[:, :, 1] = levels
    prepared([config_of(images=images)])
    assert said in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes_draw_as_one_does(config_of, tmp_path):
    files = []
    for workers in (1, 2):
        common = (f"sweep=w{workers}", "train.cohort=1", f"train.workers={workers}")
        common += ("train.importance_samples=3",)
        configs = [config_of(*common, f"seed={seed}") for seed in range(2)]
        with limited_threads(1):
            ended = grid.run(configs)
        assert [e.status for e in ended if isinstance(e, Summary)] == 2 * ["finished"]
        files.append([(c.run_dir / "metrics.csv").read_bytes() for c in configs])
    assert files[0] == files[1]
