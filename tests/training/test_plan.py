import pytest
import torch
from helpers import TINY, make_config, make_images, prepared

from vae_sweep.data.dataset import Datasets
from vae_sweep.errors import UserError
from vae_sweep.system import machine
from vae_sweep.training import metrics, plan
from vae_sweep.training.device import Elsewhere, gpus_of
from vae_sweep.training.locate import locate
from vae_sweep.training.plan import footprint
from vae_sweep.training.prepare import prepare
from vae_sweep.vae.normalize import histograms
from vae_sweep.vae.point import point


@pytest.fixture
def points(tmp_path, npz):
    def of(*each: tuple[str, ...], common: tuple[str, ...] = (), size: int = 8):
        path = npz(size=size)
        return prepared(
            [
                make_config(
                    *TINY, "data=npz", f"data.path={path}", f"runs={tmp_path}", *common, *o
                )
                for o in each
            ]
        )

    return of


@pytest.fixture(autouse=True)
def four_cores(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)


def seeds(n: int) -> list[tuple[str, ...]]:
    return [(f"seed={seed}",) for seed in range(n)]


def ids(cohorts) -> list[str]:
    return sorted(p.config.run_id for cohort in cohorts for p in cohort)


LONG = ("train.steps=1000000",)


def test_long_training_takes_a_process_per_core(points):
    todo = points(*seeds(8), common=LONG)
    [made] = plan.plans(todo, 8)
    assert (made.workers, made.threads) == (4, 1)
    assert [len(c) for c in made.cohorts] == [2, 2, 2, 2]
    assert ids(made.cohorts) == ids([todo])
    assert str(made) == "training 8 points on cpu: 4 processes of 1 thread, cohorts of 2"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "sizes"), [(6, [1, 1, 2, 2]), (3, [1, 1, 1]), (33, [4] * 7 + [5])]
)
def test_no_process_has_more_to_do_than_its_share(points, count, sizes):
    [made] = plan.plans(points(*seeds(count), common=LONG), count)
    assert sorted(len(c) for c in made.cohorts) == sizes


def test_short_training_stays_in_this_process(points):
    [made] = plan.plans(points(*seeds(8)), 8)
    assert (made.workers, made.threads) == (1, 1)
    assert [len(c) for c in made.cohorts] == [8]


def test_threads_follow_the_whole_grid_not_what_is_left_of_it(points):
    todo = points(*seeds(2), common=LONG)
    for grid, threads in ((2, 2), (1, 4), (8, 1)):
        [made] = plan.plans(todo[: min(2, grid)], grid)
        assert made.threads == threads


def test_large_activations_train_one_by_one(points):
    wide = ("model.widths=[64,128]", "train.batch_size=64", *LONG)
    [made] = plan.plans(points(*seeds(6), common=wide, size=32), 6)
    assert [len(c) for c in made.cohorts] == [1] * 6


def test_what_is_asked_for_is_done(points):
    asked = ("train.workers=2", "train.cohort=3")
    [made] = plan.plans(points(*seeds(7), common=asked), 7)
    assert (made.workers, made.threads) == (2, 2)
    assert sorted(len(c) for c in made.cohorts) == [2, 2, 3]


def test_unlike_points_are_not_fused_and_the_longest_goes_first(points):
    todo = points(("model.latent=3",), ("train.steps=90",), ("seed=1",), ("train.lr=0.5",))
    [made] = plan.plans(todo, 4)
    lengths = [(len(c), c[0].steps) for c in made.cohorts]
    assert lengths[0] == (1, 90) or lengths[0][0] * lengths[0][1] >= 90
    assert sorted(len(c) for c in made.cohorts) == [1, 1, 2]


def test_memory_limits_a_cohort(points, monkeypatch):
    todo = points(*seeds(8))
    needs = footprint(todo[0].config, todo[0].point, (3, 8, 8)).bytes(8)
    monkeypatch.setattr(machine, "memory", lambda: int(3.5 * needs / plan.SHARE) + 1)
    [made] = plan.plans(todo, 8)
    assert max(len(c) for c in made.cohorts) == 3


@pytest.fixture
def four_gpus(monkeypatch):
    """A machine that has them, as far as planning can tell."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7,8")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    memory = (10**12, 10**12)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: memory)
    monkeypatch.setattr(metrics, "check_own", lambda *_: None)  # computes there


GPUS = ("train.device=cuda", "train.steps=1000000")


@pytest.mark.parametrize(
    ("typed", "workers", "sizes"),
    [
        ((), 4, [3, 3, 3, 3]),
        (("train.workers=1",), 1, [12]),
        (("train.workers=2",), 2, [6, 6]),
        (("train.workers=9",), 4, [3, 3, 3, 3]),
        (("train.device=cuda:2",), 1, [12]),
        (("train.device=auto",), 4, [3, 3, 3, 3]),
        (("train.cohort=5",), 3, [4, 4, 4]),
        (("train.steps=5",), 1, [12]),  # is over before more processes have begun
    ],
)
def test_each_gpu_gets_a_process(points, monkeypatch, four_gpus, typed, workers, sizes):
    timed = []

    def whole(group, device, workers):
        timed.append(workers)
        return len(group)

    monkeypatch.setattr(plan, "_size_on_cuda", whole)
    todo = points(*seeds(12), common=(*GPUS, *typed))
    [made] = plan.plans(todo, 12)
    assert made.workers == workers
    assert sorted(len(c) for c in made.cohorts) == sizes
    assert ids(made.cohorts) == ids([todo])
    each = f"{workers} processes with a GPU each, " if workers > 1 else ""
    assert f": {each}cohorts of {sizes[0]}" in str(made)


def test_a_cohort_is_timed_up_to_what_a_gpu_gets(points, monkeypatch, four_gpus):
    todo, asked = points(*seeds(12), common=(*GPUS, "train.steps=50")), []
    for workers in (1, 4):
        asked.append(plan._size_on_cuda(todo, torch.device("cuda"), workers))
    assert asked == [12, 3]  # untimed: of so few steps the largest


def test_the_gpus_that_are_meant(monkeypatch, four_gpus):
    assert gpus_of(torch.device("cuda")) == ["4", "5", "6", "7"]
    assert gpus_of(torch.device("cuda:1")) == ["5"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert gpus_of(torch.device("cuda")) == ["0", "1", "2", "3"]


def elsewhere(gpus=0, memory=None) -> Elsewhere:
    return Elsewhere(gpus, memory, "set gpus=1")


@pytest.mark.parametrize(
    ("count", "common", "sizes"),
    [
        (20, (), [6, 7, 7]),  # at most 8 where they are small
        (6, ("model.widths=[64,128]", "train.batch_size=64"), [1] * 6),
        (7, ("train.cohort=3",), [2, 2, 3]),
        (3, ("train.cohort=1",), [1, 1, 1]),
    ],
)
def test_cohorts_for_processes_elsewhere(points, count, common, sizes):
    todo = points(*seeds(count), common=common, size=32)
    made = plan.cohorts_elsewhere(todo, elsewhere())
    assert sorted(len(c) for c in made) == sizes
    assert ids(made) == ids([todo])


def test_cohorts_elsewhere_fit_the_memory_there_and_the_longest_goes_first(points):
    todo = points(*seeds(8), ("seed=1", "train.steps=9000"))
    needs = footprint(todo[0].config, todo[0].point, (3, 8, 8)).bytes(8)
    memory = int(3.5 * needs / plan.SHARE) + 1
    made = plan.cohorts_elsewhere(todo, elsewhere(memory=memory))
    assert [len(c) for c in made] == [1, 3, 3, 2]
    assert made[0][0].steps == 9000


def test_points_are_prepared_for_the_device_elsewhere(tmp_path, npz):
    base = (*TINY, "data=npz", f"data.path={npz()}", f"runs={tmp_path}")
    asked = [make_config(*base, f"train.device={name}") for name in ("auto", "cuda", "cpu")]
    located = [locate([config], Datasets())[0] for config in asked]
    devices = [p.device.type for p in prepare(located, print, elsewhere(gpus=1))]
    assert devices == ["cuda", "cuda", "cpu"]
    assert prepare(located[:1], print, elsewhere())[0].device.type == "cpu"
    with pytest.raises(UserError, match="each task has 0; set gpus=1, or use"):
        prepare(located[1:2], print, elsewhere())
    with pytest.raises(UserError, match="must fit the 1e-05 GB of cpu"):
        prepare(located[2:], print, elsewhere(memory=10_000))


def test_footprint_of_a_linear_vae_by_hand():
    config = make_config("model=linear", "model.latent=4", "train.precision=fp64")
    images = make_images(20)
    needs = footprint(config, point(config, histograms(images), 64), (3, 8, 8))
    weights = 2 * 4 * 192 + 4 + 192 + 4 + 1  # W, V, biases, logvar, likelihood's noise
    assert needs.parameters == 8 * weights
    # at least the normalized image and the error of each pixel; not many times that
    assert 8 * 2 * 192 <= needs.activations <= 8 * 8 * 192
