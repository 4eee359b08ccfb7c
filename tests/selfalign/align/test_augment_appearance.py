"""Appearance augmentation: torchvision's operations, one draw an image, nothing moved."""

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

from selfalign.align import augment_appearance as appearance
from selfalign.align.augment_appearance import (
    AppearanceAugmentation,
    AppearanceConfig,
    AugmentationError,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int = 5, side: int = 24) -> Tensor:
    """Images in [-1, 1] with large and small shapes, the last one grey."""
    coarse = torch.rand(count, 3, side // 6, side // 6, generator=generator(1))
    large = torch.nn.functional.interpolate(coarse, size=(side, side))
    images = 0.8 * large + 0.2 * torch.rand(count, 3, side, side, generator=generator(2))
    images[-1] = images[-1, :1]
    return images * 2 - 1


FACTORS = torch.tensor([0.7, 0.95, 1.0, 1.1, 1.3])[:, None, None, None]


@pytest.mark.parametrize(
    ("ours", "theirs", "numbers"),
    [
        (appearance.adjust_brightness, vision.adjust_brightness, FACTORS),
        (appearance.adjust_contrast, vision.adjust_contrast, FACTORS),
        (appearance.adjust_saturation, vision.adjust_saturation, FACTORS),
        (appearance.turn_hue, vision.adjust_hue, (FACTORS - 1) / 2),
    ],
    ids=["brightness", "contrast", "saturation", "hue"],
)
def test_operations_are_torchvisions_with_a_number_for_each_image(ours, theirs, numbers):
    x = (pictures() + 1) / 2
    whole = ours(x, numbers)
    for i, number in enumerate(numbers.flatten().tolist()):
        torch.testing.assert_close(whole[i], theirs(x[i], number), atol=2e-5, rtol=0)


def test_blur_is_torchvisions():
    x = (pictures() + 1) / 2
    sigma = torch.tensor([0.2, 0.5, 1.0, 1.5, 0.01])
    whole = appearance.gaussian_blur(x, sigma[:, None, None, None], 5)
    for i, s in enumerate(sigma.tolist()):
        theirs = vision.gaussian_blur(x[i], [11, 11], [s, s])
        torch.testing.assert_close(whole[i], theirs, atol=1e-5, rtol=0)


def test_strength_zero_is_the_identity_to_the_last_bit():
    images = pictures()
    augment = AppearanceAugmentation(AppearanceConfig(strength=0.0))
    assert torch.equal(augment(images, generator()), images)


def test_every_operation_changes_the_image():
    images = pictures()
    off = dict.fromkeys(("brightness", "contrast", "saturation", "hue", "blur", "noise"), 0.0)
    for name in off:
        augment = AppearanceAugmentation(AppearanceConfig(**{**off, name: 0.1}))
        change = (augment(images, generator()) - images).abs().flatten(1).amax(1)
        coloured = slice(None, -1) if name in {"saturation", "hue"} else slice(None)
        # A draw near nothing changes nothing: not every image, but most.
        assert (change[coloured] > 1e-4).float().mean() > 0.5, name


def test_what_is_off_changes_nothing_but_rounding():
    off = dict.fromkeys(("brightness", "contrast", "saturation", "hue", "blur", "noise"), 0.0)
    out = AppearanceAugmentation(AppearanceConfig(**off))(pictures(), generator())
    torch.testing.assert_close(out, pictures(), atol=1e-5, rtol=0)


def test_images_stay_in_range_and_keep_their_shape():
    out = AppearanceAugmentation()(pictures(), generator())
    assert out.shape == pictures().shape
    assert out.dtype == torch.float32
    assert out.min() >= -1
    assert out.max() <= 1


def test_same_seed_same_images_another_seed_others():
    augment = AppearanceAugmentation()
    one, same, other = (augment(pictures(), generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_each_image_has_its_own_draw():
    alike = pictures(1).expand(4, -1, -1, -1)
    out = AppearanceAugmentation(AppearanceConfig(noise=0.0))(alike, generator())
    for i in range(4):
        for j in range(i):
            assert (out[i] - out[j]).abs().max() > 0.01


def test_two_frames_with_one_draw_differ_in_noise_alone():
    augment = AppearanceAugmentation(AppearanceConfig(noise=0.0))
    draw = augment.draw(5, generator())
    one, two = (augment.apply(pictures(), draw, generator(seed)) for seed in (1, 2))
    assert torch.equal(one, two)


def test_nothing_moves():
    # A bright square: its centre of mass stays where it was, whatever was drawn.
    image = torch.full((1, 3, 40, 40), -0.6)
    image[..., 8:14, 20:30] = 0.7
    augment = AppearanceAugmentation(AppearanceConfig(noise=0.0, hue=0.0))
    for seed in range(6):
        out = augment(image, generator(seed))[0].mean(0)
        light = out - out[0, 0]
        rows = (light.sum(1) * torch.arange(40)).sum() / light.sum()
        columns = (light.sum(0) * torch.arange(40)).sum() / light.sum()
        assert abs(float(rows) - 10.5) < 0.02
        assert abs(float(columns) - 24.5) < 0.02


def test_wrong_shapes_are_refused():
    augment = AppearanceAugmentation()
    with pytest.raises(AugmentationError, match=r"\[B, 3, H, W\]"):
        augment(torch.zeros(2, 8, 8, 3), generator())
    with pytest.raises(AugmentationError, match="needs larger images"):
        AppearanceAugmentation(AppearanceConfig(blur=0.1))(torch.zeros(1, 3, 3, 1), generator())
    with pytest.raises(AugmentationError, match="as many draws"):
        augment.apply(pictures(), augment.draw(2, generator()), generator())
