"""One tree of a forest: grown as scikit-learn grows it, asked for the test cells, and forgotten.

Trees come from our own loops, which make the same splits 3 to 15 times faster, in memory that does not
grow with the classes. Before the first one, a few small trees are compared with scikit-learn's; where any differs, as
it might with another version or processor, all are grown by scikit-learn.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import scipy.sparse as sp

from medl_scale.evaluate.forests.features import Features
from medl_scale.evaluate.forests.tree_kernels import find_leaves, grow_tree
from medl_scale.evaluate.forests.tree_keys import WEIGHT_BITS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Codes = NDArray[np.int32]

__all__ = ["Grower", "KernelGrower", "ScikitLearnGrower", "Votes", "grower_for", "kernels_agree"]

_MOST_CLASSES = 1 << (32 - WEIGHT_BITS)
_CHECKED_SEEDS = 8


class Votes(NamedTuple):
    """What one tree says of the test cells."""

    answers: NDArray[np.unsignedinteger]
    """(n_test,) the class, or n_classes plus a row of `mixed` where the leaf holds several."""
    mixed: Any
    """(n_mixed, n_classes) compressed rows: shares of the classes in such leaves."""


class Grower(Protocol):
    """Grows trees of one forest."""

    def votes(self, weights: NDArray[np.integer], seed: int) -> Votes:
        """Return what a tree says of the test cells.

        Parameters
        ----------
        weights
            (n_train,) how often each train cell was drawn.
        seed
            `random_state` of scikit-learn's tree.
        """
        ...


def grower_for(train: Features, codes: Codes, test: Features, n_classes: int) -> Grower:
    """Return what grows the trees of a forest here: our own loops, or else scikit-learn.

    Parameters
    ----------
    train, test
        Features of the cells to grow from, and of those to ask for.
    codes
        (n_train,) classes.
    n_classes
        Number of classes.
    """
    if train.latent is None or n_classes > _MOST_CLASSES or not kernels_agree():
        return ScikitLearnGrower.of(train, codes, test, n_classes)
    return KernelGrower.of(train, codes, test, n_classes)


@dataclass(frozen=True, eq=False)
class KernelGrower:
    """Grows trees by our own loops. Latents are there; one-hot batches need no columns."""

    latent: NDArray[np.float32]
    """(n_train, d)"""
    batches: Codes
    """(n_train,) or empty."""
    codes: Codes
    test_latent: NDArray[np.float32]
    test_batches: Codes
    n_batches: int
    n_classes: int

    @classmethod
    def of(cls, train: Features, codes: Codes, test: Features, n_classes: int) -> KernelGrower:
        """Take features as they are."""
        if train.latent is None or test.latent is None:
            raise TypeError("KernelGrower needs latents; grow one-hot batches alone elsewhere.")
        return cls(
            _read_only(train.latent),
            _read_only(train.batch_codes),
            codes,
            _read_only(test.latent),
            _read_only(test.batch_codes),
            train.n_batches,
            n_classes,
        )

    def votes(self, weights: NDArray[np.integer], seed: int) -> Votes:
        """Return what a tree says of the test cells."""
        # The first number of the tree's generator seeds the one that draws features.
        state = np.random.RandomState(seed).randint(0, np.iinfo(np.int32).max)
        # No cell of a bootstrap is drawn 4,096 times.
        payload = (self.codes.astype(np.uint32) << np.uint32(WEIGHT_BITS)) | weights.astype(
            np.uint32
        )
        rows = np.flatnonzero(weights)
        feature, threshold, left, start, stop, answer = grow_tree(
            self.latent,
            self.batches,
            self.n_batches,
            payload,
            rows,
            self.n_classes,
            max(1, math.isqrt(self.latent.shape[1] + self.n_batches)),
            np.uint32(state),
        )
        leaves = find_leaves(self.test_latent, self.test_batches, feature, threshold, left)
        said = answer[leaves].astype(np.int64)
        is_mixed = said < 0
        mixed, own = np.unique(leaves[is_mixed], return_inverse=True)
        said[is_mixed] = self.n_classes + own
        cells = [rows[start[leaf] : stop[leaf]] for leaf in mixed]
        shares = _shares(cells, self.codes, weights, self.n_classes)
        return Votes(said.astype(np.min_scalar_type(self.n_classes + len(mixed))), shares)


@dataclass(frozen=True, eq=False)
class ScikitLearnGrower:
    """Grows trees by scikit-learn's `DecisionTreeClassifier`."""

    matrix: Any
    """(n_train, d) float32, dense or compressed columns."""
    codes: Codes
    test: Any
    """(n_test, d) float32, dense or compressed rows."""
    n_classes: int

    @classmethod
    def of(cls, train: Features, codes: Codes, test: Features, n_classes: int) -> ScikitLearnGrower:
        """Make the matrices that scikit-learn wants."""
        asked = test.matrix()
        asked = asked.tocsr() if sp.issparse(asked) else asked
        return cls(train.matrix(), codes, asked, n_classes)

    def votes(self, weights: NDArray[np.integer], seed: int) -> Votes:
        """Return what a tree says of the test cells."""
        from sklearn.tree import DecisionTreeClassifier

        tree = DecisionTreeClassifier(max_features="sqrt", random_state=seed)
        tree.fit(self.matrix, self.codes, sample_weight=weights)
        leaves, leaf_of_row = np.unique(tree.tree_.apply(self.test), return_inverse=True)
        shares = tree.tree_.value[leaves, 0, :]
        said = shares.argmax(axis=1)
        mixed = np.flatnonzero(shares.max(axis=1) < 1.0)
        said[mixed] = self.n_classes + np.arange(len(mixed))
        smallest = np.min_scalar_type(self.n_classes + len(mixed))
        return Votes(said.astype(smallest)[leaf_of_row], sp.csr_matrix(shares[mixed]))


@cache
def kernels_agree() -> bool:
    """Say whether our own loops grow scikit-learn's trees here; warn where they do not."""
    rng = np.random.default_rng(0)
    n = 160
    codes = rng.integers(0, 4, n).astype(np.int32)
    latent = rng.normal(size=(4, 5))[codes] + rng.normal(size=(n, 5))
    # Rounding makes values, and so gains, equal: the order of features and of splits is put to test.
    latent[:, :3] = latent[:, :3].round(1)
    cells = Features(
        latent=latent.astype(np.float32),
        batch_codes=rng.integers(0, 3, n).astype(np.int32),
        n_batches=3,
    )
    growers = KernelGrower.of(cells, codes, cells, 4), ScikitLearnGrower.of(cells, codes, cells, 4)
    for seed in range(_CHECKED_SEEDS):
        weights = np.bincount(rng.integers(0, n, n), minlength=n)
        ours, theirs = (grower.votes(weights, seed) for grower in growers)
        if not (
            np.array_equal(ours.answers, theirs.answers)
            and np.array_equal(ours.mixed.toarray(), theirs.mixed.toarray())
        ):
            import sklearn

            warnings.warn(
                f"scikit-learn {sklearn.__version__} grows other trees here than medl-scale does, so "
                "forests are left to it: the same figures, some 4 times slower. Install the "
                "scikit-learn that medl-scale was tested with to have them faster.",
                UserWarning,
                stacklevel=2,
            )
            return False
    return True


def _read_only(array: NDArray[Any] | None) -> NDArray[Any]:
    """Return a view as arrays come from other processes, so that loops are compiled for one kind."""
    found = np.empty(0, np.int32) if array is None else np.ascontiguousarray(array).view()
    found.flags.writeable = False
    return found


def _shares(
    leaves: list[NDArray[np.int64]], codes: Codes, weights: NDArray[np.integer], n_classes: int
) -> Any:
    """Return the shares of the classes in leaves, (n_leaves, n_classes) compressed rows."""
    if not leaves:
        return sp.csr_matrix((0, n_classes))
    cells = np.concatenate(leaves)
    leaf = np.repeat(np.arange(len(leaves)), [len(rows) for rows in leaves])
    pairs, own = np.unique(leaf * n_classes + codes[cells], return_inverse=True)
    of_pair, of_leaf = np.bincount(own, weights[cells]), np.bincount(leaf, weights[cells])
    places = pairs // n_classes, pairs % n_classes
    return sp.csr_matrix((of_pair / of_leaf[places[0]], places), shape=(len(leaves), n_classes))
