"""Random effects of a run, as tables and as a file."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest

from medl_scale import Run
from medl_scale.errors import ConfigError, DataError, OutputExistsError, RunError
from medl_scale.pipeline import effect_files
from medl_scale.pipeline.effect_files import write_effects, write_run_effects
from medl_scale.progress import SilentProgress
from tests.tiny import N_BATCHES, N_GENES

pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'mode.chained_assignment' option"),
    pytest.mark.filterwarnings("ignore:distutils Version classes are deprecated"),
]


@pytest.fixture(scope="module")
def run(made):
    """The tiny run."""
    return Run.load(made.run)


@pytest.mark.parametrize("model", ["me", "re"])
def test_effects_of_a_run_are_its_posterior(run, model):
    rows = run.effects(model)
    assert len(rows) == N_GENES * N_BATCHES
    assert list(rows.columns[:5]) == ["model", "fold", "gene", "batch", "n_cells"]
    assert set(rows["model"]) == {model}
    assert set(rows["fold"]) == {0}
    posterior = run.posterior(model, "batch_2")
    own = rows[rows["batch"] == "batch_2"]
    np.testing.assert_allclose(own["scale"], posterior.mean()[0], rtol=1e-6)
    np.testing.assert_allclose(own["scale_sd"], posterior.stddev()[0], rtol=1e-6)
    # ME's shifts are in s.d. of the genes as they are; RE trains its unit.
    tolerance = 1e-5 if model == "me" else 0.2
    np.testing.assert_allclose(own["shift"], posterior.mean()[1], rtol=tolerance, atol=1e-6)


def test_moves_point_where_the_batch_means_lie(run):
    summary = run.model("me").summary
    genes, batches = summary.sd > 0, range(N_BATCHES)
    apart = (summary.batch_mean - summary.mean)[:, genes] / summary.sd[genes]
    moves = run.effects("me")["move"].to_numpy().reshape(N_GENES, N_BATCHES)[genes].T
    for code in batches:
        assert np.corrcoef(apart[code], moves[code])[0, 1] > 0.9


def test_moved_genes_of_a_run_are_ranked(run):
    found = run.moved_genes()
    assert sorted(found["gene"]) == sorted(run.model("me").vocabulary.var_names)
    assert (found["score"].diff().dropna() <= 0).all()
    assert found["score"][0] > 0
    varying = found.dropna(subset=["share"])
    assert varying["share"].corr(varying["observed_share"], method="spearman") > 0.8
    assert set(run.moved_genes(batches=["batch_3"])["batch"]) == {"batch_3"}


def test_effects_written_are_those_returned(run, tmp_path):
    rows = run.effects("re")
    paths = [tmp_path / "new" / name for name in ("effects.csv", "effects.csv.gz")]
    for path in paths:
        assert write_effects(run, path, model="re") == path
        found = pd.read_csv(path)
        assert list(found.columns) == list(rows.columns)
        for name in ("model", "gene", "batch"):
            assert list(found[name]) == list(rows[name].astype(str))
        np.testing.assert_allclose(found.iloc[:, 4:], rows.iloc[:, 4:], rtol=1e-5)
    first = paths[1].read_bytes()
    write_effects(run, paths[1], model="re", overwrite=True)
    assert paths[1].read_bytes() == first
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [p.name for p in paths]


def test_fit_leaves_the_effects_and_the_genes_that_move_in_the_run(run):
    rows = pd.read_csv(run.path / "effects.csv")
    assert len(rows) == 2 * N_GENES * N_BATCHES
    moved = pd.read_csv(run.path / "moved_genes.csv")
    for model in ("me", "re"):
        own = rows[rows["model"] == model]
        expected = run.effects(model)
        assert list(own["gene"]) == list(expected["gene"].astype(str))
        np.testing.assert_allclose(own.iloc[:, 4:], expected.iloc[:, 4:], rtol=1e-4, atol=1e-6)
        ranked = moved[moved["model"] == model]
        assert list(ranked["gene"]) == list(run.moved_genes(model)["gene"])


class Heard(SilentProgress):
    """Keeps what is told."""

    def __init__(self):
        self.notes = []

    def note(self, message, **fields):
        self.notes.append(message)


def test_of_a_large_run_the_genes_that_move_most_are_written_and_that_is_told(
    run, tmp_path, monkeypatch
):
    monkeypatch.setattr(effect_files, "MOST_ROWS", 2 * N_BATCHES * 5 + 3)
    copy = Run(shutil.copytree(run.path, tmp_path / "run"))
    heard = Heard()
    write_run_effects(copy, progress=heard)
    rows = pd.read_csv(copy.path / "effects.csv")
    for model in ("me", "re"):
        genes = rows.loc[rows["model"] == model, "gene"].unique().tolist()
        assert genes == run.moved_genes(model)["gene"][:5].tolist()
    assert len(pd.read_csv(copy.path / "moved_genes.csv")) == 2 * N_GENES
    (note,) = heard.notes
    assert note.startswith(
        "effects.csv holds the 5 of 80 genes that batches move most, in 4 batches and 2 fits. All of "
    )
    assert note.endswith(f"`medl-scale effects {copy.path} -o all.csv.gz`.")


def test_a_file_that_is_there_is_kept_unless_it_may_be_replaced(run, tmp_path):
    path = write_effects(run, tmp_path / "effects.csv")
    before = path.read_bytes()
    message = r"effects\.csv exists already\. Choose another out"
    with pytest.raises(OutputExistsError, match=message):
        write_effects(run, path, model="re")
    assert path.read_bytes() == before
    write_effects(run, path, model="re", overwrite=True)
    assert path.read_bytes() != before


def test_what_a_run_does_not_have_is_told(run, made, tmp_path):
    pca = tmp_path / "pca"
    shutil.copytree(made.run, pca)
    settings = pca / "config.toml"
    settings.write_text(settings.read_text().replace('"me"', '"pca"').replace('"re"', '"fe"'))
    for call, error, message in (
        (lambda: run.effects("fe"), ConfigError,
         r"Model 'fe' has no random effects\. Models of this run that have: 'me', 're'\."),
        (lambda: Run(pca).effects(), RunError, r"has no model 'me'\. Models of this run that have: none"),
        (lambda: run.moved_genes("re", fold=3), RunError, r"has no fold 3\. Folds: 0\."),
        (lambda: run.effects(batches=["batch_9"]), DataError, r"no batch 'batch_9'\. There are: 'batch_1'"),
        (lambda: run.effects(genes=["MALAT1"]), DataError, r"no gene 'MALAT1'\. There are: "),
        (lambda: write_effects(run, tmp_path / "effects.tsv"), ConfigError,
         r"OUT\.csv or OUT\.csv\.gz; got 'effects\.tsv'\."),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            call()
