"""Random forests against scikit-learn's: the same predictions, in how much less CPU time.

    python -m benchmarks.bench_forest

Both grow the same trees from the same cells and ask them for the same test cells, on one thread, turn
by turn; the least CPU time of each is compared. A case whose predictions differ is an error.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from benchmarks.figures import Figure, tell
from medl_scale.evaluate.forests.features import Features, know_batches
from medl_scale.evaluate.forests.forest import ForestSettings, forest_predictions
from medl_scale.evaluate.forests.trees import forest_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

GOAL = 3.0
N_TREES = 6


class Case(NamedTuple):
    """One kind of question."""

    name: str
    n: int
    d: int
    n_classes: int
    n_batches: int = 0


CASES = [
    Case("7,680 cells, d=50, 21 types", 7_680, 50, 21),
    Case("40,000 cells, d=2, 13 types", 40_000, 2, 13),
    Case("40,000 cells, d=50, 21 types", 40_000, 50, 21),
    Case("40,000 cells, d=50, 147 batches told", 40_000, 50, 147),
    Case("40,000 cells, d=50 and one-hot of 147, 21 types", 40_000, 50, 21, 147),
    Case("40,000 cells, one-hot of 147 alone, 21 types", 40_000, 0, 21, 147),
]


def features_of(case: Case) -> tuple[Features, Features, np.ndarray]:
    """Return train and test features, a quarter as many test cells, and classes of the train cells."""
    rng = np.random.default_rng(0)
    n = case.n * 5 // 4
    codes = rng.integers(0, case.n_classes, n).astype(np.int32)
    train, test = slice(0, case.n), slice(case.n, n)
    told = Features(), Features()
    if case.n_batches:
        share = rng.dirichlet(np.full(case.n_batches, 0.5), case.n_classes)
        batches = (share.cumsum(axis=1)[codes] < rng.random(n)[:, None]).sum(axis=1)
        told = know_batches(batches[train], np.minimum(batches[test], case.n_batches - 1))
    latent = None
    if case.d:
        centres = rng.normal(size=(case.n_classes, case.d))
        latent = (centres[codes] + 1.5 * rng.normal(size=(n, case.d))).astype(np.float32)
    own, theirs = (
        Features(
            latent=None if latent is None else latent[rows],
            batch_codes=batch.batch_codes,
            n_batches=batch.n_batches,
        )
        for rows, batch in ((train, told[0]), (test, told[1]))
    )
    return own, theirs, codes[train]


def measure(case: Case, rounds: int) -> Figure:
    """Return how many times less CPU time a case takes."""
    from sklearn.ensemble import RandomForestClassifier

    train, test, codes = features_of(case)
    matrices = train.dense_matrix(), test.dense_matrix()
    settings = ForestSettings(n_trees=N_TREES, n_threads=1)

    def theirs() -> np.ndarray:
        forest = RandomForestClassifier(N_TREES, random_state=42, n_jobs=1)
        return forest.fit(matrices[0], codes).predict(matrices[1])

    def ours() -> np.ndarray:
        return forest_predictions(train, test, codes, settings=settings).codes

    if not np.array_equal(ours(), theirs()):
        raise SystemExit(f"{case.name}: predictions differ")
    times = [(_cpu(theirs), _cpu(ours)) for _ in range(rounds)]
    slow, fast = (min(column) for column in zip(*times, strict=True))
    estimate = forest_seconds(case.n, max(1, case.d), case.n_classes, n_trees=N_TREES)
    return Figure(
        benchmark="forest",
        what=case.name,
        measured=round(slow / fast, 2),
        unit="x scikit-learn, same predictions",
        at_least=GOAL,
        details={
            "cpu_s_of_100_trees": round(fast * 100 / N_TREES, 2),
            "cpu_s_of_100_trees_scikit_learn": round(slow * 100 / N_TREES, 2),
            "estimate_s": round(estimate * 100 / N_TREES, 2) if case.d else None,
        },
    )


def _cpu(work: Callable[[], object]) -> float:
    """Return the CPU seconds of one call."""
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="turns of each case")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    options = parser.parse_args()
    cases, rounds = CASES, options.rounds
    if options.quick:
        cases, rounds = [case._replace(n=min(case.n, 400)) for case in CASES], 1
    figures = [measure(case, rounds) for case in cases]
    tell(figures, "Random forests on one thread", with_goals=not options.quick)


if __name__ == "__main__":
    main()
