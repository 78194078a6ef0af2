"""Small count matrices for the tests of the store."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from medl_scale.config import PrepareConfig


def names(prefix: str, n: int) -> np.ndarray:
    return np.array([f"{prefix}{number}" for number in range(n)], dtype=object)


def make_counts(
    n_obs: int = 120, n_vars: int = 60, *, seed: int = 0, batches: Sequence[str] = ("a", "b", "c")
) -> ad.AnnData:
    """Counts with an empty gene, one in two cells, labels of unequal frequency, some unknown."""
    random = np.random.default_rng(seed)
    mean = random.gamma(0.7, 1.0, n_vars)
    counts = random.poisson(mean * random.lognormal(0, 0.5, (n_obs, 1)))
    counts[:, 5] = 0
    counts[:, 6] = 0
    counts[[1, 8], 6] = 3
    obs = pd.DataFrame(
        {
            "donor": pd.Categorical(random.choice(list(batches), n_obs)),
            "cell_type": pd.Categorical(
                random.choice(["T", "B", "Unknown"], n_obs, p=[0.6, 0.3, 0.1])
            ),
            "age": random.integers(20, 80, n_obs),
        },
        index=names("cell", n_obs),
    )
    var = pd.DataFrame({"chromosome": ["1"] * n_vars}, index=names("gene", n_vars))
    return ad.AnnData(sp.csr_matrix(counts.astype(np.float32)), obs=obs, var=var)


def config(**changes: object) -> PrepareConfig:
    """A configuration that fits `make_counts`."""
    fitting = {"batch_key": "donor", "labels_key": "cell_type", "n_top_genes": 20, "min_genes": 3}
    return PrepareConfig(**{**fitting, **changes})


def scanpy_genes(
    adata: ad.AnnData, n_top: int, flavor: str, batch_key: str | None, **filters: int
) -> pd.DataFrame:
    """The statistics of the genes that scanpy's own pipeline chooses, in memory."""
    import scanpy

    adata = adata.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scanpy 1.12 uses what pandas 3 deprecates
        scanpy.pp.filter_cells(adata, min_genes=filters.get("min_genes", 10))
        scanpy.pp.filter_genes(adata, min_cells=filters.get("min_cells", 3))
        if flavor != "seurat_v3":
            scanpy.pp.normalize_total(adata, target_sum=1e4)
            scanpy.pp.log1p(adata)
        scanpy.pp.highly_variable_genes(
            adata, n_top_genes=n_top, flavor=flavor, batch_key=batch_key
        )
    return adata.var[adata.var["highly_variable"]]


def write_mtx(folder: Path, adata: ad.AnnData, *, old: bool = False, order_seed: int = 0) -> Path:
    """Write counts as Cell Ranger does, compressed or, before version 3, not."""
    import gzip

    folder.mkdir()
    entries = adata.X.tocoo()
    shuffled = np.random.default_rng(order_seed).permutation(entries.nnz)
    lines = ["%%MatrixMarket matrix coordinate integer general", "%made for a test"]
    lines.append(f"{adata.n_vars} {adata.n_obs} {entries.nnz}")
    lines += [f"{entries.col[k] + 1} {entries.row[k] + 1} {int(entries.data[k])}" for k in shuffled]
    ids = [f"ENSG{number:05d}" for number in range(adata.n_vars)]
    kind = [] if old else ["Gene Expression"]
    features = [
        "\t".join([one, name, *kind]) for one, name in zip(ids, adata.var_names, strict=True)
    ]
    texts = {
        "matrix.mtx": lines,
        "genes.tsv" if old else "features.tsv": features,
        "barcodes.tsv": list(adata.obs_names),
    }
    for name, text in texts.items():
        content = "\n".join(text) + "\n"
        if old:
            (folder / name).write_text(content)
        else:
            with gzip.open(folder / f"{name}.gz", "wt") as file:
                file.write(content)
    return folder
