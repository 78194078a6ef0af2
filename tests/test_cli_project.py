"""The command that projects, as users type it."""

import anndata as ad
import numpy as np
import pytest

from medl_scale import Run
from tests import tiny
from tests.tiny import medl

# anndata still sets an option of pandas when it makes a view.
pytestmark = pytest.mark.filterwarnings("ignore:The 'mode.chained_assignment' option")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return tiny.made(tmp_path_factory)


def test_cells_of_a_query_are_written_under_the_batches_named(made, tmp_path):
    out = tmp_path / "out.zarr"
    query = "cell_type == 'type_3'"
    ended = medl("project", made.run, "--cells", query, "--as-batch", "batch_1,batch_4", "-o", out)
    assert ended.code == 0, ended.err
    found = ad.read_zarr(out)
    expected = Run.load(made.run).project(query, ("batch_1", "batch_4"), progress=False)
    np.testing.assert_array_equal(found.X, expected.X)
    n_cells = expected.obs["cell"].nunique()
    assert ended.out == f"{out}: {n_cells} cells as if from 2 batches\n"


def test_cells_are_named_in_a_file_and_options_reach_the_projection(made, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("cell_007\n\n  cell_003\n")
    out = tmp_path / "out.h5ad"
    ended = medl(
        "project", made.run, "--cells", names, "--as-batch", "average", "-o", out, "--model", "re",
        "--switch", "decoder", "--units", "model", "--draws", 2, "--level", 0.5, "--seed", 3,
        "--no-reconstructions", "--atlas", made.atlas, "--quiet",
    )  # fmt: skip
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    found = ad.read_h5ad(out)
    assert found.obs_names.tolist() == ["cell_007|as:average", "cell_003|as:average"]
    about = found.uns["medl_scale_projection"]
    assert {name: about[name] for name in ("model", "switch", "units", "draws", "level", "seed")} == {
        "model": "re", "switch": "decoder", "units": "model", "draws": 2, "level": 0.5, "seed": 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--as-batch", "all", "-o", "out.zarr"), "Missing option '--cells'"),
        (("--cells", "batch == 'batch_1'", "-o", "out.zarr"), "Missing option '--as-batch'"),
        (("--cells", "gone.txt", "--as-batch", "all", "-o", "out.zarr"), "there is no such file"),
        (("--cells", "batch == 'x'", "--as-batch", "all", "-o", "o.zarr"), "No cell of "),
        (("--cells", "batch == 'batch_1'", "--as-batch", "b", "-o", "o.zarr"), "no batch 'b'"),
        (("--cells", "batch == 'batch_1'", "--as-batch", "all", "-o", "o.txt"), "got 'o.txt'"),
        (
            ("--cells", "n > 0", "--as-batch", "all", "-o", "o.zarr", "--max-gib", "-1"),
            "max_bytes must be at least 1",
        ),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(
    made, tmp_path, monkeypatch, args, message
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERMINAL_WIDTH", "300")
    ended = medl("project", made.run, *args)
    assert ended.code == 2
    assert message in ended.err
    assert "Traceback" not in ended.err
    assert list(tmp_path.iterdir()) == []


def test_names_that_are_no_text_are_refused(made, tmp_path):
    names = tmp_path / "names.txt"
    names.write_bytes(b"\xff\xfe\x00")
    ended = medl(
        "project", made.run, "--cells", names, "--as-batch", "all", "-o", tmp_path / "o.zarr"
    )
    assert ended.code == 2
    assert "is no text" in ended.err
