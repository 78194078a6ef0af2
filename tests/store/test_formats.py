"""Every kind of input gives the same cells, genes and counts, and says so when it is damaged."""

import gzip
import warnings

import anndata as ad
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
import zarr

from medl_scale.errors import DataError, StoreError
from medl_scale.store import readers
from medl_scale.store.formats import open_input
from tests.store.counts import make_counts, write_mtx


@pytest.fixture(scope="module")
def adata():
    return make_counts(90, 40)


def with_matrix(adata, matrix, **layers):
    return ad.AnnData(matrix, obs=adata.obs, var=adata.var, layers=layers)


def write_10x_h5(path, adata, *, old=False, other_features=0):
    counts = sp.csr_matrix(adata.X).astype(np.int32)
    if other_features:
        counts = sp.hstack([np.full((adata.n_obs, other_features), 7), counts], format="csr")
    ids = [f"ENSG{number}" for number in range(adata.n_vars)]
    antibodies = [f"CD{number}" for number in range(other_features)]
    with h5py.File(path, "w") as file:
        group = file.create_group("GRCh38" if old else "matrix")
        group["barcodes"] = [name.encode() for name in adata.obs_names]
        group["data"], group["indices"], group["indptr"] = (
            counts.data,
            counts.indices,
            counts.indptr,
        )
        group["shape"] = np.array([counts.shape[1], counts.shape[0]])
        if old:
            group["genes"] = [one.encode() for one in ids]
            group["gene_names"] = [name.encode() for name in adata.var_names]
        else:
            features = group.create_group("features")
            features["id"] = [one.encode() for one in antibodies + ids]
            features["name"] = [one.encode() for one in [*antibodies, *adata.var_names]]
            kinds = ["Antibody Capture"] * other_features + ["Gene Expression"] * adata.n_vars
            features["feature_type"] = [kind.encode() for kind in kinds]
            features["genome"] = [b"GRCh38"] * counts.shape[1]
    return path


def write_zarr_v2(path, adata):
    root = zarr.open_group(path, mode="w", zarr_format=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata deprecates writing version 2, not reading it
        ad.io.write_elem(root, "/", adata)
    return path


def write(kind, path, adata):
    """Write counts as one kind of input; return what to open, and with which layer."""
    if kind == "memory":
        return adata, None
    if kind == "memory csc":
        return with_matrix(adata, sp.csc_matrix(adata.X)), None
    if kind == "memory dense":
        return with_matrix(adata, adata.X.toarray()), None
    if kind.startswith("mtx"):
        return write_mtx(path / "sample", adata, old=kind == "mtx old"), None
    if kind.startswith("10x"):
        others = 3 if kind == "10x antibodies" else 0
        return write_10x_h5(
            path / "a.h5", adata, old=kind == "10x old", other_features=others
        ), None
    matrix = {"csr": adata.X, "csc": sp.csc_matrix(adata.X), "dense": adata.X.toarray()}
    layout = kind.split()[1]
    stored = with_matrix(adata, matrix.get(layout, sp.csr_matrix(adata.shape)), raw=adata.X)
    if kind.startswith("h5ad"):
        stored.write_h5ad(path / "a.h5ad", compression="gzip" if "gzip" in kind else None)
        return path / "a.h5ad", "raw" if layout == "layer" else None
    if kind.startswith("zarr2"):
        return write_zarr_v2(path / "a.zarr", stored), "raw" if layout == "layer" else None
    stored.write_zarr(path / "a.zarr")
    return path / "a.zarr", "raw" if layout == "layer" else None


KINDS = [
    *("memory", "memory csc", "memory dense"),
    *("h5ad csr", "h5ad csc", "h5ad dense", "h5ad layer", "h5ad csr gzip"),
    *(
        "zarr2 csr",
        "zarr2 csc",
        "zarr2 dense",
        "zarr3 csr",
        "zarr3 csc",
        "zarr3 dense",
        "zarr3 layer",
    ),
    *("10x new", "10x old", "10x antibodies", "mtx new", "mtx old"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block_values", [2**22, 100])
def test_every_kind_reads_the_same(tmp_path, monkeypatch, adata, kind, block_values):
    monkeypatch.setattr(readers, "_BLOCK_VALUES", block_values)
    source, layer = write(kind, tmp_path, adata)
    one = open_input(source, number=1, layer=layer, scratch=tmp_path / "scratch")
    blocks = list(one.blocks())
    one.close()
    counts = sp.vstack([block for _, block in blocks], format="csr")
    if one.columns is not None:
        counts = counts[:, one.columns]
    assert (counts.toarray() == adata.X.toarray()).all()
    assert counts.has_canonical_format
    assert [rows.start for rows, _ in blocks] == [0, *(rows.stop for rows, _ in blocks)][:-1]
    assert len(blocks) > 1 or block_values > 100
    assert list(one.obs.index) == list(adata.obs_names)
    assert list(one.var.index) == list(adata.var_names)
    if "10x" not in kind and "mtx" not in kind:
        assert list(one.obs["donor"]) == list(adata.obs["donor"])
        assert list(one.var["chromosome"]) == list(adata.var["chromosome"])


def opened(source, tmp_path, layer=None):
    return open_input(source, number=1, layer=layer, scratch=tmp_path / "scratch")


def test_repeated_and_unsorted_entries_count_once(tmp_path, adata):
    path = tmp_path / "a.zarr"
    adata.write_zarr(path)
    group = zarr.open_group(path)["X"]
    first = slice(0, 3)
    group["indices"][first] = np.array([4, 2, 4], group["indices"].dtype)
    wanted = adata.X[0].toarray().ravel()
    wanted[adata.X.indices[first]] -= adata.X.data[first]
    np.add.at(wanted, [4, 2, 4], adata.X.data[first])
    _, block = next(opened(path, tmp_path).blocks())
    assert (block[0].toarray().ravel() == wanted).all()


def test_features_that_are_not_genes_and_repeated_symbols_are_noted(tmp_path, adata):
    renamed = adata.copy()
    renamed.var_names = ["TBCE", *list(adata.var_names[1:-1]), "TBCE"]
    path = write_10x_h5(tmp_path / "a.h5", renamed, other_features=2)
    one = opened(path, tmp_path)
    assert one.var.index[0] == "TBCE"
    assert one.var.index[-1] == "TBCE-1"
    assert "2 features that are not genes are left out" in one.notes[0]
    assert "1 repeated gene symbols get a number" in one.notes[1]


def test_missing_inputs_and_unknown_kinds_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("not counts")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match=r"gone.h5ad does not exist. Give a .h5ad file"):
        opened(tmp_path / "gone.h5ad", tmp_path)
    with pytest.raises(DataError, match=r"notes.txt is of no kind that can be read. Give"):
        opened(tmp_path / "notes.txt", tmp_path)
    with pytest.raises(DataError, match=r"folder .*empty is of no kind that can be read"):
        opened(tmp_path / "empty", tmp_path)


def test_a_layer_that_is_not_there_lists_those_that_are(tmp_path, adata):
    stored = with_matrix(adata, adata.X, counts=adata.X)
    stored.write_h5ad(tmp_path / "a.h5ad")
    for source in (stored, tmp_path / "a.h5ad"):
        with pytest.raises(
            DataError, match=r"no layer 'count'. There are: 'counts'. Did you mean 'counts'"
        ):
            opened(source, tmp_path, layer="count")
    with pytest.raises(DataError, match=r"10x output, which has no layer 'raw'"):
        opened(write_10x_h5(tmp_path / "a.h5", adata), tmp_path, layer="raw")


def test_several_genomes_are_refused(tmp_path, adata):
    path = write_10x_h5(tmp_path / "a.h5", adata, old=True)
    with h5py.File(path, "a") as file:
        file.copy("GRCh38", "mm10")
    with pytest.raises(DataError, match=r"holds 2 genomes, GRCh38, mm10; one is expected"):
        opened(path, tmp_path)


def read_all(source, tmp_path):
    for _ in opened(source, tmp_path).blocks():
        pass


@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_a_truncated_h5ad_is_named(tmp_path, adata, share):
    path = tmp_path / "a.h5ad"
    adata.write_h5ad(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(StoreError, match=r"a\.h5ad cannot be read: .*truncated, damaged"):
        read_all(path, tmp_path)


def test_a_zarr_store_that_lost_a_chunk_is_named(tmp_path, adata):
    path = tmp_path / "a.zarr"
    adata.write_zarr(path)
    next((path / "X" / "data" / "c").iterdir()).unlink()
    with pytest.raises(
        StoreError, match=r"a\.zarr cannot be read: only 0 of the . chunks of /X/data"
    ):
        read_all(path, tmp_path)


def test_a_short_chunk_is_named(tmp_path, adata):
    path = tmp_path / "a.zarr"
    adata.write_zarr(path)
    chunk = next((path / "X" / "data" / "c").iterdir())
    chunk.write_bytes(chunk.read_bytes()[:-20])
    with pytest.raises(StoreError, match=r"a\.zarr cannot be read"):
        read_all(path, tmp_path)


def test_indices_outside_the_matrix_are_found(tmp_path, adata):
    path = tmp_path / "a.h5ad"
    adata.write_h5ad(path)
    with h5py.File(path, "a") as file:
        file["X/indices"][7] = 4000
    with pytest.raises(
        StoreError, match=r"a\.h5ad cannot be read: it has column indices outside 0 to 39"
    ):
        read_all(path, tmp_path)


def test_a_matrix_that_does_not_fit_its_names_is_found(tmp_path, adata):
    path = tmp_path / "a.h5ad"
    adata.write_h5ad(path)
    with h5py.File(path, "a") as file:
        file["X"].attrs["shape"] = [90, 39]
    with pytest.raises(
        StoreError, match=r"its matrix is 90 x 39, but it names 90 cells and 40 genes"
    ):
        read_all(path, tmp_path)


def test_damaged_mtx_folders_are_named(tmp_path, adata):
    folder = write_mtx(tmp_path / "sample", adata)
    whole = gzip.decompress((folder / "matrix.mtx.gz").read_bytes())

    def damaged(content, message):
        (folder / "matrix.mtx.gz").write_bytes(content)
        with pytest.raises(StoreError, match=message):
            read_all(folder, tmp_path / str(abs(hash(message))))

    damaged(gzip.compress(whole)[:-30], "sample cannot be read")
    shorter = b"\n".join(whole.split(b"\n")[:-6])
    damaged(gzip.compress(shorter), r"it has [\d,]+ of the [\d,]+ entries that it announces")
    outside = whole.replace(b"40 90", b"3 90", 1)
    damaged(gzip.compress(outside), r"it has an entry outside its 3 x 90")
    damaged(gzip.compress(b"a,b\n"), r"its first line is 'a,b', not that of a count matrix")
    (folder / "barcodes.tsv.gz").unlink()
    damaged(gzip.compress(whole), r"it has none of barcodes.tsv, barcodes.tsv.gz")
