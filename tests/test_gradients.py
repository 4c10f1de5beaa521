"""Functional gradients: from connectivity, and from files."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from engram.errors import InputError
from engram.readers import atlases, gradients
from engram.signals.gradients import diffusion_map, group_connectivity

PUBLISHED = atlases.named(gradients.ORDER)


def connectivity(n=60, seed=0):
    rng = np.random.default_rng(seed)
    place = rng.uniform(size=(n, 2))
    matrix = np.exp(-((cdist(place, place) / 0.3) ** 2)) + 0.02 * rng.standard_normal((n, n))
    return (matrix + matrix.T) / 2


def test_gradients_are_eigenvectors_of_the_diffusion():
    """Beside the definition, written out over the matrix of transitions, which is not symmetric."""
    matrix = connectivity()
    kept = np.where(matrix >= np.sort(matrix, 1)[:, [-6]], matrix, 0)
    likeness = 1 - np.arccos(np.clip(1 - cdist(kept, kept, "cosine"), -1, 1)) / np.pi
    density = np.sqrt(likeness.sum(1))
    likeness = likeness / density[:, None] / density
    values, vectors = np.linalg.eig(likeness / likeness.sum(1, keepdims=True))
    order = np.argsort(-values.real)[1:5]
    values, vectors = values.real[order], vectors.real[:, order]
    stationary = likeness.sum(1, keepdims=True) / likeness.sum()
    vectors /= np.sqrt((stationary * vectors**2).sum(0))
    wanted = vectors * values / (1 - values)
    found = diffusion_map(matrix, components=4)
    sign = np.sign((found * wanted).sum(0))
    np.testing.assert_allclose(found, wanted * sign, atol=1e-6)
    assert (found.max(0) == np.abs(found).max(0)).all()


def test_regions_on_a_ring_lie_on_a_circle():
    n = 40  # each region keeps itself and six to either side
    step = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    found = diffusion_map(np.cos(2 * np.pi * step / n), components=2, sparsity=0.675)
    radius = np.linalg.norm(found, axis=1)
    np.testing.assert_allclose(radius, radius.mean(), rtol=1e-6)
    turn = np.unwrap(np.arctan2(found[:, 1], found[:, 0]))
    np.testing.assert_allclose(np.abs(np.diff(turn)), 2 * np.pi / n, rtol=1e-5)


def test_order_of_regions_does_not_matter():
    matrix, order = connectivity(), np.random.default_rng(1).permutation(60)
    moved = diffusion_map(matrix[np.ix_(order, order)], components=3)
    np.testing.assert_allclose(moved, diffusion_map(matrix, components=3)[order], atol=1e-9)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.ones((3, 4)), "not square"),
        (np.triu(connectivity()), "not square and symmetric"),
        (np.full((60, 60), np.nan), "not finite"),
        (np.eye(20), "20 regions"),
        (np.zeros((60, 60)), "all 0"),
    ],
)
def test_connectivity_without_gradients_is_refused(matrix, message):
    with pytest.raises(InputError, match=message):
        diffusion_map(matrix, components=30)


def test_connectivity_is_the_mean_over_subjects_of_those_over_their_scans():
    rng = np.random.default_rng(0)
    scans = rng.standard_normal((3, 4, 50))
    z = [np.arctanh(np.corrcoef(scan) - np.eye(4)) for scan in scans]
    wanted = np.tanh(((z[0] + z[1]) / 2 + z[2]) / 2) + np.eye(4)
    np.testing.assert_allclose(group_connectivity([scans[:2], scans[2:]]), wanted, atol=1e-12)


def test_a_region_that_a_scan_lacks_is_that_of_the_others():
    scans = np.random.default_rng(0).standard_normal((2, 4, 50))
    scans[0, 1] = 0
    found = group_connectivity([scans[:1], scans[1:]])
    np.testing.assert_allclose(found[1], np.corrcoef(scans[1])[1], atol=1e-12)
    with pytest.raises(InputError, match="no scan has both"):
        group_connectivity([scans[:1]])


def values(n, components=3):
    return np.random.default_rng(0).standard_normal((n, components))


def write_named(path, names, numbers):
    lines = ["region,one,two,three"]
    lines += [
        f"{name},{','.join(map(repr, row.tolist()))}"
        for name, row in zip(names, numbers, strict=True)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_file_without_names_has_the_regions_that_were_published(tmp_path):
    numbers, path = values(450, 30), tmp_path / "gradient_mapping_450.csv"
    np.savetxt(path, numbers, delimiter=",")
    np.testing.assert_array_equal(gradients.read(path, PUBLISHED), numbers)
    seven = [atlases.same(name) for name in PUBLISHED]  # names of the other order, same parcels
    np.testing.assert_array_equal(gradients.read(path, seven), numbers)
    for other in (
        atlases.named(["schaefer400_17n", "tian_s3"]),
        atlases.named(["tian_s3", "schaefer400_7n"]),
    ):
        with pytest.raises(InputError, match=r"in another order, first .* instead of"):
            gradients.read(path, other)
    with pytest.raises(InputError, match="other regions than the 457"):
        gradients.read(path, atlases.named(["schaefer400_7n", "tian_s3", "buckner7"]))


def test_a_file_with_names_has_those_of_the_view_in_its_order(tmp_path):
    names = ["a", "b", "c"]
    path = write_named(tmp_path / "g.csv", names, values(3))
    np.testing.assert_array_equal(gradients.read(path, names), values(3))
    with pytest.raises(InputError, match="another order, first 'a' instead of 'b'"):
        gradients.read(path, ["b", "a", "c"])
    with pytest.raises(InputError, match="not in both: 'c'"):
        gradients.read(path, ["a", "b"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("name,one\na,1\n", "column `region`"),
        ("region,one\na,1\nb,x\n", "line 3"),
        ("region,one\na,1\nb,nan\n", "region 'b' is not finite"),
        ("region,one,two\na,1,2\nb,1,3\n", "same for all regions"),
        ("1,2\n3,4\n", "2 lines without names"),
        ("1,2\n3\n", "no table of numbers"),
    ],
)
def test_a_file_that_holds_no_gradients_is_refused(tmp_path, text, message):
    path = tmp_path / "g.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        gradients.read(path, ["a", "b"])
    with pytest.raises(InputError, match="missing"):
        gradients.read(tmp_path / "other.csv", ["a", "b"])
