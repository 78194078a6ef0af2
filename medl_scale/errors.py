"""Every error a user can meet, each also a built-in so that old `except` clauses work.

A message says what was expected, what was found (names and values), and what to do.
"""

__all__ = [
    "AtlasError",
    "ClusterError",
    "ConfigError",
    "DataError",
    "DivergedError",
    "FitFailedError",
    "LatentsIncompleteError",
    "MedlError",
    "MissingExtraError",
    "OutputExistsError",
    "RankLostError",
    "RunError",
    "SchedulerLostError",
    "ScoreUndefinedError",
    "StoreError",
    "WorkerLostError",
]


class MedlError(Exception):
    """Root of all errors that medl-scale raises on purpose."""


class ConfigError(MedlError, ValueError):
    """An option is unknown, out of range, or contradicts another."""


class DataError(MedlError, ValueError):
    """The data cannot be used as they are: NaN, fractional counts, one batch, missing columns."""


class AtlasError(MedlError, ValueError):
    """A path is not a prepared atlas, or its manifest does not fit what was asked."""


class StoreError(MedlError, OSError):
    """A store on disk is truncated or unreadable, or could not be written."""


class OutputExistsError(MedlError, FileExistsError):
    """The output is there already and may not be overwritten."""


class RunError(MedlError, FileNotFoundError):
    """A run folder is missing, or lacks the model or fold asked for."""


class ScoreUndefinedError(MedlError, ValueError):
    """A score has no meaning for these labels, such as a silhouette of one cluster."""


class LatentsIncompleteError(MedlError, FileNotFoundError):
    """Latents were asked for that have not been written, or not for every cell."""


class DivergedError(MedlError, FloatingPointError):
    """Training produced non-finite losses again after the learning rate was lowered."""


class FitFailedError(MedlError, RuntimeError):
    """One or more of several fits failed; the others are kept."""


class MissingExtraError(MedlError, ImportError):
    """An optional package is needed; the message holds its install line."""


class WorkerLostError(MedlError, RuntimeError):
    """Workers died or were given up, and what they did could not be done again, or not by them."""


class RankLostError(MedlError, ConnectionError):
    """Another rank of the same fit is gone; this process cannot go on with it."""


class SchedulerLostError(MedlError, ConnectionError):
    """The Dask scheduler does not answer any more; what ran on its workers has ended."""


class ClusterError(MedlError, RuntimeError):
    """A cluster could not be started or joined, or its workers cannot do what is asked of them."""
