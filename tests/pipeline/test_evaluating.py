import re

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import silhouette_score

import medl_scale
from medl_scale.config import METRIC_GROUPS
from medl_scale.distribute.clusters.local import local_client
from medl_scale.errors import ConfigError, DataError, RunError
from medl_scale.pipeline.evaluating import evaluate
from medl_scale.pipeline.run import Run
from medl_scale.pipeline.scores import read_scores
from medl_scale.store.atlas import describe, read_columns
from tests.tiny import KEYS, medl

QUIET = {"progress": False}
CHEAP = QUIET | {"metrics": ("ASW", "CH")}


@pytest.fixture
def cells():
    """Cells of three types in four batches; two latents, one of them without anything to see."""
    rng = np.random.default_rng(0)
    types, batches = rng.integers(3, size=300), rng.integers(4, size=300)
    latent = rng.normal(size=(300, 4)) + 3 * np.eye(4)[types]
    obs = pd.DataFrame(
        {
            "type": pd.Categorical.from_codes(types, ["B", "NK", "T"]),
            "donor": [f"d{code}" for code in batches],
            "status": np.where(batches < 2, "ill", "well"),
        },
        index=[f"cell{i}" for i in range(300)],
    )
    obsm = {"X_good": latent.astype(np.float32), "X_noise": rng.normal(size=(300, 2))}
    return ad.AnnData(np.ones((300, 1), np.float32), obs=obs, obsm=obsm)


KEYED = {"batch_key": "donor", "labels_key": "type"}


def test_a_run_is_scored_on_the_test_split_of_its_fold(made, tmp_path):
    scores = evaluate(made.run, output=tmp_path / "scores.csv", **CHEAP)
    atlas, columns = describe(made.atlas), read_columns(made.atlas)
    rows = atlas.split(0).test
    latent = Run(made.run).latent("me")[rows]
    found = scores.table.set_index(["space", "metric", "of"])
    assert set(scores.table["space"]) == KEYS
    for of, codes in (("batch", columns.batch_codes), ("cell_type", columns.label_codes)):
        one = found.loc[("X_medl_me", "ASW", of)]
        assert abs(one["value"] - silhouette_score(latent, codes[rows])) <= one["error"] + 1e-7
        assert (one["n"], one["split"]) == (rows.stop - rows.start, "test")
    on_disk = pd.read_csv(tmp_path / "scores.csv")
    pd.testing.assert_frame_equal(on_disk, scores.table, check_dtype=False)


def test_every_metric_has_a_figure_and_an_error_in_the_range_of_each(made, tmp_path):
    scores = evaluate(
        made.run, use_rep=("me", "re", "pca"), output=tmp_path / "scores.csv", **QUIET
    )
    table = scores.table
    names = {name for group in METRIC_GROUPS.values() for name in group}
    assert set(table["metric"]) == names
    assert table["value"].notna().all()
    assert (table["error"] >= 0).all()
    assert set(table["kind"]) <= {"exact", "certified", "confidence"}
    unit = table[table["metric"].isin([*METRIC_GROUPS["scib"], *METRIC_GROUPS["forest"]])]
    assert unit["value"].between(-0.5, 1 + 1e-9).all()
    controls = {"one-hot batch", "X_pca + one-hot batch"}
    forests = table[table["metric"] == "RFAccuracy"]
    assert set(forests["space"]) == {"X_medl_me", "X_medl_re", "X_pca"} | controls
    assert set(forests["split"]) == {"test", "test, unseen batches"}
    assert len(scores.verdicts) == 3
    # What is told rightly of all cells is the accuracy, and it is read back as it was.
    counts = scores.confusion
    right = counts[counts["truth"] == counts["predicted"]].groupby(["space", "split"])["n"].sum()
    shares = right / counts.groupby(["space", "split"])["n"].sum()
    accuracies = forests.set_index(["space", "split"])["value"]
    pd.testing.assert_series_equal(shares, accuracies[shares.index], check_names=False)
    written = read_scores(tmp_path / "scores.csv").confusion
    pd.testing.assert_frame_equal(written, counts, check_dtype=False)
    again = Run(made.run)
    with pytest.raises(RunError, match="There are no scores"):
        _ = again.scores


def test_any_anndata_can_be_scored_and_a_good_latent_wins(cells):
    scores = evaluate(cells, **KEYED, metrics=("scib", "published"), **QUIET)
    assert scores.path is None
    value = scores.summary.set_index(["space", "metric", "of"])["value"]
    for metric in ("silhouette_label", "nmi", "ari", "clisi_knn", "graph_connectivity"):
        assert value["X_good", metric, "type"] > value["X_noise", metric, "type"] + 0.03


def test_a_property_of_the_donor_is_called_what_it_is(cells):
    cells.obsm["X_leaky"] = np.eye(4)[[int(name[1]) for name in cells.obs["donor"]]]
    scores = evaluate(cells, **KEYED, targets="status", metrics="forest", **QUIET)
    said = [v for v in scores.verdicts if v.startswith("status") and "X_leaky" in v]
    assert len(said) == 1
    assert re.search("is no better than looking up the batch", said[0])


def test_workers_and_a_client_change_no_figure(cells):
    cells.obsm = {"X_good": cells.obsm["X_good"]}
    here = evaluate(cells, **KEYED, **QUIET).table.drop(columns="seconds")
    with local_client(2, 1) as client:
        there = evaluate(cells, **KEYED, client=client, **QUIET).table.drop(columns="seconds")
    pd.testing.assert_frame_equal(here, there)


def test_unlabelled_cells_are_left_out_of_figures_of_labels_only(cells):
    cells.obs["type"] = cells.obs["type"].cat.add_categories("Unknown")
    cells.obs.loc[cells.obs_names[:60], "type"] = "Unknown"
    table = evaluate(cells, **KEYED, use_rep="X_good", metrics=("ASW", "lisi"), **QUIET).table
    n = dict(zip(table["metric"] + " " + table["of"], table["n"], strict=True))
    assert n == {"ASW type": 240, "cLISI type": 240, "ASW donor": 300, "iLISI donor": 300}
    only = evaluate(cells[60:], **KEYED, use_rep="X_good", metrics="cLISI", **QUIET).table
    assert float(only["value"].iloc[0]) == table.loc[table["metric"] == "cLISI", "value"].iloc[0]


def test_an_atlas_is_scored_on_all_its_cells_with_the_keys_it_was_prepared_by(made, tmp_path):
    scores = evaluate(made.atlas, use_rep=("me", "pca"), output=tmp_path / "s.csv", **CHEAP)
    assert set(scores.table["space"]) == {"X_medl_me", "X_pca"}
    assert set(scores.table["of"]) == {"batch", "cell_type"}
    assert set(scores.table["split"]) == {"all"}
    assert set(scores.table["n"]) == {describe(made.atlas).n_obs}
    test = evaluate(
        made.atlas, use_rep="me", split="test", output=tmp_path / "t.csv", **CHEAP
    ).table
    run = evaluate(made.run, use_rep="me", output=tmp_path / "r.csv", **CHEAP).table
    pd.testing.assert_series_equal(test["value"], run["value"])


def test_without_labels_the_figures_of_batches_remain_and_a_note_says_why(cells):
    scores = evaluate(cells, batch_key="donor", metrics=("ASW", "nmi", "kbet"), **QUIET)
    assert set(scores.table["of"]) == {"donor"}
    assert "No labels_key" in scores.notes[0]


def test_a_score_that_has_no_meaning_is_told_and_costs_no_other(cells):
    cells.obs["one"] = "same"
    table = evaluate(
        cells, batch_key="donor", labels_key="one", use_rep="X_good", metrics="ASW", **QUIET
    ).table.set_index("of")
    assert np.isnan(table.loc["one", "value"])
    assert table.loc["one", "method"].startswith("undefined: label must have between 2 and 299")
    assert table.loc["donor", "kind"] == "exact"


def test_the_papers_protocol_stands_beside_the_full_figures_under_its_own_names():
    rng = np.random.default_rng(0)
    n = 12_000
    adata = ad.AnnData(
        np.ones((n, 1), np.float32),
        obs=pd.DataFrame({"donor": [f"d{code}" for code in rng.integers(40, size=n)]},
                         index=[str(i) for i in range(n)]),
        obsm={"X_noise": rng.normal(size=(n, 2)).astype(np.float32)},
    )  # fmt: skip
    table = evaluate(
        adata, batch_key="donor", protocol="paper", metrics="published", **QUIET
    ).table.set_index("metric")
    assert set(table.index) == {"ASW", "CH", "1/DB", "ASW of 10000 cells", "CH of 10000 cells",
                                "1/DB of 10000 cells"}  # fmt: skip
    assert table.loc["ASW of 10000 cells", "n"] == 10_000
    assert (
        "10,000 of 12,000 cells, the papers' protocol" in table.loc["CH of 10000 cells", "method"]
    )
    assert table.loc["ASW of 10000 cells", "value"] < table.loc["ASW", "value"]
    with pytest.raises(
        ConfigError, match=r"The papers' protocol has the metrics ASW, CH, 1/DB, RF"
    ):
        evaluate(adata, batch_key="donor", protocol="paper", metrics="scib", **QUIET)


def test_too_little_time_leaves_forests_out_and_says_so(cells):
    scores = evaluate(cells, **KEYED, max_seconds=1e-3, metrics=("forest", "CH", "iLISI"), **QUIET)
    value = scores.table.set_index("metric")["value"]
    assert set(value.index) == {"CH", "iLISI"}
    assert value["CH"].notna().all()
    assert any(note.startswith("Forests are left out: they take about") for note in scores.notes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels_key": "type"}, r"Name the column of obs .* --batch-key\..*'type', 'donor'"),
        ({"batch_key": "dnr"}, r"no obs column 'dnr'.*Did you mean 'donor'"),
        ({**KEYED, "use_rep": "X_goood"}, r"no embedding 'X_goood'\. There are: X_good, X_noise\."),
        ({**KEYED, "targets": "sex"}, r"no obs column 'sex'.*--targets"),
        ({**KEYED, "metrics": "asw"}, r"'asw' is not a metric\. Choose from silhouette_label,"),
        ({**KEYED, "split": "test"}, r"not a prepared atlas and has no test split"),
        ({**KEYED, "tol": 0.0}, r"tol must be positive"),
        ({**KEYED, "confidence": 1.0}, r"confidence must be in \(0\.5, 1\)"),
        ({**KEYED, "protocol": "short"}, r"protocol must be one of 'full', 'paper'"),
    ],
)
def test_what_cannot_be_scored_is_refused_with_the_choices(cells, settings, message):
    with pytest.raises((ConfigError, DataError), match=message):
        evaluate(cells, **settings, **QUIET)


def test_missing_values_are_counted(cells):
    cells.obs["status"] = cells.obs["status"].astype(object)
    cells.obs.loc[cells.obs_names[:7], "status"] = None
    with pytest.raises(DataError, match=r"obs\['status'\] of The AnnData is missing for 7 of 300"):
        evaluate(cells, **KEYED, targets="status", **QUIET)
    cells.obsm["X_good"][3, 1] = np.nan
    with pytest.raises(DataError, match="NaN in 1 cells"):
        evaluate(cells, **KEYED, metrics="ASW", **QUIET)


def test_a_run_whose_atlas_was_moved_takes_its_new_place(made, tmp_path):
    import shutil

    shutil.copytree(made.run, tmp_path / "run")
    environment = tmp_path / "run" / "environment.json"
    environment.write_text(
        environment.read_text().replace(str(made.atlas), str(tmp_path / "gone.zarr"))
    )
    with pytest.raises(RunError, match=r"gone\.zarr, which is not there.*--atlas"):
        evaluate(tmp_path / "run", **CHEAP)
    scores = evaluate(tmp_path / "run", atlas=made.atlas, **CHEAP)
    assert scores.path == tmp_path / "run" / "scores.csv"
    pd.testing.assert_frame_equal(
        Run(tmp_path / "run").scores.table, scores.table, check_dtype=False
    )


def test_the_command_prints_the_table_and_writes_it(cells, tmp_path):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    ended = medl(
        "evaluate", tmp_path / "cells.h5ad", "--batch-key", "donor", "--labels-key", "type",
        "--metrics", "ASW,ilisi_knn", "--use-rep", "X_good", "--use-rep", "X_noise",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert re.search(r"ASW\s+type\s+all\s+0\.\d+ ± \de-\d+", ended.out)
    assert f"Scores: {tmp_path / 'cells_scores.csv'}" in ended.out
    table = pd.read_csv(tmp_path / "cells_scores.csv")
    assert set(table["space"]) == {"X_good", "X_noise"}


def test_the_package_scores_by_its_name_and_holds_the_functions(cells):
    assert medl_scale.evaluate(cells, **KEYED, **CHEAP).summary.shape[0] == 8
    score = medl_scale.evaluate.silhouette_score(cells.obsm["X_good"], cells.obs["type"])
    assert 0.3 < float(score) < 0.6


def test_fit_ends_with_the_scores_of_its_test_cells(made, tmp_path):
    run = tmp_path / "run"
    ended = medl(
        "fit", made.atlas, "-o", run, "--models", "pca", "--n-latent", 5, "--no-latents",
        "--threads", 1,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert re.search(r"RFAccuracy\s+cell_type\s+test, unseen batches\s+0\.\d+", ended.out)
    assert f"Scores: {run / 'scores.csv'}" in ended.out
    scores = Run(run).scores
    assert set(scores.table["split"]) == {"test", "test, unseen batches"}
    assert all(sentence in ended.out for sentence in scores.verdicts)


def test_what_keeps_fit_from_scoring_is_told_and_costs_no_fit(made, tmp_path):
    run = tmp_path / "run"
    ended = medl(
        "fit", made.atlas, "-o", run, "--models", "me", "--fe-rep", "X_pca", "--max-epochs", 1,
        "--minibatch-size", 128, "--no-latents", "--threads", 1,
    )  # fmt: skip
    assert ended.code == 0
    assert "The latents were not scored: " in ended.err
    assert "has no finished latent to score" in ended.err
    assert set(Run(run).finished()) == {("me", 0)}
