"""What the models reach on real data: the figures that the README quotes, and no worse.

Most of these train for minutes and carry `slow`; `make test-all` runs them.
"""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from medl_scale.config import MODELS, ModelConfig, PrepareConfig, StreamConfig, TrainConfig
from medl_scale.store.atlas import describe, read_columns
from medl_scale.store.latents import read_latent_array
from medl_scale.store.prepare import prepare
from medl_scale.train.fit import fit_one
from medl_scale.train.fit_files import FitTask, latent_path, read_epochs

SETS = {
    "aml": "aml_vangalen_d0.h5ad",
    "scmix": "scmix_3cl5cl_5batches.h5ad",
    "pancreas": "pancreas_panc8_small_5tech.h5ad",
    "pbmc": "pbmc_symphony_3tech.h5ad",
    "onek1k": "onek1k_40donors_1000genes.h5ad",
}


@pytest.fixture(scope="session")
def atlas_of(shared_data, tmp_path_factory):
    """Return a function that prepares a real set once."""
    folder = tmp_path_factory.mktemp("real")

    def make(name):
        path = folder / f"{name}.zarr"
        if not path.exists():
            config = PrepareConfig(batch_key="batch", labels_key="cell_type", n_top_genes=2916)
            prepare([shared_data / SETS[name]], path, config)
        return str(path)

    return make


@pytest.fixture
def fitted(atlas_of, tmp_path):
    """Return a function that fits a model on fold 0 and returns its summary and latents."""

    def fit(name, model, *, tag="", model_config=None, **train):
        task = FitTask(
            ref=atlas_of(name),
            model=model,
            fold=0,
            folder=str(tmp_path / f"{name}-{model}{tag}"),
            latents=str(tmp_path / f"{name}{tag}.zarr"),
            model_config=model_config or ModelConfig(),
            train_config=TrainConfig(**train),
            stream_config=StreamConfig(),
            n_threads=2,
        )
        summary = fit_one(task)
        latents = {
            key: read_latent_array(latent_path(task.latents, key, 0)) for key in summary.keys
        }
        return summary, latents

    return fit


def type_accuracy(path, latent):
    """Return the balanced accuracy of cell types by 15 nearest train neighbours, on test cells."""
    codes, split = read_columns(path).label_codes, describe(path).split(0)
    train = np.concatenate([np.arange(rows.start, rows.stop) for rows in split.train])
    nearest = KNeighborsClassifier(15).fit(latent[train], codes[train])
    return balanced_accuracy_score(codes[split.test], nearest.predict(latent[split.test]))


def scib_scores(path, latents, reference):
    """Return scib-metrics' Benchmarker figures; kBET and isolated labels off, exact neighbours."""
    import anndata
    from scib_metrics.benchmark import BatchCorrection, Benchmarker, BioConservation
    from scib_metrics.nearest_neighbors import NeighborsResults
    from sklearn.neighbors import NearestNeighbors

    def exact(values, k):
        found = NearestNeighbors(n_neighbors=min(k, len(values) - 1), algorithm="brute")
        distances, indices = found.fit(values).kneighbors(values)
        return NeighborsResults(indices=indices, distances=distances)

    atlas, columns = describe(path), read_columns(path)
    cells = anndata.AnnData(np.zeros((atlas.n_obs, 1), np.float32))
    cells.obs["batch"] = [atlas.batch_levels[code] for code in columns.batch_codes]
    cells.obs["label"] = [atlas.label_levels[code] for code in columns.label_codes]
    cells.obs = cells.obs.astype("category")
    cells.obsm["reference"] = reference
    for key, values in latents.items():
        cells.obsm[key] = values
    bench = Benchmarker(
        cells,
        "batch",
        "label",
        list(latents),
        bio_conservation_metrics=BioConservation(
            isolated_labels=False, nmi_ari_cluster_labels_leiden=False
        ),
        batch_correction_metrics=BatchCorrection(kbet_per_label=False),
        n_jobs=1,
        pre_integrated_embedding_obsm_key="reference",
        progress_bar=False,
    )
    bench.prepare(exact)
    bench.benchmark()
    table = bench.get_results(min_max_scale=False).drop(index="Metric Type").astype(float)
    mixing = table[["BRAS", "iLISI", "Graph connectivity"]].mean(axis=1)
    table["Total without PCR"] = 0.4 * mixing + 0.6 * table["Bio conservation"]
    return table


def test_default_models_run_through_on_a_small_real_set(fitted, atlas_of):
    path = atlas_of("scmix")
    for model in ("me", "pca"):
        summary, latents = fitted("scmix", model, max_epochs=40)
        for latent in latents.values():
            assert np.isfinite(latent).all()
            assert type_accuracy(path, latent) > 0.9
        assert math.isfinite(summary.losses.get("val_total", 0.0))


@pytest.mark.slow  # trains for minutes
@pytest.mark.timeout(3600)
def test_random_effects_learn_within_2000_steps(fitted):
    ours, _ = fitted("aml", "re", max_epochs=133)
    assert ours.n_steps <= 2000
    assert ours.relative_error <= 0.75


@pytest.mark.slow  # trains for minutes
@pytest.mark.timeout(3600)
def test_published_random_effects_start_hundredfold_above_the_variance(atlas_of, tmp_path):
    task = FitTask(
        ref=atlas_of("aml"),
        model="re",
        fold=0,
        folder=str(tmp_path / "re"),
        latents=str(tmp_path / "latents.zarr"),
        model_config=ModelConfig(preset="scmedal", preset_data="aml"),
        train_config=TrainConfig(max_epochs=5),
        stream_config=StreamConfig(),
        n_threads=2,
    )
    fit_one(task)
    rows, _ = read_epochs(tmp_path / "re")
    errors = [row["val_reconstruction"] for row in rows]
    assert 0.03 < errors[0] < 1.0
    assert max(errors) < 1.5


@pytest.mark.slow  # trains for minutes
@pytest.mark.timeout(3600)
def test_fixed_effects_reconstruct_and_the_strong_adversary_mixes(fitted):
    steps = {"max_epochs": 60, "early_stopping_patience": 10**6}
    plain, _ = fitted("aml", "ae", **steps)
    published, _ = fitted("aml", "fe", **steps)
    strong, _ = fitted(
        "aml", "fe", tag="-strong", model_config=ModelConfig(adversary="strong"), **steps
    )
    assert published.losses["val_reconstruction"] <= 1.15 * plain.losses["val_reconstruction"]
    assert strong.probe["ilisi"] >= 2.0 * published.probe["ilisi"]
    assert strong.probe["forest_accuracy"] < published.probe["forest_accuracy"]


@pytest.mark.slow  # trains for minutes, and scores 12,811 cells
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore")  # scib-metrics and what it loads warn of many things
def test_mixed_effects_reach_the_measured_scib_totals_on_aml(fitted, atlas_of):
    _, joint = fitted("aml", "me")
    _, linear = fitted("aml", "pca")
    latents = joint | {"centred": linear["X_pca_batch_centred"]}
    scores = scib_scores(atlas_of("aml"), latents, linear["X_pca"])
    ours = scores.loc["X_medl_me"]
    harmony = 0.524  # on the same cells and scores
    assert ours["Total"] >= 0.54
    assert ours["Total"] > harmony
    assert ours["Total"] >= scores.loc["centred", "Total"]
    assert ours["Total without PCR"] >= 0.50


@pytest.mark.slow  # trains every model on four sets
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["scmix", "pancreas", "pbmc"])
def test_every_model_runs_through_and_labels_stay_separable(fitted, atlas_of, name):
    _, linear = fitted(name, "pca")
    reference = type_accuracy(atlas_of(name), linear["X_pca"])
    for model in MODELS:
        summary, latents = fitted(name, model, tag=f"-{model}")
        assert not any(math.isnan(v) for v in dataclasses.asdict(summary)["losses"].values())
        for key, latent in latents.items():
            assert type_accuracy(atlas_of(name), latent) > reference - 0.25, key


@pytest.mark.slow  # trains for minutes
@pytest.mark.timeout(3600)
def test_forty_donors_run_through(fitted):
    for model in ("me", "re", "fe"):
        summary, latents = fitted("onek1k", model, max_epochs=10)
        assert all(np.isfinite(latent).all() for latent in latents.values())
        assert summary.relative_error < 1.0


@pytest.mark.slow  # trains, and scores 12,811 cells by scikit-learn, scib-metrics and harmonypy
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore")  # scib-metrics and what it loads warn of many things
def test_figures_of_aml_latents_equal_those_of_the_libraries_that_define_them(fitted, atlas_of):
    import scib_metrics
    from harmonypy import compute_lisi
    from scib_metrics.nearest_neighbors import NeighborsResults
    from sklearn import metrics
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.preprocessing import StandardScaler

    from medl_scale import evaluate

    path = atlas_of("aml")
    columns, split = read_columns(path), describe(path).split(0)
    batches, labels = columns.batch_codes, columns.label_codes
    train = np.concatenate([np.arange(rows.start, rows.stop) for rows in split.train])
    _, random = fitted("aml", "re", max_epochs=3)
    _, linear = fitted("aml", "pca")
    for key, latent in (random | {"X_pca": linear["X_pca"]}).items():
        exact = latent.astype(np.float64) - latent.mean(axis=0, dtype=np.float64)
        for groups in (batches, labels):
            ours = evaluate.silhouette_samples(latent, groups)
            theirs = metrics.silhouette_samples(exact, groups)
            assert np.abs(np.asarray(ours) - theirs).max() <= 1e-5, key
            assert abs(ours.value - theirs.mean()) <= ours.error + 1e-12
            for mine, reference in (
                (evaluate.calinski_harabasz, metrics.calinski_harabasz_score),
                (evaluate.davies_bouldin, metrics.davies_bouldin_score),
            ):
                assert float(mine(latent, groups)) == pytest.approx(
                    reference(exact, groups), rel=1e-9
                )

        near = evaluate.nearest_neighbours(latent, 90)
        frame = pd.DataFrame({"batch": batches.astype(str)})
        harmony = compute_lisi(exact, frame, ["batch"], 30)[:, 0]
        assert np.median(np.abs(evaluate.lisi(near, batches) - harmony)) <= 1e-9
        near = evaluate.nearest_neighbours(latent, 89)
        # scib-metrics counts the cell itself among its neighbours.
        own = np.arange(len(latent))[:, None]
        theirs = NeighborsResults(
            indices=np.hstack([own, near.indices]),
            distances=np.hstack([np.zeros((len(latent), 1)), near.distances]),
        )
        pairs = {
            "ilisi_knn": (evaluate.ilisi_knn(near, batches), (theirs, batches)),
            "clisi_knn": (evaluate.clisi_knn(near, labels), (theirs, labels)),
            "graph_connectivity": (evaluate.graph_connectivity(near, labels), (theirs, labels)),
            "silhouette_label": (evaluate.silhouette_label(latent, labels), (latent, labels)),
            "silhouette_batch": (
                evaluate.silhouette_batch(latent, labels, batches),
                (latent, labels, batches),
            ),
            "bras": (evaluate.bras(latent, labels, batches), (latent, labels, batches)),
        }
        for name, (ours, arguments) in pairs.items():
            reference = float(getattr(scib_metrics, name)(*arguments))
            assert float(ours) == pytest.approx(reference, abs=1e-4), (key, name)
        kbet, _, _ = scib_metrics.kbet(theirs, batches)
        assert float(evaluate.kbet(near, batches)) == pytest.approx(float(kbet), abs=1e-3)

        ours = evaluate.forest_accuracy(
            latent[train], labels[train], latent[split.test], labels[split.test]
        )
        scaler = StandardScaler().fit(latent[train])
        forest = RandomForestClassifier(100, random_state=42, n_jobs=2)
        forest.fit(scaler.transform(latent[train]), labels[train])
        said = forest.predict(scaler.transform(latent[split.test]))
        assert ours.accuracy == np.mean(said == labels[split.test])
        assert ours.balanced_accuracy == pytest.approx(
            balanced_accuracy_score(labels[split.test], said)
        )
