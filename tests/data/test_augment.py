import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jointnas_jax.data import augment
from jointnas_jax.data.augment import Augmentation, plan_epoch


def _plan(members, alpha=0.2, epoch=0, augmentation=Augmentation(2, True), batch_size=8):
    key = jax.random.fold_in(jax.random.key(0), epoch)
    kind = dict(augmentation=augmentation, batch_size=batch_size)
    return plan_epoch(jnp.asarray(members), jnp.float32(alpha), key, **kind)


def test_an_epoch_uses_every_member_once_and_nothing_else():
    members = np.arange(100) % 3 != 0  # 66 of 100
    plan = _plan(members)
    assert int(plan.steps) == 66 // 8
    used = np.asarray(plan.images[: int(plan.steps)]).ravel()
    assert len(set(used)) == len(used) == 64
    assert members[used].all()


def test_epochs_differ_and_repeat_by_key():
    members = np.ones(64, bool)
    first, again, second = (_plan(members, epoch=e).images for e in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, second)


def test_mixup_weights_follow_the_beta_distribution():
    weights = augment.mixup_weights(jnp.float32(0.4), jax.random.key(0), 4000)
    assert stats.kstest(np.asarray(weights), stats.beta(0.4, 0.4).cdf).pvalue > 0.01


def test_alpha_0_mixes_nothing_and_tiny_alphas_are_finite():
    assert (augment.mixup_weights(jnp.float32(0.0), jax.random.key(0), 100) == 1).all()
    tiny = augment.mixup_weights(jnp.float32(0.01), jax.random.key(0), 1000)
    assert jnp.isfinite(tiny).all()
    assert (jnp.abs(tiny - jnp.round(tiny)) < 0.01).mean() > 0.9


def test_mix_blends_images_and_targets_alike():
    images = jnp.arange(4.0).reshape(4, 1, 1, 1)
    targets = jnp.eye(4)
    mixed, labels = augment.mix(images, targets, jnp.float32(0.75))
    np.testing.assert_allclose(mixed.ravel(), [0.75, 1.25, 1.75, 2.25])
    np.testing.assert_allclose(labels.sum(axis=1), 1.0)
    np.testing.assert_allclose(jnp.diag(labels), 0.75)


def test_crop_shifts_by_at_most_the_padding_and_repeats_the_edge():
    image = jnp.arange(16, dtype=jnp.uint8).reshape(1, 4, 4, 1)
    centre = augment.crop(image, jnp.array([[1, 1]]), 1)
    np.testing.assert_array_equal(centre, image)
    corner = augment.crop(image, jnp.array([[0, 0]]), 1)[0, :, :, 0]
    np.testing.assert_array_equal(corner, np.pad(image[0, :, :, 0], 1, mode="edge")[:4, :4])


def test_flip_mirrors_only_the_chosen():
    images = jnp.arange(8.0).reshape(2, 1, 4, 1)
    flipped = augment.flip(images, jnp.array([True, False]))
    np.testing.assert_array_equal(flipped[0, 0, :, 0], [3, 2, 1, 0])
    np.testing.assert_array_equal(flipped[1], images[1])


@pytest.mark.parametrize(
    ("augmentation", "moved", "mirrored"),
    [
        (Augmentation(0, False), False, False),
        (Augmentation(2, False), True, False),
        (Augmentation(0, True), False, True),
    ],
)
def test_the_plan_holds_what_the_dataset_asks_for(augmentation, moved, mirrored):
    plan = _plan(np.ones(256, bool), augmentation=augmentation)
    assert np.asarray(plan.corners).max() == 2 * augmentation.crop_padding
    assert (np.ptp(np.asarray(plan.corners)) > 0) == moved
    assert np.asarray(plan.flips).any() == mirrored


def test_normalise_and_resize_keep_mean_and_size():
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (8, 6, 6, 3)), jnp.uint8)
    mean, std = np.mean(images, axis=(0, 1, 2)), np.std(images, axis=(0, 1, 2))
    out = augment.normalise(images, mean, std)
    np.testing.assert_allclose(out.mean(axis=(0, 1, 2)), 0.0, atol=1e-4)
    np.testing.assert_allclose(out.std(axis=(0, 1, 2)), 1.0, rtol=1e-4)
    assert augment.resize(out, 9).shape == (8, 9, 9, 3)
    assert augment.resize(out, 6) is out


@pytest.mark.parametrize("smallest", [0.08, 0.3, 0.95])
def test_boxes_keep_their_share_of_the_image_and_lie_inside(smallest):
    augmentation = Augmentation(min_area=smallest)
    plan = _plan(np.ones(4000, bool), augmentation=augmentation, batch_size=20)
    top, left, height, width = np.moveaxis(np.asarray(plan.boxes), -1, 0)
    assert plan.boxes.shape == (200, 20, 4)
    assert (np.minimum(top, left) >= 0).all()
    assert (np.maximum(top + height, left + width) <= 1 + 1e-6).all()
    ratio = width / height
    assert ratio.min() > 3 / 4 - 1e-5
    assert ratio.max() < 4 / 3 + 1e-5
    # Every share from `smallest` on is as likely, and none is smaller.
    area = (height * width).ravel()
    assert area.min() >= smallest - 1e-6
    assert stats.kstest(area, stats.uniform(smallest, 1 - smallest).cdf).pvalue > 0.01
    # All proportions, as far as both sides fit.
    limit = np.minimum(np.log(4 / 3), -np.log(area))
    assert stats.kstest(np.log(ratio).ravel() / limit, stats.uniform(-1, 2).cdf).pvalue > 0.01


def test_a_crop_of_the_whole_image_is_a_resize():
    images = jax.random.uniform(jax.random.key(0), (2, 12, 10, 3))
    whole = jnp.array([[0.0, 0.0, 1.0, 1.0]] * 2)
    np.testing.assert_allclose(
        augment.crop_resize(images, whole, 8), augment.resize(images, 8), atol=1e-5
    )


def test_a_crop_shows_its_part_of_the_image():
    y, x = jnp.meshgrid(jnp.arange(16.0), jnp.arange(16.0), indexing="ij")
    image = jnp.stack([y, x], -1)[None]
    box = jnp.array([[4 / 16, 8 / 16, 6 / 16, 3 / 16]])  # rows 4 to 9, columns 8 to 10
    cut = np.asarray(augment.crop_resize(image, box, 12))[0]
    centres = (np.arange(12) + 0.5) / 12
    np.testing.assert_allclose(cut[:, 3, 0], 4 + 6 * centres - 0.5, atol=1e-4)
    np.testing.assert_allclose(cut[3, :, 1], 8 + 3 * centres - 0.5, atol=1e-4)


def test_transformations_are_drawn_only_where_they_are_asked_for():
    assert _plan(np.ones(64, bool)).kinds is None
    plan = _plan(np.ones(640, bool), augmentation=Augmentation(transforms=2))
    assert plan.kinds.shape == plan.signs.shape == (80, 8, 2)
    assert set(np.unique(plan.kinds)) == set(range(-1, 13))
    assert set(np.unique(plan.signs)) == {-1.0, 1.0}


@pytest.mark.parametrize("padding", [1, 2, 4])
def test_a_crop_is_the_window_at_its_corner(padding):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (16, 5, 7, 2)).astype(np.uint8)
    corners = rng.integers(0, 2 * padding + 1, (16, 2)).astype(np.int32)
    corners[:2] = [0, 2 * padding], [2 * padding, 0]
    pad = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = np.pad(images, pad, mode="edge")
    expected = [p[y : y + 5, x : x + 7] for p, (y, x) in zip(padded, corners, strict=True)]
    for windows in (False, True):
        found = augment.crop(images, jnp.asarray(corners), padding, windows=windows)
        np.testing.assert_array_equal(found, expected)
