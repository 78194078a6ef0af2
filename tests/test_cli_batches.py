"""The commands that ask a run about its batches, as users type them: effects, sketch, compare, genomap."""

from __future__ import annotations

import shutil

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import medl_scale
from medl_scale import Run
from tests import tiny
from tests.pipeline.test_comparing import GROUP_OF
from tests.tiny import medl

# anndata still sets an option of pandas when it makes a view.
pytestmark = pytest.mark.filterwarnings("ignore:The 'mode.chained_assignment' option")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return tiny.made(tmp_path_factory)


@pytest.fixture(scope="module")
def run(made, tmp_path_factory):
    """A copy of the run, with a sketch, beside an atlas with groups of donors."""
    folder = tmp_path_factory.mktemp("batches")
    shutil.copytree(made.run, folder / "run")
    shutil.copytree(made.atlas, folder / "atlas.zarr")
    ended = medl("sketch", folder / "run", "--atlas", made.atlas)
    assert ended.code == 0, ended.err
    assert ended.out.endswith("3 types x 4 source x 4 target batches x 80 genes\n")
    return Run.load(folder / "run")


def test_the_genes_that_move_most_are_listed_and_all_effects_written(run, tmp_path):
    out = tmp_path / "re.csv.gz"
    ended = medl("effects", run.path, "--model", "re", "--top", 3, "--level", 0.8, "-o", out)
    assert ended.code == 0, ended.err
    moved = run.moved_genes("re", level=0.8)
    lines = ended.out.splitlines()
    assert "by (80% interval)" in lines[1]
    for line, gene in zip(lines[2:5], moved.iloc[:3].itertuples(), strict=True):
        assert line.startswith(gene.gene)
        assert f"{gene.move:+.2f} ({gene.move_lower:+.2f} to {gene.move_upper:+.2f})" in line
    assert lines[5].startswith("score: ")
    assert lines[-1] == f"Effects of every gene and batch: {out}"
    assert len(pd.read_csv(out)) == 4 * 80
    one = medl("effects", run.path, "--batches", "batch_2", "--top", 0)
    assert one.out.count("batch_2") == 80


def test_a_sketch_is_asked_what_moving_changes_and_how_far_batches_lie_apart(run, tmp_path):
    sketch = medl_scale.open_sketch(run)
    before = {path: path.stat().st_mtime_ns for path in sketch.path.rglob("*")}
    table = tmp_path / "moves.csv"
    ended = medl("sketch", run.path, "--from", "batch_1", "--to", "batch_3", "--cell-type", "type_2",
                 "--top", 4, "--table", table)  # fmt: skip
    assert ended.code == 0, ended.err
    expected = sketch.moved_genes("type_2", "batch_1", "batch_3")
    found = pd.read_csv(table, index_col="gene")
    assert found.index.tolist() == expected.index.tolist()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    lines = ended.out.splitlines()
    assert lines[0] == "What moving type_2 from batch_1 to batch_3 changes most"
    assert [line.split()[0] for line in lines[2:6]] == expected.index[:4].tolist()
    ended = medl("sketch", run.path, "--distances", "all", "--strata", 2, "--table",
                 tmp_path / "d.csv")  # fmt: skip
    assert ended.code == 0, ended.err
    found = pd.read_csv(tmp_path / "d.csv", index_col=0)
    np.testing.assert_allclose(found.iloc[:, :4], sketch.distances(), rtol=1e-5, atol=1e-9)
    strata = sketch.dendrogram().strata(2)
    assert found["stratum"].to_dict() == strata.to_dict()
    assert "Strata, by average linkage" in ended.out
    # Nothing was decoded again.
    assert {path: path.stat().st_mtime_ns for path in sketch.path.rglob("*")} == before


@pytest.mark.filterwarnings("ignore:With 2 and 2 donors the smallest possible p")
def test_groups_of_donors_are_compared_with_their_number_beside_every_p(run, tmp_path):
    adata = ad.read_zarr(run.path.parent / "atlas.zarr")
    adata.obs["condition"] = pd.Categorical(adata.obs["batch"].astype(str).map(GROUP_OF))
    atlas = tmp_path / "atlas.zarr"
    adata.write_zarr(atlas)
    out = tmp_path / "new" / "table.csv"
    args = ("compare", run.path, "--groups", "condition", "--a", "healthy", "--b", "ill", "--cells",
            "cell_type == 'type_2'", "--atlas", atlas, "--top", 5)  # fmt: skip
    ended = medl(*args, "-o", out)
    assert ended.code == 0, ended.err
    expected = run.compare("condition", ("healthy", "ill"), cells="cell_type == 'type_2'",
                           atlas=adata, progress=False)  # fmt: skip
    found = pd.read_csv(out)
    assert found["gene"].tolist() == expected["gene"].tolist()
    np.testing.assert_allclose(found["p_mixed"], expected["p_mixed"], rtol=1e-5)
    lines = ended.out.splitlines()
    assert lines[0] == "ill against healthy: the same cells as if from each donor"
    for line, gene in zip(lines[2:7], expected["gene"], strict=False):
        assert line.startswith(gene)
        assert line.rstrip().endswith("2 v 2")
    assert "the smallest possible p of a rank test is 0.333" in ended.err
    again = medl(*args, "-o", out)
    assert again.code == 2
    assert "table.csv exists already" in again.err


def test_a_picture_of_too_many_cells_is_refused_before_any_is_decoded(run, made, monkeypatch):
    def decode(*_args, **_options):
        raise AssertionError("cells were decoded")

    monkeypatch.setattr("medl_scale.pipeline.genomaps.project", decode)
    ended = medl("genomap", run.path, "--cells", "medl_part >= 0", "--as-batch", "all", "-o",
                 run.path / "a.png", "--atlas", made.atlas)  # fmt: skip
    assert ended.code == 2
    assert "600 cells with 7 images each make 600. Choose fewer cells or batches" in ended.err
    assert not (run.path / "genomaps").exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("effects", "RUN", "--model", "fe"), "Model 'fe' has no random effects"),
        (("effects", "RUN", "-o", "effects.tsv"), "OUT.csv or OUT.csv.gz; got 'effects.tsv'"),
        (("sketch", "RUN", "--from", "batch_1"), "give --from, --to and --cell-type together"),
        (("sketch", "RUN", "--table", "t.csv"), "--table holds an answer"),
        (("sketch", "RUN", "--strata", "2"), "--strata divides batches by their distances"),
        (("sketch", "RUN", "--distances", "type_9"), "no cell type 'type_9'"),
        (("sketch", "RUN", "--distances", "type_1", "--table", "t.xlsx"), "OUT.csv; got 't.xlsx'"),
        (("sketch", "RUN"), "exists already"),
        (("compare", "RUN", "--groups", "donor", "--a", "x", "--b", "y"), "has no 'donor'"),
        (("compare", "RUN", "--groups", "batch", "--a", "x", "--b", "batch_1"), "no group 'x'"),
    ],
)
def test_what_cannot_be_answered_is_one_line_and_exit_code_2(
    run, made, tmp_path, monkeypatch, command, message
):
    monkeypatch.chdir(tmp_path)
    more = ("--atlas", made.atlas) if command[0] != "effects" else ()
    ended = medl(*(run.path if part == "RUN" else part for part in command), *more)
    assert ended.code == 2
    assert message in ended.err
    assert "Traceback" not in ended.err
    assert list(tmp_path.iterdir()) == []
