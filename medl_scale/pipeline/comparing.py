"""Two groups of donors compared, gene by gene: projections or measurements, streamed into donors' moments."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import numpy as np

from medl_scale.config import ComparedTest, ComparedValues, check_choice
from medl_scale.errors import ConfigError, DataError
from medl_scale.interpret.crossed import CrossedMoments
from medl_scale.interpret.donor_tests import compare_donors
from medl_scale.interpret.donors import DonorMoments, donor_moments
from medl_scale.interpret.project import AsIf
from medl_scale.interpret.targets import AVERAGE, find_targets
from medl_scale.pipeline.atlas_of import atlas_of, check_fits
from medl_scale.pipeline.cells import choose_cells, stream_cells
from medl_scale.pipeline.frozen import frozen_latents
from medl_scale.pipeline.preparing import as_progress
from medl_scale.pipeline.projection_plan import model_with_effects
from medl_scale.store.annotations import Annotations
from medl_scale.store.atlas import describe, read_columns
from medl_scale.store.choices import no_such

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from medl_scale.config import SwitchedSides
    from medl_scale.pipeline.cells import Cells
    from medl_scale.pipeline.run import Run
    from medl_scale.progress import Progress
    from medl_scale.store.atlas import AtlasRef
    from medl_scale.stream import Minibatch

    type Floats = NDArray[np.float32]

__all__ = ["compare"]

_BLOCK_BYTES = 2**26
_SORTED_BY = {"mixed": "p_mixed", "mann-whitney": "p_ranks"}


def compare(
    run: Run,
    groups: str,
    between: tuple[str, str],
    *,
    cells: Cells | None = None,
    of: ComparedValues = "as_if",
    test: ComparedTest = "mixed",
    model: str = "me",
    fold: int | None = None,
    switch: SwitchedSides = "both",
    level: float = 0.95,
    atlas: AtlasRef | None = None,
    progress: bool | Progress = True,
) -> pd.DataFrame:
    """Test every gene for a difference between two groups of donors; donors are the unit.

    Parameters
    ----------
    run
        A run whose batches are donors.
    groups
        Column of the atlas' `obs` with each donor's group, such as a diagnosis.
    between
        Two of its values, (first, second); differences are second minus first.
    cells
        Cells to compare, as in `Run.project`, such as those of one type; all by default.
    of
        `"as_if"`: the chosen cells, whoever they come from, as if from each donor. Donors then differ
        by what the model takes for their effects, not by which cells they have. `"measured"`: each
        donor's own cells as measured. `"average"`: each donor's own cells under no batch's effects:
        what still differs once the model has taken the donors' effects away.
    test
        Whose p-values sort the genes; the table has both tests.
    model, fold, switch
        Whose projections; not read for `"measured"`.
    level
        Probability of the mixed model's confidence intervals.
    atlas
        The run's atlas, if it was moved or lies in memory.
    progress
        Whether, or where, to report.

    Returns
    -------
    DataFrame
        One row per gene, the smallest p first: `of`, `gene`, and what
        `interpret.donor_tests.compare_donors` returns: `n_first` and `n_second` donors, their means,
        effect sizes, and p and q (Benjamini-Hochberg) of Mann-Whitney and of the mixed model.

    Raises
    ------
    ConfigError
        If an option is out of range, there is no such column, or the model has no random effects.
    DataError
        If there is no such group, a donor is in two, or a group has fewer than 2 donors.
    RunError, AtlasError
        If the model is not finished, or the atlas is not there or another.

    Notes
    -----
    As-if values rest on posterior means, which are shrunken: differences of donors with few cells are
    understated. Values are log-normalised. Memory is that of donors x genes and a block of cells.
    """
    check_choice("of", of, get_args(ComparedValues))
    check_choice("test", test, get_args(ComparedTest))
    fold = run.folds[0] if fold is None else fold
    fitted = model_with_effects(run, model, fold)
    ref = atlas_of(run, atlas)
    described = describe(ref)
    place = described.path or "the AnnData"
    check_fits(ref, described, fitted.vocabulary, place)
    obs, columns = Annotations(ref).obs, read_columns(ref)
    levels = described.batch_levels
    group_of = groups_of_batches(obs, columns.batch_codes, levels, groups, between, place)
    donors = [name for name in levels if group_of.get(name) in between]
    rows = np.arange(described.n_obs) if cells is None else choose_cells(cells, obs, place)
    position = np.full(len(levels), -1)
    position[[levels.index(name) for name in donors]] = np.arange(len(donors))
    if of != "as_if":
        rows = rows[position[columns.batch_codes[rows]] >= 0]
        if not len(rows):
            raise DataError(
                f"None of the cells chosen is of a donor in {between[0]!r} or {between[1]!r}. Choose "
                "other cells or groups."
            )
    scale = np.float32(1.0 / fitted.vocabulary.transform.scale)
    targets = find_targets(donors if of == "as_if" else AVERAGE, levels, place)
    as_if = AsIf(fitted, targets, switch=switch)
    frozen = None if of == "measured" else frozen_latents(run, ref, described, fitted, fold)

    def projected(block: Minibatch) -> Floats:
        latents = None if frozen is None else frozen.of(block.rows)
        return as_if.project(block.x, block.batch_codes, latents=latents, factor=float(scale))

    def own(block: Minibatch) -> Floats:
        return block.x * scale if of == "measured" else projected(block)[:, 0]

    crossed = CrossedMoments(len(donors), described.n_vars)
    plain = DonorMoments.none(len(donors), described.n_vars)
    n_cells = max(1, _BLOCK_BYTES // (len(targets) * described.n_vars * 4))
    with (
        as_progress(progress).step("Comparing", len(rows)) as advance,
        stream_cells(ref, rows, fitted.vocabulary.transform, n_cells) as blocks,
    ):
        for block in blocks:
            if of == "as_if":
                crossed.add(projected(block))
            else:
                codes = position[block.batch_codes]
                plain = plain.merge(donor_moments(own(block), codes, len(donors)))
            advance(len(block.x))
    table = compare_donors(
        crossed.moments if of == "as_if" else plain,
        donors,
        group_of,
        between=between,
        features=fitted.vocabulary.var_names,
        subtracted=crossed.subtracted if of == "as_if" else 0,
        level=level,
    )
    table = table.rename(columns={"feature": "gene"})
    table.insert(0, "of", of)
    return table.sort_values(_SORTED_BY[test], kind="stable", ignore_index=True)


def groups_of_batches(
    obs: pd.DataFrame,
    batch_codes: NDArray[np.int32],
    levels: tuple[str, ...],
    column: str,
    between: tuple[str, str],
    place: str,
) -> dict[str, str]:
    """Return the group of each batch that has one, by name.

    Raises
    ------
    ConfigError
        If there is no such column, or the groups to compare are not two.
    DataError
        If there is no such group, or a batch is in several.
    """
    if column not in obs:
        listed = ", ".join(repr(str(name)) for name in obs)
        raise ConfigError(
            f"groups names a column of obs with each donor's group; {place} has no {column!r}. "
            f"Columns: {listed}."
        )
    if len(between) != 2 or between[0] == between[1]:
        raise ConfigError(f"between must name two different groups; got {between!r}.")
    values = obs[column]
    known = values.notna().to_numpy()
    pairs = sorted(set(zip(batch_codes[known].tolist(), values[known].astype(str), strict=True)))
    found: dict[str, str] = {}
    for code, group in pairs:
        if levels[code] in found:
            raise DataError(
                f"Each donor must belong to one group; {levels[code]!r} is in {found[levels[code]]!r} "
                f"and {group!r} of {column!r}. Compare something that differs between donors."
            )
        found[levels[code]] = group
    for group in between:
        if group not in found.values():
            raise no_such("group", group, sorted(set(found.values())), f"{column!r}", "between")
    return found
