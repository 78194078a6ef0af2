"""Several inputs as one: their genes joined, their cells one after another.

Rows are those of the inputs in the order given, columns the joined genes in the order of the first
input. The matrix is only ever passed through, block by block.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import scipy.sparse as sp

from medl_scale.errors import DataError
from medl_scale.store.formats import open_input
from medl_scale.store.frames import concatenated

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from medl_scale.config import Join
    from medl_scale.progress import Progress
    from medl_scale.store.readers import Input

__all__ = ["Block", "Inputs", "open_inputs"]


class Block(NamedTuple):
    """Consecutive cells of all inputs together."""

    rows: slice
    """Which rows these are, counted over all inputs."""
    counts: sp.csr_matrix
    """(n, n_vars) over the joined genes, rows sorted and without repeated entries."""
    place: str
    """The input that they come from."""


class Inputs:
    """All inputs as one matrix that is read in blocks from first to last.

    `obs` counts its rows; the names of the cells, (n_obs,), are in `cell_names`.
    """

    def __init__(
        self,
        inputs: Sequence[Input],
        positions: Sequence[NDArray[np.int32] | None],
        cell_names: NDArray[Any],
        obs: pd.DataFrame,
        var: pd.DataFrame,
    ) -> None:
        self.inputs = inputs
        self.cell_names = cell_names
        self.obs, self.var = obs, var
        self.n_obs, self.n_vars = len(obs), len(var)
        self.places = [one.place for one in inputs]
        self.dtype: np.dtype[Any] = np.result_type(*(one.matrix.dtype for one in inputs))
        self._positions = positions

    def forget_cells(self) -> None:
        """Let go of the table and the names of the cells once they are written."""
        del self.obs, self.cell_names

    def blocks(self) -> Iterator[Block]:
        """Yield all cells in order, once a call."""
        start = 0
        for one, positions in zip(self.inputs, self._positions, strict=True):
            for rows, block in one.blocks():
                counts = block if positions is None else _moved(block, positions, self.n_vars)
                counts.data = counts.data.astype(self.dtype, copy=False)
                yield Block(slice(start + rows.start, start + rows.stop), counts, one.place)
            start += one.matrix.shape[0]


@contextmanager
def open_inputs(
    sources: Sequence[str | os.PathLike[str] | AnnData],
    *,
    layer: str | None,
    join: Join,
    file_key: str | None,
    scratch: Path,
    progress: Progress,
) -> Iterator[Inputs]:
    """Open all inputs and join them.

    Parameters
    ----------
    sources
        Paths or AnnData objects.
    layer
        Layer to read instead of `X`.
    join
        `inner` for the genes that all inputs have, `outer` for those that any has.
    file_key
        Column of obs that gets the short name of each cell's input, or None.
    scratch
        Folder for matrices that must be turned from columns to rows; its owner removes it.
    progress
        Where notes go.

    Raises
    ------
    DataError
        If there is no input, a name occurs twice in one, or they share no gene.
    StoreError
        If an input is missing, truncated or damaged.
    """
    if not sources:
        raise DataError("There is no input. Give at least one file, folder or AnnData.")
    with ExitStack() as stack:
        inputs = []
        for number, source in enumerate(sources, start=1):
            one = open_input(source, number=number, layer=layer, scratch=scratch)
            stack.callback(one.close)
            for note in one.notes:
                progress.note(note)
            for names, what in ((one.obs.index, "cell"), (one.var.index, "gene")):
                _check_unique(names, what, one.place)
            inputs.append(one)
        _name_stems(inputs)
        genes = _join(inputs, join)
        positions = [_positions(one, genes) for one in inputs]
        var = concatenated([one.var for one in inputs])
        var = var.loc[~var.index.duplicated()].loc[genes]
        names = _cell_names(inputs, progress)
        obs = concatenated([one.obs for one in inputs]).reset_index(drop=True)
        if file_key is not None:
            obs[file_key] = _stem_of_each_cell(inputs, obs, file_key)
        for one in inputs:
            one.forget_tables()
        yield Inputs(inputs, positions, names, obs, var)


def _check_unique(names: pd.Index, what: str, place: str) -> None:
    """Raise if a name occurs twice in one input."""
    # Not by the index itself, which would keep its table of hashes.
    repeated = names[_repeated(names)].unique()
    if len(repeated) == 0:
        return
    listed = ", ".join(repr(str(name)) for name in repeated[:5])
    raise DataError(
        f"{what} names must be unique; {len(repeated):,} of {place} occur more than once, such as "
        f"{listed}. Make them unique, for instance with adata."
        f"{'obs' if what == 'cell' else 'var'}_names_make_unique()."
    )


def _repeated(names: pd.Index, keep: Literal["first", False] = "first") -> NDArray[np.bool_]:
    """Return which names occur before, or (`keep` False) elsewhere."""
    import pandas as pd

    repeated: NDArray[np.bool_] = pd.Series(names.array).duplicated(keep=keep).to_numpy()
    return repeated


def _name_stems(inputs: Sequence[Input]) -> None:
    """Give inputs of the same short name that of the folder they are in, and then a number."""
    stems = [one.stem for one in inputs]
    for one in inputs:
        if stems.count(one.stem) > 1:
            one.stem = f"{Path(one.place).absolute().parent.name}_{one.stem}"
    stems = [one.stem for one in inputs]
    for number, one in enumerate(inputs, start=1):
        if stems.count(one.stem) > 1:
            one.stem = f"{one.stem}_{number}"


def _join(inputs: Sequence[Input], join: Join) -> list[str]:
    """Return the joined genes in the order of the first input, new ones after them."""
    genes = dict.fromkeys(inputs[0].var.index)
    for one in inputs[1:]:
        if not genes.keys() & set(one.var.index):
            raise DataError(
                f"{one.place} shares no gene with {inputs[0].place}: its genes are called "
                f"{_some(one.var.index)}, those before {_some(list(genes))}. "
                "Use the same kind of gene names in all inputs."
            )
        if join == "outer":
            genes.update(dict.fromkeys(one.var.index))
        else:
            present = set(one.var.index)
            genes = {gene: None for gene in genes if gene in present}
    return list(genes)


def _some(names: Sequence[str] | pd.Index) -> str:
    """Return the first few names."""
    return ", ".join(repr(str(name)) for name in names[:3])


def _positions(one: Input, genes: list[str]) -> NDArray[np.int32] | None:
    """Return for each stored column its place among `genes`, -1 where left out; None if equal."""
    import pandas as pd

    found: NDArray[np.int32] = pd.Index(genes).get_indexer(one.var.index).astype(np.int32)
    if one.columns is not None:
        positions = np.full(one.matrix.shape[1], -1, np.int32)
        positions[one.columns] = found
        found = positions
    if np.array_equal(found, np.arange(len(genes))):
        return None
    return found


def _moved(block: sp.csr_matrix, positions: NDArray[np.int32], n_vars: int) -> sp.csr_matrix:
    """Return a block with its columns at `positions`, those at -1 left out."""
    indices = positions[block.indices]
    kept = indices >= 0
    before = np.concatenate(([0], np.cumsum(kept)))
    moved = sp.csr_matrix(
        (block.data[kept], indices[kept], before[block.indptr]), shape=(block.shape[0], n_vars)
    )
    moved.sort_indices()
    return moved


def _cell_names(inputs: Sequence[Input], progress: Progress) -> NDArray[Any]:
    """Return the names of all cells; those that several inputs use get the input's short name.

    As NumPy strings: ten million Python ones would take most of a gigabyte.
    """
    import pandas as pd

    names = pd.Index(np.concatenate([one.obs.index.to_numpy(dtype=object) for one in inputs]))
    shared = _repeated(names, keep=False)
    if shared.any():
        stems = np.repeat([one.stem for one in inputs], [len(one.obs) for one in inputs])
        values = np.array(names, dtype=object)
        values[shared] = [f"{values[row]}-{stems[row]}" for row in np.flatnonzero(shared)]
        progress.note(
            f"{int(shared.sum()):,} cells share their name with a cell of another input; "
            f"they got the input's name, as in {values[shared][0]!r}."
        )
        names = pd.Index(values)
        _check_unique(names, "cell", "all inputs together, with the inputs' names added,")
    compact: NDArray[Any] = names.to_numpy(dtype=object).astype(np.dtypes.StringDType())
    return compact


def _stem_of_each_cell(inputs: Sequence[Input], obs: pd.DataFrame, key: str) -> pd.Categorical:
    """Return each cell's input by its short name."""
    import pandas as pd

    if key in obs:
        raise DataError(
            f"The file is asked for as batch, but the inputs have a column obs[{key!r}] already. "
            "Choose another --batch-key, or use the column."
        )
    codes = np.repeat(np.arange(len(inputs)), [len(one.obs) for one in inputs])
    return pd.Categorical.from_codes(codes, [one.stem for one in inputs])
