"""The sets of features that a target is asked from: latents, latents side by side, and controls."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from medl_scale.errors import ConfigError
from medl_scale.evaluate.forests.features import Features, know_batches, latent_features
from medl_scale.evaluate.inputs import check_latent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    Latents = Mapping[str, NDArray[Any]]
    Rows = NDArray[np.int64]

__all__ = ["ONE_HOT", "Space", "latents_for_unseen", "spaces_to_try"]

ONE_HOT = "one-hot batch"
"""Name of the control that knows a cell's batch and nothing else."""


@dataclass(frozen=True, kw_only=True)
class Space:
    """What a forest is told of each cell, by name."""

    name: str
    parts: tuple[str, ...]
    """Latents that stand side by side; none for the one-hot batch alone."""
    with_batch: bool = False
    """Whether one-hot columns of the batch stand beside them."""

    def features(
        self,
        latents: Latents,
        batch_codes: NDArray[np.int32],
        train: Rows,
        test: Rows,
        *,
        standardise: bool,
    ) -> tuple[Features, Features]:
        """Return what a forest is told of train and of test cells.

        Parameters
        ----------
        latents
            All cells of each latent, (n, d).
        batch_codes
            (n,)
        train, test
            Positions of cells.
        standardise
            Less the mean of the train cells, over their standard deviation. One-hot columns stay as
            they are: a tree splits 0 from 1 alike on any scale.
        """
        told = know_batches(batch_codes[train], batch_codes[test])
        if not self.parts:
            return told
        own, theirs = (
            np.concatenate([latents[part][rows] for part in self.parts], axis=1)
            for rows in (train, test)
        )
        plain = latent_features(own, theirs, standardise=standardise)
        if not self.with_batch:
            return plain
        return replace(told[0], latent=plain[0].latent), replace(told[1], latent=plain[1].latent)


def spaces_to_try(
    names: Sequence[str], combine: Sequence[tuple[str, ...]], pca: str
) -> list[Space]:
    """Return every latent, those to be tried side by side as far as they are there, and the controls.

    Parameters
    ----------
    names
        Latents that are there.
    combine
        Names to be tried side by side.
    pca
        The latent that gets a control of its own: with the one-hot batch beside it.
    """
    found = [Space(name=name, parts=(name,)) for name in names]
    there = [tuple(parts) for parts in combine if set(parts) <= set(names)]
    found += [Space(name=" + ".join(parts), parts=parts) for parts in there]
    found.append(Space(name=ONE_HOT, parts=(), with_batch=True))
    if pca in names:
        found.append(Space(name=f"{pca} + {ONE_HOT}", parts=(pca,), with_batch=True))
    taken = [space.name for space in found]
    twice = sorted({name for name in taken if taken.count(name) > 1})
    if twice:
        raise ConfigError(
            f"Spaces must have different names; {', '.join(map(repr, twice))} would stand for two. "
            "Rename one, or mention it once in combine."
        )
    return found


def latents_for_unseen(
    latents: Latents, prior_mean: Mapping[str, ArrayLike | None]
) -> dict[str, NDArray[Any]]:
    """Return the latents that stand for cells of batches that a forest has not seen.

    Parameters
    ----------
    latents
        All cells of each latent as they are.
    prior_mean
        Those encoded with random effects at their prior mean, which replace their namesakes; None
        where there is no such latent and the space is left out.

    Raises
    ------
    ConfigError
        If a name is not one of `latents`.
    """
    unknown = sorted(set(prior_mean) - set(latents))
    if unknown:
        raise ConfigError(
            f"prior_mean_spaces may name what spaces names: {', '.join(map(repr, latents))}; it names "
            f"{', '.join(map(repr, unknown))} too. Rename or leave out."
        )
    found = dict(latents)
    for name, latent in prior_mean.items():
        if latent is None:
            del found[name]
        else:
            found[name] = check_latent(latent, name=f"prior_mean_spaces[{name!r}]")
    return found
