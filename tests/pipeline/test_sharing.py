"""How many workers share each fit."""

import dataclasses

import pytest

from medl_scale.config import RunConfig, StreamConfig, TrainConfig
from medl_scale.distribute.clusters import Workers
from medl_scale.errors import ConfigError
from medl_scale.pipeline.running import fit_tasks
from medl_scale.pipeline.sharing import may_share, share_fits
from medl_scale.store.atlas import describe


@pytest.fixture
def small(made):
    return describe(made.atlas)


@pytest.fixture
def large(small):
    """The atlas, as if it had a million cells."""
    return dataclasses.replace(small, n_obs=1_000_000)


def shares(atlas, tmp_path, n_workers, **settings):
    """Return the number of workers of each fit."""
    config = RunConfig(stream=StreamConfig(minibatch_size=64), **settings)
    tasks = fit_tasks(atlas.path, tmp_path, config, Workers(None, n_workers, 1))
    return {
        (task.payload.model, task.payload.fold): task.n_ranks
        for task in share_fits(tasks, config, atlas, n_workers)
    }


def test_workers_share_fits_by_themselves_only_if_they_are_idle_and_the_atlas_is_large(
    small, large, tmp_path
):
    both = {"models": ("me", "re", "pca")}
    assert set(shares(small, tmp_path, 8, **both).values()) == {1}
    assert shares(large, tmp_path, 8, **both) == {("me", 0): 4, ("re", 0): 4, ("pca", 0): 1}
    assert set(shares(large, tmp_path, 2, **both).values()) == {1}
    assert set(shares(large, tmp_path, 5, **both).values()) == {2, 1}
    assert shares(large, tmp_path, 8, models=("pca",)) == {("pca", 0): 1}
    assert not may_share(RunConfig(), small)
    assert may_share(RunConfig(), large)


def test_as_many_share_a_fit_as_were_asked_for(small, tmp_path):
    found = shares(small, tmp_path, 4, models=("me", "pca"), folds=(0, 1), workers_per_fit=3)
    assert found == {("me", 0): 3, ("me", 1): 3, ("pca", 0): 1, ("pca", 1): 1}
    assert may_share(RunConfig(workers_per_fit=2), small)
    assert not may_share(RunConfig(workers_per_fit=1), small)


def test_what_cannot_be_shared_is_told_before_anything_starts(small, large, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"workers_per_fit must be at least 1; got 0\."):
        RunConfig(workers_per_fit=0)
    with pytest.raises(
        ConfigError,
        match=r"workers_per_fit 5 needs as many workers; workers is 2\. Set --workers to 5",
    ):
        RunConfig(workers=2, workers_per_fit=5)
    with pytest.raises(
        ConfigError, match=r"workers_per_fit 3 needs as many workers; there are 2\. Set --workers"
    ):
        shares(small, tmp_path, 2, workers_per_fit=3)
    with pytest.raises(ConfigError, match=r"ranks"):
        shares(small, tmp_path, 64, workers_per_fit=64)
    compiled = {"train": TrainConfig(compile="on")}
    with pytest.raises(ConfigError, match=r"found KERAS_BACKEND 'tensorflow', compile 'on'\. Set"):
        shares(small, tmp_path, 2, workers_per_fit=2, **compiled)
    assert set(shares(large, tmp_path, 64, **compiled).values()) == {1}
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    with pytest.raises(ConfigError, match=r"found KERAS_BACKEND 'jax', compile 'auto'\. Set"):
        shares(small, tmp_path, 2, workers_per_fit=2)
    assert set(shares(large, tmp_path, 64).values()) == {1}


def test_where_nobody_asked_no_more_share_a_fit_than_can(large, tmp_path):
    assert 1 <= shares(large, tmp_path, 64, models=("me",))["me", 0] <= 16
