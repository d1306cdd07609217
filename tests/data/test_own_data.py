"""A user's own images against the arrays that were written into them."""

import itertools
import math
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
import torch
from helpers import TINY, load_images, make_config, prepared

from vae_sweep import grid
from vae_sweep.config import OwnData
from vae_sweep.data import dataset, own
from vae_sweep.data.random_transform import Random, fixed
from vae_sweep.errors import UserError
from vae_sweep.records.summary import Summary
from vae_sweep.testing import check_data
from vae_sweep.theory.prediction import predict
from vae_sweep.training.batches import Feed
from vae_sweep.training.device import limited_threads
from vae_sweep.training.prepare import Prepared
from vae_sweep.training.step import Trainer
from vae_sweep.vae.streams import Streams, stream

numbers = itertools.count()
HEADER = """\
import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, TensorDataset

def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)

def binarize(u, generator):
    return torch.bernoulli(u, generator=generator)

class Pictures(Dataset):
    def __init__(self, images, transform=lambda image: image):
        self.images, self.transform = images, transform
    def __len__(self):
        return len(self.images)
    def __getitem__(self, i):
        return self.transform(Image.fromarray(self.images[i])), i % 2
"""


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a user's module, which python finds; returns its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(code: str) -> str:
        name = f"own_images_{next(numbers)}"
        (tmp_path / f"{name}.py").write_text(HEADER + "\n" + dedent(code))
        return name

    return write


@pytest.fixture
def source(module):
    """The section of a config that names a function; its body is given."""

    def make(body: str, **changes) -> OwnData:
        name = module("def images(**keys):\n" + "".join(
            f"    {line}\n" for line in dedent(body).splitlines()
        ))  # fmt: skip
        return own_data(f"{name}:images", **changes)

    return make


def own_data(name: str, **changes) -> OwnData:
    common = {"val_images": None, "test_images": None, "cache": "cache"}
    return OwnData.model_validate({"name": name, **common, **changes})


def as_set(images: torch.Tensor) -> set[bytes]:
    return {image.tobytes() for image in images.permute(0, 2, 3, 1).numpy()}


def refused(config: OwnData, *parts: str) -> str:
    with pytest.raises(UserError) as caught:
        dataset.load(config)
    said = str(caught.value)
    assert said.count("\n") <= 1
    for part in (f"data={config.name}", *parts):
        assert part in said
    return said


# --- what a user's object may give ---


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        ("return pixels(40, 6, 5, 3)", (6, 5, 3)),
        ("return pixels(40, 6, 5, 1)", (6, 5, 1)),
        ("return pixels(40, 6, 5)", (6, 5, 1)),
        ("return {'train': pixels(40, 6, 5, 2)}", (6, 5, 2)),
        ("return torch.from_numpy(pixels(40, 6, 5, 3)).permute(0, 3, 1, 2)", (6, 5, 3)),
        ("return torch.from_numpy(pixels(40, 6, 5))", (6, 5, 1)),
        (
            "x = torch.from_numpy(pixels(40, 6, 5, 3)).permute(0, 3, 1, 2)\n"
            "return TensorDataset(x, torch.zeros(40))",
            (6, 5, 3),
        ),
        ("return TensorDataset(torch.from_numpy(pixels(40, 6, 5)))", (6, 5, 1)),
        ("return Pictures(pixels(40, 6, 5, 3))", (6, 5, 3)),
        ("return Pictures(pixels(40, 6, 5))", (6, 5, 1)),
        ("return {'train': Pictures(pixels(40, 6, 5), np.asarray)}", (6, 5, 1)),
        ("return Pictures(pixels(40, 6, 5, 3), np.asarray)", (6, 5, 3)),
    ],
)
def test_every_form_gives_the_same_images(source, body, shape, capsys):
    config = source(body, val_images=4, test_images=6)
    images = load_images(config)
    assert [len(split) for split in images] == [30, 4, 6]
    height, width, channels = shape
    assert all(split.shape[1:] == (channels, height, width) for split in images)
    expected = pixels(40, *shape)  # of one channel the same numbers as without
    written = {image.tobytes() for image in expected}
    assert set.union(*map(as_set, images)) == written
    line = f"{config.name}: train 40, val: 4 split off train, test: 6 split off train"
    assert line in capsys.readouterr().err


def test_a_dict_has_its_own_splits(source, capsys):
    config = source(
        "return {'train': pixels(9, 4, 4), 'val': Pictures(pixels(3, 4, 4, seed=1)),\n"
        "        'test': torch.from_numpy(pixels(5, 4, 4, seed=2))}"
    )
    train, val, test = load_images(config)
    assert as_set(train) == {i.tobytes() for i in pixels(9, 4, 4)}
    assert as_set(val) == {i.tobytes() for i in pixels(3, 4, 4, seed=1)}
    np.testing.assert_array_equal(test[:, 0], pixels(5, 4, 4, seed=2))
    assert f"{config.name}: train 9, val 3, test 5" in capsys.readouterr().err
    own_test = "return {'train': pixels(9, 4, 4), 'test': pixels(5, 4, 4)}"
    with pytest.raises(UserError, match=r"data\.test_images must be null"):
        load_images(source(own_test, test_images=2))


def test_a_class_is_called_and_a_dataset_is_taken_as_it_is(module):
    name = module("""
        class Blobs(Dataset):
            def __init__(self, n: int = 20, sizes: list[int] = [4]):
                self.images = pixels(n, *sizes * 2, seed=n)
            def __len__(self):
                return len(self.images)
            def __getitem__(self, i):
                return self.images[i]

        HELD = Blobs(24)
        """)
    images = load_images(own_data(f"{name}:Blobs", n=30, sizes=[5]))
    written = {i.tobytes() for i in pixels(30, 5, 5, seed=30)}
    assert set.union(*map(as_set, images)) == written
    images = load_images(own_data(f"{name}:HELD"))
    assert sum(map(len, images)) == 24


def test_typed_parameters_reach_the_function(module):
    name = module("def images(n: int, size: int = 4):\n    return pixels(n, size, size)")
    config = make_config(f"data={name}:images", "data.n=33", "data.size=6")
    images = load_images(config.data)
    assert sum(map(len, images)) == 33
    assert images.train.shape[2:] == (6, 6)
    with pytest.raises(UserError, match=r"data\.n.*whole number"):
        make_config(f"data={name}:images", "data.n=many")


def test_warnings_are_those_of_a_users_files(source, capsys):
    load_images(
        source("return {'train': pixels(9, 4, 4) % 2, 'test': pixels(9, 4, 4) % 2}")
    )
    err = capsys.readouterr().err
    assert "warning: no pixel of the train images is above 1 of 255" in err
    assert "test images are in train too" in err


def test_a_long_dataset_says_a_line(source, capsys, monkeypatch):
    monkeypatch.setattr(own, "MANY_ITEMS", 20)
    config = source("return Pictures(pixels(20, 4, 4))")
    load_images(config)
    assert f"reading 20 train images of data={config.name}" in capsys.readouterr().err


# --- what is refused ---


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        (
            "return pixels(9, 4, 4) / 255",
            ("train must be uint8", "float64", "(images * 255).round().astype(np.uint8)"),
        ),
        (
            "return torch.from_numpy(pixels(9, 3, 4, 4)) / 255",
            ("float32 [9, 3, 4, 4]", "(images * 255).round().to(torch.uint8)"),
        ),
        ("return torch.zeros(9, 4, 4, dtype=torch.bfloat16)", ("float32 [9, 4, 4]",)),
        ("return torch.eye(9).to_sparse()", ("plain tensor", "sparse")),
        ("return pixels(9, 3, 8, 8)", ("images.transpose(0, 2, 3, 1)",)),
        (
            "return torch.from_numpy(pixels(9, 8, 8, 3))",
            ("[n, C, H, W]", "images.permute(0, 3, 1, 2)"),
        ),
        ("return pixels(9, 4)", ("got uint8 [9, 4]", "reshape or crop it")),
        ("return pixels(9, 4, 4).astype(np.int64)", ("got int64", ".astype(np.uint8)")),
        ("return pixels(9, 4, 4) > 9", ("images.astype(np.uint8) * 255",)),
        ("return pixels(0, 4, 4)", ("train must hold images, got none",)),
        ("return Pictures(pixels(0, 4, 4))", ("train must hold images, got none",)),
        ("return list(pixels(9, 4, 4))", ("got a list", "np.stack(images)")),
        ("return None", ("must give train images, got no images",)),
        ("return 'images.npz'", ("got a str",)),
        ("return Pictures", ("call it",)),
        ("return {'test': pixels(9, 4, 4)}", ("must give train images, got test",)),
        (
            "return {'train': pixels(9, 4, 4), 'valid': pixels(9, 4, 4)}",
            ("the key 'valid'", "did you mean val?"),
        ),
        (
            "return {'train': pixels(9, 4, 4), 'test': pixels(9, 5, 4)}",
            ("train [1, 4, 4], test [1, 5, 4]",),
        ),
        (
            "return {'train': pixels(9, 4, 4), 'transform': 3}",
            ("transform must be a function", "got a int"),
        ),
        (
            "class Stream(IterableDataset):\n"
            "    def __iter__(self):\n"
            "        yield pixels(4, 4)\n"
            "return Stream()",
            ("with __len__", "got a Stream"),
        ),
        (
            "return TensorDataset(torch.zeros(9, 3, 4, 4))",
            ("item 0 of train", "drop ToTensor()", "(image * 255).round()"),
        ),
        (
            "first = lambda x: np.asarray(x).transpose(2, 0, 1)\n"
            "return Pictures(pixels(9, 8, 8, 3), first)",
            ("item 0 of train", "image.transpose(1, 2, 0)"),
        ),
        (
            "return Pictures(pixels(9, 8, 8, 4))",
            ("item 0 of train", "got RGBA", 'image.convert("RGB")'),
        ),
        ("return Pictures(pixels(9, 8, 8), lambda x: {'x': x})", ("got a dict",)),
        (
            "x = pixels(9, 8, 8)\nreturn Pictures([x[0], x[1][:5], x[2]])",
            ("[1, 8, 8] (C, H, W) in item 0 and [1, 5, 8] in item 1", "resize or crop"),
        ),
    ],
)
def test_what_is_no_image_is_refused_with_a_remedy(source, body, parts):
    refused(source(body), *parts)


def test_what_the_users_code_raises_names_its_line(module):
    name = module("""
        def images(n: int = 3):
            raise ValueError("no such place")

        class Broken(Pictures):
            def __getitem__(self, i):
                if i == 5:
                    raise OSError("cut off")
                return super().__getitem__(i)

        def broken():
            return Broken(pixels(9, 4, 4))
        """)
    code = Path(f"{name}.py").read_text().splitlines()
    line = next(i for i, text in enumerate(code, 1) if "no such place" in text)
    said = f"raised ValueError in {name}.py, line {line}: no such place"
    refused(own_data(f"{name}:images"), said)
    line = next(i for i, text in enumerate(code, 1) if "cut off" in text)
    said = f"item 5 of train raised OSError in {name}.py, line {line}: cut off"
    refused(own_data(f"{name}:broken"), said)


def test_an_object_that_is_no_source_is_refused_before_anything_is_read(module, tmp_path):
    name = module("IMAGES = pixels(9, 4, 4)")
    config = make_config(*TINY, f"data={name}:IMAGES", f"runs={tmp_path}/runs")
    with pytest.raises(UserError, match=r"must be a function or a class.*got a ndarray"):
        prepared([config])


# --- the same images at every call ---

RANDOM = {
    "function": "return np.random.default_rng().integers(0, 256, (9, 4, 4), np.uint8)",
    "items": "return Pictures(pixels(9, 4, 4), lambda x: x.rotate(np.random.rand() * 90))",
}


@pytest.mark.parametrize("kind", RANDOM)
def test_images_that_vary_are_refused(source, kind):
    refused(source(RANDOM[kind]), "must be the same whenever they are read", "from a seed")


def test_what_is_slow_to_read_is_read_once_but_for_the_first_items(source, monkeypatch):
    monkeypatch.setattr(own, "REPEAT_S", 0)
    load_images(source(RANDOM["function"]))
    refused(source(RANDOM["items"]), "must be the same whenever they are read")


def test_check_reads_twice_whatever_it_takes(monkeypatch):
    monkeypatch.setattr(own, "REPEAT_S", 0)
    own.check(lambda n: pixels(n, 4, 4), n=9)
    drawn = iter(range(9))
    with pytest.raises(UserError, match="mine: the train images must be the same"):
        own.check(lambda: pixels(9, 4, 4, seed=next(drawn)), "mine")
    with pytest.raises(UserError, match="uint8"):
        own.check(lambda: pixels(9, 4, 4) / 255)
    with pytest.raises(UserError, match="must be a function"):
        own.check(pixels(9, 4, 4))
    with pytest.raises(UserError, match="its transform must return floats"):
        own.check(lambda: {"train": pixels(9, 4, 4), "transform": lambda u, g: u > 0.5})
    with pytest.raises(UserError, match="raised KeyError"):
        own.check(lambda: {}["images"])


def test_users_can_check_sources_by_name_or_as_they_are(module, tmp_path):
    name = module("""
        def images(source: int = 9):
            return pixels(source, 4, 4)

        def floats():
            return pixels(9, 4, 4) / 255
        """)
    check_data(f"{name}:images", source=12)
    check_data(lambda n: pixels(n, 4, 4), n=9)
    sizes = {"images": 20, "size": 8, "val_images": 3, "test_images": 3}
    check_data("dead_leaves", cache=str(tmp_path), **sizes)
    with pytest.raises(UserError, match=f"data={name}:floats: train must be uint8"):
        check_data(f"{name}:floats")


# --- a random transform ---


def binarize(u, generator):
    return torch.bernoulli(u, generator=generator)


BINARY = "return {'train': pixels(60, 4, 4), 'transform': binarize}"


@pytest.mark.parametrize(
    ("transform", "part"),
    [
        ("lambda u, g: 2 * u", "values from 0 to 2"),
        ("lambda u, g: u[:, 0]", "got float32 [49, 4, 4]"),
        ("lambda u, g: u > 0.5", "got bool"),
        ("lambda u, g: u.numpy()", "got a ndarray"),
        ("lambda u, g: u / 0", "must return floats"),
        ("lambda u, g: torch.bernoulli(u)", "must draw from its generator alone"),
        ("lambda u: u", "its transform raised TypeError"),
    ],
)
def test_a_wrong_transform_is_refused(source, transform, part):
    config = source(f"return {{'train': pixels(60, 4, 4), 'transform': {transform}}}")
    refused(config, part)


def test_evaluation_sees_one_draw_for_ever(source):
    config = source(BINARY)
    first, again = dataset.load(config), dataset.load(config)
    for a, b in zip(first.images, again.images, strict=True):
        assert torch.equal(a, b)
        assert set(a.unique().tolist()) == {0, 255}
    assert first.random is not None
    u = first.random.images / 255
    # as torch draws it, and not far from the probabilities that it is drawn with
    expected = torch.bernoulli(u, generator=stream(0, "transform.train"))
    assert torch.equal(first.images.train, (expected * 255).to(torch.uint8))
    n = u.numel()
    assert abs(expected.mean() - u.mean()) < 4 * math.sqrt(0.25 / n)


def test_levels_of_a_draw_are_rounded():
    images = torch.full((300, 1, 2, 2), 100, dtype=torch.uint8)
    drawn = fixed("data", lambda u, g: u + 0.6 / 255, images, "val")
    assert drawn.dtype == torch.uint8
    assert (drawn == 101).all()


def test_the_fingerprint_knows_of_the_transform(source):
    bodies = (
        "return pixels(60, 4, 4)",
        "return {'train': pixels(60, 4, 4), 'transform': lambda u, generator: u}",
        BINARY,
    )
    made = [dataset.load(source(body)) for body in bodies]
    assert len({each.fingerprint for each in made}) == 3
    assert made[0].random is None
    for a, b in zip(made[0].images, made[1].images, strict=True):
        assert torch.equal(a, b)


def points_of(source, tmp_path, *seeds: int, more: tuple[str, ...] = ()):
    """A point for each seed on binarized images, 49 of them to train on."""
    common = (*TINY, f"data={source(BINARY).name}", f"data.cache={tmp_path}/cache")
    common += (f"runs={tmp_path}/runs", "train.steps=12", "train.eval_every=6", *more)
    return prepared(make_config(*common, f"seed={seed}") for seed in seeds)


def trainer_of(*points: Prepared, ahead: int | None = None) -> Trainer:
    configs, made = [p.config for p in points], points[0].dataset
    constants, train = [p.point for p in points], made.images.train
    return Trainer(configs, constants, train, "cpu", ahead, made.random)


def test_batches_differ_by_step_and_seed(source, tmp_path):
    points = points_of(source, tmp_path, 0, 0, 1)
    random = points[0].dataset.random
    assert random is not None
    feed = Feed([p.config for p in points], [p.point for p in points], 49, 12, random)
    block = feed.block(0, 8)
    assert block.images.shape == (8, 2, 8, 1, 4, 4)  # two seeds: points of one share draws
    for step, s in itertools.product(range(8), range(2)):
        u = random.images[feed.batch(step)[s]] / 255
        expected = torch.bernoulli(u, generator=stream(s, f"transform{step}"))
        assert torch.equal(block.images[step, s], expected)
    one = Random("data", torch.full((8, 1, 4, 4), 128, dtype=torch.uint8), binarize)
    at = [(0, 0), (0, 1), (1, 0), (0, 0)]  # seed and step
    drawn = [one.batch(torch.arange(8), *each).numpy().tobytes() for each in at]
    assert len(set(drawn)) == 3
    assert drawn[0] == drawn[-1]


def test_a_run_resumes_bit_for_bit(source, tmp_path):
    points = points_of(source, tmp_path, 0, 1)
    whole = trainer_of(*points)
    for _ in range(5):
        whole.update()
    states = [whole.state(r) for r in range(2)]
    resumed = trainer_of(*points, ahead=3)
    resumed.restore(states)
    for _ in range(4):
        whole.update()
        resumed.update()
        assert torch.equal(whole.losses, resumed.losses)
    for a, b in zip(whole.parameters, resumed.parameters, strict=True):
        assert torch.equal(a, b)


def test_a_run_of_a_cohort_is_the_run_alone(source, tmp_path):
    points = points_of(source, tmp_path, 0, 1, more=("train.precision=fp64",))
    together, alone = trainer_of(*points), [trainer_of(point) for point in points]
    for _ in range(6):
        together.update()
        for each in alone:
            each.update()
    losses = torch.cat([each.losses for each in alone])
    torch.testing.assert_close(together.losses, losses, rtol=1e-10, atol=0)


def test_a_step_trains_on_the_draws(source, tmp_path):
    """Its loss against the objective's definition, of the pixels that were drawn."""
    more = ("norm=unit", "head=linear", "beta.value=0", "train.precision=fp64")
    [point] = points_of(source, tmp_path, 0, more=more)
    trainer, random = trainer_of(point), point.dataset.random
    assert random is not None
    images = random.images[trainer.feed.batch(0)[0]]
    u = torch.bernoulli(images / 255, generator=stream(0, "transform0")).double()
    noise = Streams([0], "noise").normal(8, 4).double()
    forward = trainer.cohort(u[None], noise)
    expected = (u - forward.t_hat[0]).square().sum((1, 2, 3)).mean()
    trainer.update()
    torch.testing.assert_close(trainer.losses[0], expected.detach())


def test_theory_is_that_of_the_drawn_images(source, tmp_path):
    more = ("norm=raw255", "head=sigmoid")
    [point] = points_of(source, tmp_path, 0, more=more)
    counts = point.dataset.counts
    assert counts[0, 1:255].sum() == 0
    black, white = counts[0, 0].item(), counts[0, 255].item()
    assert black + white == 49 * 16
    # targets 0 and 255, a head within (0, 1): only white is out of reach, by 254
    predicted = predict(point.config, point.point, point.dataset)
    assert predicted.floor_mse == pytest.approx(254**2 * white / (black + white))
    assert predicted.outside == pytest.approx(white / (black + white))
    drawn = point.dataset.images.train.double().flatten(1) / 255
    values = torch.linalg.eigvalsh(torch.cov(drawn.T, correction=0)).flip(0)
    spectrum = point.dataset.spectra.of(np.ones(1), 4)
    assert spectrum is not None
    np.testing.assert_allclose(spectrum.values, values, atol=1e-9)


@pytest.mark.slow
def test_worker_processes_draw_as_one_process_does(source, tmp_path):
    finals = []
    name = source(BINARY).name
    for workers in (1, 2):
        common = (*TINY, f"data={name}", f"runs={tmp_path}/{workers}", "train.steps=12")
        common += ("train.cohort=1", f"train.workers={workers}")
        with limited_threads(1):
            ended = grid.run([make_config(*common, f"seed={s}") for s in range(2)])
        finals.append([dict(each.final) for each in ended if isinstance(each, Summary)])
    assert len(finals[0]) == 2
    assert finals[0] == finals[1]


def test_a_finished_run_stays_finished(source, tmp_path, capsys):
    [point] = points_of(source, tmp_path, 0)
    grid.run([point.config])
    capsys.readouterr()
    grid.run([point.config])
    assert "1 point has ended already" in capsys.readouterr().out
