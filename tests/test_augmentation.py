"""Series that are changed at random, by the shares and ranges that were published."""

import pytest
import torch

from engram.signals.augmentation import augmented


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("level", "regions", "time"), [(1, (0, 0.1), (0, 0.3)), (3, (0.25, 0.5), (0.3, 0.6))]
)
def test_augmentation_zeroes_shares_of_regions_and_a_block_of_time(level, regions, time):
    crops = torch.ones(400, 2, 100, 100)
    zero = augmented(crops, [level, 0, 0, 0], seeded())[..., 0] == 0
    share = zero.float().mean(-1)
    assert regions[0] - 0.01 <= share.min()
    assert share.max() <= regions[1]
    assert abs(share.mean() - sum(regions) / 2) < 0.01
    assert (zero.float().mean((0, 1)) > share.mean() / 2).all()
    crops = torch.ones(400, 2, 100, 100)
    zero = augmented(crops, [0, level, 0, 0], seeded())[..., 0, :] == 0
    share = zero.float().mean(-1)
    assert time[0] - 0.01 <= share.min()
    assert share.max() <= time[1]
    assert abs(share.mean() - sum(time) / 2) < 0.02
    edges = zero.int().diff(dim=-1, prepend=torch.zeros(400, 2, 1), append=torch.zeros(400, 2, 1))
    assert (edges.clamp_min(0).sum(-1) == 1).all()  # one block


def test_augmentation_scales_a_crop_and_adds_noise():
    crops = augmented(torch.ones(500, 2, 10, 100), [0, 0, 0, 2], seeded())
    scales = crops[..., 0, 0]
    assert (crops == scales[..., None, None]).all()
    assert 0.6 <= scales.min() < 0.62
    assert 1.38 < scales.max() <= 1.4
    noisy = augmented(torch.zeros(50, 2, 10, 100), [3, 3, 2, 3], seeded())
    assert abs(noisy.std() - 0.2) < 0.002
    kept = torch.randn(3, 2, 10, 100)
    assert torch.equal(augmented(kept.clone(), [0, 0, 0, 0], seeded()), kept)


def test_torchs_own_numbers_do_without_a_generator_and_any_axes_lead():
    series = torch.randn(5, 20, 30)
    torch.manual_seed(4)
    found = augmented(series.clone(), [1, 1, 1, 1])
    assert torch.equal(found, augmented(series.clone(), [1, 1, 1, 1], seeded(4)))
