import numpy as np
import pytest

from medl_scale.errors import ConfigError, MissingExtraError
from medl_scale.evaluate.backend import gpu_problem
from medl_scale.evaluate.gpu.forest import compare_forests, gpu_forest_proba


def test_accuracies_agree_within_their_spread_over_seeds():
    steady = [0.900, 0.901, 0.899, 0.900, 0.900]
    noisy = [0.89, 0.91, 0.90, 0.88, 0.92]
    near = [value + 0.003 for value in steady]
    far = [value + 0.006 for value in noisy]
    assert compare_forests(steady, near).is_met
    # Three times the spread of 0.0007, and 0.002.
    assert compare_forests(steady, near).most == pytest.approx(0.002 + 3 * np.std(steady, ddof=1))
    assert not compare_forests(steady, [value - 0.0045 for value in steady]).is_met
    # However noisy, never more than 0.005.
    assert compare_forests(noisy, far).most == 0.005
    assert not compare_forests(noisy, far).is_met
    assert compare_forests(noisy, far).difference == pytest.approx(0.006)


def test_one_seed_cannot_be_compared():
    with pytest.raises(ConfigError, match="number of seeds in second must be at least 2; got 1"):
        compare_forests([0.9, 0.91], [0.9])


def test_where_cuml_is_missing_the_error_says_what_to_install():
    if not isinstance(gpu_problem("cuml"), MissingExtraError):
        pytest.skip("cuML is installed")
    cells, codes = np.zeros((4, 2)), np.array([0, 1, 0, 1], np.int32)
    with pytest.raises(MissingExtraError, match=r"asked for random forests: .*medl-scale\[cu12\]"):
        next(gpu_forest_proba(cells, codes, cells, 2))


def blobs(n, d, n_classes, seed):
    rng = np.random.default_rng(seed)
    codes = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, n - n_classes)])
    centres = rng.normal(size=(n_classes, d)) * 0.9
    cells = (rng.normal(size=(n, d)) + centres[codes]).astype(np.float32)
    return cells, codes.astype(np.int32)


def to_quantiles(train, test, n_bins=1024):
    """Return both with each feature cut at the same quantiles of train."""
    edges = np.quantile(train, np.linspace(0, 1, n_bins + 1)[1:-1], axis=0)
    return tuple(
        np.stack(
            [np.searchsorted(edges[:, k], cells[:, k]) for k in range(cells.shape[1])], axis=1
        ).astype(np.float32)
        for cells in (train, test)
    )


def accuracy_on_gpu(train, codes, test, test_codes, n_classes, seed):
    right = 0
    for rows, shares in gpu_forest_proba(train, codes, test, n_classes, seed=seed):
        assert shares.shape == (rows.stop - rows.start, n_classes)
        np.testing.assert_allclose(shares.sum(axis=1), 1.0, rtol=1e-4)
        right += int(np.sum(shares.argmax(axis=1) == test_codes[rows]))
    return right / len(test)


@pytest.mark.gpu
@pytest.mark.parametrize(("n", "d", "n_classes"), [(20_000, 4, 13), (12_000, 50, 21)])
def test_its_accuracy_is_that_of_scikit_learn_s_forest_over_five_seeds(cuml, n, d, n_classes):
    from sklearn.ensemble import RandomForestClassifier

    cells, codes = blobs(2 * n, d, n_classes, seed=0)
    train, test = to_quantiles(cells[:n], cells[n:])
    published, ours = [], []
    for seed in range(5):
        forest = RandomForestClassifier(n_estimators=100, random_state=seed, n_jobs=-1)
        forest.fit(train, codes[:n])
        published.append(float(forest.score(test, codes[n:])))
        ours.append(accuracy_on_gpu(train, codes[:n], test, codes[n:], n_classes, seed))
    agreement = compare_forests(published, ours)
    assert agreement.is_met, (published, ours)


@pytest.mark.gpu
def test_the_same_seed_gives_the_same_forest_on_a_gpu(cuml):
    cells, codes = blobs(6000, 8, 5, seed=1)
    first, second, other = (
        next(gpu_forest_proba(cells, codes, cells[:500], 5, n_trees=20, seed=seed))[1]
        for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


@pytest.mark.gpu
def test_every_class_must_occur(cuml):
    cells, codes = blobs(60, 3, 3, seed=2)
    with pytest.raises(ConfigError, match="every class from 0 to 3; 3 of 4 occur"):
        next(gpu_forest_proba(cells, codes, cells, 4))
