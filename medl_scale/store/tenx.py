"""What Cell Ranger writes: HDF5 files and mtx folders, of version 3 and before.

Only gene expression is kept. Gene symbols are the names; those that occur twice, as a few do in
every 10x reference, get a number, as `AnnData.var_names_make_unique` gives them.
"""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING, Any, TextIO, cast

import numpy as np

from medl_scale.errors import DataError, StoreError
from medl_scale.store.readers import CsrMatrix, Input, reading
from medl_scale.store.transpose import Entries, csr_on_disk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pandas as pd

__all__ = ["is_mtx_folder", "open_10x_h5", "open_mtx"]

_GENES = "Gene Expression"
_LINES = 2**21


def open_10x_h5(file: Any, path: Path) -> Input:
    """Return a 10x HDF5 file as an input.

    Raises
    ------
    DataError
        If it holds several genomes.
    StoreError
        If it is no 10x file.
    """
    import pandas as pd

    if "matrix" in file:
        group = file["matrix"]
        features = group["features"]
        var = pd.DataFrame(
            {"gene_ids": _text(features["id"]), "feature_types": _text(features["feature_type"])},
            index=_text(features["name"]),
        )
        if "genome" in features:
            var["genome"] = _text(features["genome"])
    else:
        genomes = [name for name in file if "barcodes" in file[name]]
        if not genomes:
            raise StoreError("it is an HDF5 file, but neither AnnData nor 10x")
        if len(genomes) > 1:
            raise DataError(
                f"{path} holds {len(genomes)} genomes, {', '.join(genomes)}; one is expected. "
                "Write each to a file of its own."
            )
        group = file[genomes[0]]
        var = pd.DataFrame({"gene_ids": _text(group["genes"])}, index=_text(group["gene_names"]))
    # Stored as genes x cells by columns, which is cells x genes by rows.
    n_vars, n_obs = (int(size) for size in group["shape"][:])
    matrix = CsrMatrix(group["data"], group["indices"], group["indptr"], (n_obs, n_vars))
    obs = pd.DataFrame(index=_text(group["barcodes"]))
    return _gene_expression(str(path), path.stem, obs, var, matrix)


def is_mtx_folder(path: Path) -> bool:
    """Say whether `path` is a folder with a matrix in Matrix Market form."""
    return any((path / name).is_file() for name in ("matrix.mtx", "matrix.mtx.gz"))


def open_mtx(path: Path, folder: Path) -> Input:
    """Return a 10x mtx folder as an input; its matrix is written by rows to `folder`.

    Raises
    ------
    StoreError
        If a file is missing, truncated or damaged.
    """
    import pandas as pd

    with reading(str(path)):
        barcodes = _table(path, "barcodes.tsv")
        features = _table(path, "features.tsv", "genes.tsv")
        ids = features[0].to_numpy()
        names = features[1].to_numpy() if features.shape[1] > 1 else ids
        var = pd.DataFrame({"gene_ids": ids}, index=names)
        if features.shape[1] > 2:
            var["feature_types"] = features[2].to_numpy()
        with _open_text(_one_of(path, "matrix.mtx")) as lines:
            (n_vars, n_obs, n_entries), dtype = _header(lines)
            entries = _entries(lines, n_entries, dtype, (n_obs, n_vars))
            matrix = csr_on_disk(entries, (n_obs, n_vars), n_entries, dtype, folder)
        obs = pd.DataFrame(index=barcodes[0].to_numpy())
        return _gene_expression(str(path), path.name, obs, var, matrix)


def _gene_expression(
    place: str, stem: str, obs: pd.DataFrame, var: pd.DataFrame, matrix: CsrMatrix
) -> Input:
    """Return the input of the features that are genes, under unique names."""
    from anndata.utils import make_index_unique

    notes = []
    columns = None
    if "feature_types" in var:
        columns = np.flatnonzero(var["feature_types"] == _GENES)
        n_others = len(var) - len(columns)
        if len(columns) == 0:
            kinds = ", ".join(sorted(set(var["feature_types"])))
            raise DataError(f"{place} has no features of type {_GENES!r}; it has {kinds}.")
        if n_others:
            notes.append(f"{place}: {n_others:,} features that are not genes are left out.")
            var = var.iloc[columns]
    n_repeated = int(var.index.duplicated().sum())
    if n_repeated:
        notes.append(f"{place}: {n_repeated:,} repeated gene symbols get a number, as in 'TBCE-1'.")
        var.index = make_index_unique(var.index)
    return Input(place, stem, obs, var, matrix, columns, notes=notes)


def _text(dataset: Any) -> Any:
    """Return a dataset of strings as objects."""
    return np.array([value.decode() for value in dataset[:]], dtype=object)


def _one_of(path: Path, *names: str) -> Path:
    """Return the file of one of these names, plain or compressed."""
    wanted = [name + ending for name in names for ending in ("", ".gz")]
    found = [path / name for name in wanted if (path / name).is_file()]
    if not found:
        raise StoreError(f"it has none of {', '.join(wanted)}")
    return found[0]


def _open_text(path: Path) -> TextIO:
    """Open a text file, plain or compressed."""
    opener = gzip.open if path.suffix == ".gz" else open
    return cast("TextIO", opener(path, "rt", encoding="utf-8"))


def _table(path: Path, *names: str) -> pd.DataFrame:
    """Return a file of tab-separated columns without a header."""
    import pandas as pd

    with _open_text(_one_of(path, *names)) as lines:
        return pd.read_csv(lines, sep="\t", header=None, dtype=object, quoting=3, na_filter=False)


def _header(lines: TextIO) -> tuple[tuple[int, int, int], np.dtype[Any]]:
    """Return (n_vars, n_obs, n_entries) and the type of the values, leaving `lines` at the entries."""
    banner = lines.readline().lower().split()
    if banner[:3] != ["%%matrixmarket", "matrix", "coordinate"] or banner[4:] != ["general"]:
        raise StoreError(f"its first line is {' '.join(banner)!r}, not that of a count matrix")
    line = lines.readline()
    while line.startswith("%") or line.strip() == "":
        if not line:
            raise StoreError("it ends before its sizes")
        line = lines.readline()
    n_vars, n_obs, n_entries = (int(size) for size in line.split())
    return (n_vars, n_obs, n_entries), np.dtype(np.int32 if banner[3] == "integer" else np.float32)


def _entries(
    lines: TextIO, n_entries: int, dtype: np.dtype[Any], shape: tuple[int, int]
) -> Iterator[Entries]:
    """Yield the entries of a Matrix Market file, whose indices count from 1."""
    import pandas as pd

    if n_entries == 0:
        return
    read = 0
    types = {"gene": np.int64, "cell": np.int64, "value": dtype}
    for table in pd.read_csv(
        lines, sep=r"\s+", header=None, names=list(types), dtype=types, chunksize=_LINES
    ):
        rows, columns = table["cell"].to_numpy() - 1, table["gene"].to_numpy() - 1
        for index, size in ((rows, shape[0]), (columns, shape[1])):
            if index.min() < 0 or index.max() >= size:
                raise StoreError(f"it has an entry outside its {shape[1]:,} x {shape[0]:,}")
        read += len(table)
        yield Entries(rows.astype(np.int32), columns.astype(np.int32), table["value"].to_numpy())
    if read != n_entries:
        raise StoreError(f"it has {read:,} of the {n_entries:,} entries that it announces")
