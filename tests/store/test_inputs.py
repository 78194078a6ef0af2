"""Several inputs become one: joined genes, unique names, tables below one another."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from medl_scale.errors import DataError
from medl_scale.progress import Progress, SilentProgress
from medl_scale.store.inputs import open_inputs
from tests.store.counts import make_counts


class Notes(SilentProgress):
    """Keeps what the user is told."""

    def __init__(self):
        self.messages = []

    def note(self, message, **fields):
        self.messages.append(message)


def joined(tmp_path, sources, join="inner", file_key=None, progress: Progress | None = None):
    with open_inputs(
        sources,
        layer=None,
        join=join,
        file_key=file_key,
        scratch=tmp_path / "scratch",
        progress=progress or SilentProgress(),
    ) as inputs:
        counts = sp.vstack([block.counts for block in inputs.blocks()], format="csr")
        assert counts.has_sorted_indices
        return inputs, pd.DataFrame(
            counts.toarray(), inputs.cell_names.astype(object), inputs.var.index
        )


@pytest.fixture
def parts():
    """Two inputs of other genes in other orders, and their join by pandas."""
    first, second = make_counts(30, 12, seed=1), make_counts(20, 15, seed=2)
    second.obs_names = [f"other{number}" for number in range(20)]
    second = second[:, np.random.default_rng(0).permutation(15)].copy()
    second = second[:, second.var_names != "gene3"].copy()
    return first, second


@pytest.mark.parametrize("join", ["inner", "outer"])
def test_genes_are_joined_by_name_in_the_order_of_the_first_input(tmp_path, parts, join):
    first, second = parts
    _, found = joined(tmp_path, parts, join)
    wanted = pd.concat([first.to_df(), second.to_df()], join=join).fillna(0)
    pd.testing.assert_frame_equal(found[list(wanted)], wanted, check_dtype=False)
    shared = [gene for gene in first.var_names if gene in found]
    assert list(found)[: len(shared)] == shared
    assert set(found) == set(wanted)


def test_values_take_the_type_that_holds_them_all(tmp_path, parts):
    first, second = parts
    first.X = first.X.astype(np.uint8)
    second.X = second.X.astype(np.int32)
    inputs, _ = joined(tmp_path, parts)
    assert inputs.dtype == np.int32


def test_columns_of_obs_are_united(tmp_path, parts):
    first, second = parts
    second.obs["site"] = pd.Categorical(["north"] * 20)
    del second.obs["age"]
    second.obs["donor"] = pd.Categorical(["z"] * 20)
    inputs, _ = joined(tmp_path, parts)
    assert list(inputs.obs["donor"]) == [*first.obs["donor"], *second.obs["donor"]]
    assert isinstance(inputs.obs["donor"].dtype, pd.CategoricalDtype)
    assert inputs.obs["site"].isna().sum() == 30
    assert inputs.obs["age"].isna().sum() == 20
    assert inputs.obs["age"].iloc[0] == first.obs["age"].iloc[0]


def test_cells_that_share_a_name_get_that_of_their_input(tmp_path, parts):
    first, second = parts
    second.obs_names = [first.obs_names[0], *second.obs_names[1:]]
    notes = Notes()
    _, found = joined(tmp_path, parts, progress=notes)
    assert found.index[0] == "cell0-input1"
    assert found.index[30] == "cell0-input2"
    assert found.index[1] == "cell1"
    assert "2 cells share their name with a cell of another input" in notes.messages[0]
    assert "'cell0-input1'" in notes.messages[0]


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path):
    paths = []
    for place in ("north", "south"):
        (tmp_path / place).mkdir()
        paths.append(tmp_path / place / "counts.h5ad")
        make_counts(10, 8).write_h5ad(paths[-1])
    _, found = joined(tmp_path, paths)
    assert found.index[0] == "cell0-north_counts"
    assert found.index[10] == "cell0-south_counts"


def test_the_file_can_be_the_batch(tmp_path, parts):
    inputs, _ = joined(tmp_path, parts, file_key="file")
    assert list(inputs.obs["file"]) == ["input1"] * 30 + ["input2"] * 20
    with pytest.raises(DataError, match=r"the inputs have a column obs\['donor'\] already"):
        joined(tmp_path, parts, file_key="donor")


def test_repeated_names_in_one_input_are_counted_and_named(tmp_path):
    adata = make_counts(10, 8)
    adata.var_names = ["gene1", "gene1", *adata.var_names[2:]]
    message = r"gene names must be unique; 1 of AnnData 1 occur more than once, such as 'gene1'.*var_names"
    with pytest.raises(DataError, match=message):
        joined(tmp_path, [adata])
    adata = make_counts(10, 8)
    adata.obs_names = ["a", "a", "b", "b", *adata.obs_names[4:]]
    message = r"cell names must be unique; 2 of AnnData 1 .* 'a', 'b'.*obs_names_make_unique"
    with pytest.raises(DataError, match=message):
        joined(tmp_path, [adata])


@pytest.mark.parametrize("join", ["inner", "outer"])
def test_inputs_that_share_no_gene_are_refused(tmp_path, parts, join):
    _, second = parts
    second.var_names = [f"ENSG{number}" for number in range(second.n_vars)]
    message = r"AnnData 2 shares no gene with AnnData 1: its genes are called 'ENSG0'.*'gene0'"
    with pytest.raises(DataError, match=message):
        joined(tmp_path, parts, join)


def test_no_input_is_refused(tmp_path):
    with pytest.raises(DataError, match="There is no input"):
        joined(tmp_path, [])
