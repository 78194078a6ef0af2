"""Which rows come in which order, decoded to what; knows nothing of models.

plan         the order of an epoch, as integers
source       raw rows from disk (annbatch) or memory; cache keeps decoded ones
densify      stored values to dense log-normalised ones (kernels); buffers lends the arrays
chunks       the same rows as an accelerator takes them, which densifies them itself
minibatches  the above put together, a thread ahead of the training step (prefetch)
statistics   moments of the train rows in one pass
"""

from medl_scale.stream.cache import CachedSource
from medl_scale.stream.contract import CsrRows, Source
from medl_scale.stream.densify import Transform
from medl_scale.stream.minibatches import Minibatch, blocks, stream
from medl_scale.stream.plan import EpochPlan
from medl_scale.stream.prefetch import Prefetched
from medl_scale.stream.runs import sequential_runs
from medl_scale.stream.source import open_source
from medl_scale.stream.statistics import TrainStatistics, train_statistics

__all__ = [
    "CachedSource",
    "CsrRows",
    "EpochPlan",
    "Minibatch",
    "Prefetched",
    "Source",
    "TrainStatistics",
    "Transform",
    "blocks",
    "open_source",
    "sequential_runs",
    "stream",
    "train_statistics",
]
