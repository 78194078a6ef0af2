import pickle

import pytest

from medl_scale.config import (
    MODELS,
    ModelConfig,
    PrepareConfig,
    RunConfig,
    StreamConfig,
    TrainConfig,
)
from medl_scale.errors import ConfigError


def prepare(**settings):
    return PrepareConfig(batch_key="donor", **settings)


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (prepare, {"input_units": "tpm"}, "input_units must be one of 'counts', 'lognorm', 'log2p1'; "),
        (prepare, {"hvg_flavor": "best"}, "hvg_flavor must be one of 'seurat', 'cell_ranger', 'seurat_"),
        (prepare, {"join": "left"}, "join must be one of 'inner', 'outer'; got 'left'"),
        (prepare, {"folds": 2}, "folds must be at least 3; got 2"),
        (prepare, {"min_genes": -1}, "min_genes must be at least 0; got -1"),
        (prepare, {"min_cells": -1}, "min_cells must be at least 0; got -1"),
        (prepare, {"n_top_genes": -1}, "n_top_genes must be at least 0; got -1"),
        (prepare, {"seed": -1}, "seed must be at least 0; got -1"),
        (prepare, {"target_sum": 0.0}, "target_sum must be positive; got 0.0"),
        (prepare, {"target_sum": float("nan")}, "target_sum must be positive; got nan"),
        (
            prepare,
            {"hvg_flavor": "seurat_v3", "input_units": "lognorm"},
            "hvg_flavor 'seurat_v3' ranks genes by counts; input_units is 'lognorm'. Choose 'seurat'",
        ),
        (StreamConfig, {"minibatch_size": 1}, "minibatch_size must be at least 2; got 1"),
        (StreamConfig, {"run_size": 0}, "run_size must be at least 1; got 0"),
        (StreamConfig, {"run_size": 256, "window_size": 10}, "window_size must be at least 256; got 10"),
        (StreamConfig, {"cache_memory": -1}, "cache_memory must be at least 0; got -1"),
        (StreamConfig, {"prefetch": -1}, "prefetch must be at least 0; got -1"),
        (ModelConfig, {"preset": "best"}, "preset must be one of 'auto', 'medl', 'scmedal'; got 'best'"),
        (ModelConfig, {"preset_data": "pbmc"}, "preset_data must be one of 'generic', 'aml', 'asd', 'hh'"),
        (ModelConfig, {"adversary": "weak"}, "adversary must be one of 'published', 'strong'; got 'weak'"),
        (ModelConfig, {"n_latent": 0}, "n_latent must be at least 1; got 0"),
        (ModelConfig, {"hidden": ()}, "hidden must name at least one width >= 1; got ()"),
        (ModelConfig, {"hidden": (5, 0)}, "hidden must name at least one width >= 1; got (5, 0)"),
        (ModelConfig, {"recon_weight": -1.0}, "recon_weight must be at least 0; got -1.0"),
        (ModelConfig, {"kl_weight": float("nan")}, "kl_weight must be at least 0; got nan"),
        (ModelConfig, {"eta": -1.0}, "eta must be at least 0; got -1.0"),
        (ModelConfig, {"input_dropout": 1.0}, "input_dropout must be in [0, 1); got 1.0"),
        (TrainConfig, {"compile": "maybe"}, "compile must be one of 'auto', 'on', 'off'; got 'maybe'"),
        (TrainConfig, {"max_epochs": 0}, "max_epochs must be at least 1; got 0"),
        (TrainConfig, {"learning_rate": 0.0}, "learning_rate must be positive; got 0.0"),
        (TrainConfig, {"early_stopping_patience": 0}, "early_stopping_patience must be at least 1; got"),
        (TrainConfig, {"checkpoint_every_s": -1.0}, "checkpoint_every_s must be at least 0; got -1.0"),
        (TrainConfig, {"threads": 0}, "threads must be at least 1; got 0"),
        (RunConfig, {"models": ()}, "models names no model. Choose from me, fe, re, fec, ae, aec, pca"),
        (RunConfig, {"models": ("fe", "fe")}, "models names one twice: fe, fe"),
        (RunConfig, {"models": ("vae",)}, "models must be one of 'me', 'fe', 're', 'fec', 'ae', 'aec', "),
        (RunConfig, {"folds": ()}, "folds must be different numbers >= 0; got ()"),
        (RunConfig, {"folds": (1, 1)}, "folds must be different numbers >= 0; got (1, 1)"),
        (RunConfig, {"folds": (0, -1)}, "folds must be different numbers >= 0; got (0, -1)"),
        (RunConfig, {"fe_rep": "X_pca", "models": ("re",)}, "fe_rep freezes the encoder of 'me', which"),
        (RunConfig, {"workers": 0}, "workers must be at least 1; got 0"),
    ],
)  # fmt: skip
def test_a_setting_out_of_range_is_named_with_what_it_may_be(make, settings, message):
    with pytest.raises(ConfigError) as raised:
        make(**settings)
    assert message in str(raised.value)
    assert isinstance(raised.value, ValueError)


def test_settings_are_frozen_and_travel_to_workers():
    config = RunConfig(models=MODELS, model=ModelConfig(hidden=(7,)))
    assert pickle.loads(pickle.dumps(config)) == config
    with pytest.raises(AttributeError):
        config.workers = 3
