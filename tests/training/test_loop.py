import torch

from vae_sweep.data.dataset import Images
from vae_sweep.training.loop import measured


def images(train: int, val: int) -> Images:
    """Each image has one level, its number."""
    counts = (train, val, 1)
    return Images(*(torch.arange(n).byte()[:, None, None, None] for n in counts))


def test_train_is_measured_on_as_many_images_as_val_drawn_at_random():
    drawn = measured(images(200, 50)).flatten().tolist()
    assert len(set(drawn)) == len(drawn) == 50
    # of 50 out of 200 the mean of the numbers is 99.5, give or take 7.1
    assert abs(sum(drawn) / 50 - 99.5) < 3 * 7.1
    torch.manual_seed(1)  # no other stream moves it
    assert measured(images(200, 50)).flatten().tolist() == drawn


def test_train_is_measured_on_all_images_where_val_has_more():
    assert sorted(measured(images(5, 9)).flatten().tolist()) == [0, 1, 2, 3, 4]
