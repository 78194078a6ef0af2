"""What a user can set: one frozen dataclass a floor, checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from medl_scale.errors import ConfigError

__all__ = [
    "METRICS",
    "METRIC_GROUPS",
    "MODELS",
    "MODELS_WITH_EFFECTS",
    "Adversary",
    "Backend",
    "ComparedTest",
    "ComparedValues",
    "EvaluateConfig",
    "HvgFlavor",
    "InputUnits",
    "IntervalSource",
    "Join",
    "LayoutMethod",
    "ModelConfig",
    "PrepareConfig",
    "Preset",
    "ProjectConfig",
    "ProjectedUnits",
    "Protocol",
    "RunConfig",
    "ScoredSplit",
    "StreamConfig",
    "SwitchedSides",
    "TrainConfig",
]

MODELS = ("me", "fe", "re", "fec", "ae", "aec", "pca")
"""Every model that `fit` knows, the default first."""
MODELS_WITH_EFFECTS = ("me", "re")
"""Those that know batches, and show a cell as if it came from another; the default first."""
Adversary = Literal["published", "strong"]
Preset = Literal["auto", "medl", "scmedal"]
PresetData = Literal["generic", "aml", "asd", "hh"]
Compile = Literal["auto", "on", "off"]
Precision = Literal["float32", "bf16", "auto"]

METRIC_GROUPS = {
    "scib": (
        "silhouette_label",
        "silhouette_batch",
        "bras",
        "ilisi_knn",
        "clisi_knn",
        "kbet",
        "kbet_per_label",
        "graph_connectivity",
        "nmi",
        "ari",
    ),
    "published": ("ASW", "CH", "1/DB"),
    "lisi": ("iLISI", "cLISI"),
    "forest": ("RFAccuracy", "RFBalancedAccuracy", "ChanceAccuracy"),
}
"""Metrics that are asked for together: scib-metrics', the papers' latent scores, Harmony's, forests."""
METRICS = tuple(name for names in METRIC_GROUPS.values() for name in names)
"""Every metric that `evaluate` knows."""
Protocol = Literal["full", "paper"]
ScoredSplit = Literal["test", "val", "train", "all"]
Backend = Literal["auto", "cpu", "gpu"]

InputUnits = Literal["counts", "lognorm", "log2p1"]
HvgFlavor = Literal["seurat", "cell_ranger", "seurat_v3"]
Join = Literal["inner", "outer"]
LayoutMethod = Literal["map2d", "genomap"]
ProjectedUnits = Literal["lognorm", "model"]
SwitchedSides = Literal["both", "decoder"]
IntervalSource = Literal["auto", "calibrated", "model"]
ComparedValues = Literal["as_if", "measured", "average"]
ComparedTest = Literal["mixed", "mann-whitney"]


def check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    """Raise unless `value` is one of `choices`."""
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ConfigError(f"{name} must be one of {listed}; got {value!r}.")


def check_at_least(name: str, value: float, minimum: float) -> None:
    """Raise unless `value` >= `minimum`."""
    if not value >= minimum:
        raise ConfigError(f"{name} must be at least {minimum}; got {value!r}.")


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """How raw counts become a prepared atlas.

    Defaults are those of the papers' pipeline (cells with fewer than 10 genes and genes in fewer
    than 3 cells removed, 10,000 counts per cell, log1p, `seurat` genes), but for 3,000 genes.
    """

    batch_key: str
    """Column of `obs` with the experimental batch (donor, sample, protocol)."""
    batch_from_file: bool = False
    """Make that column: each input is one batch, named after its file."""
    labels_key: str | None = None
    """Column of `obs` with cell types, or None."""
    unlabeled_category: str = "Unknown"
    """Label of cells whose type is not known."""
    layer: str | None = None
    """Layer to read instead of `X`."""
    n_top_genes: int | None = 3000
    """Highly variable genes to keep; None or 0 keeps all that pass `min_cells`."""
    min_genes: int = 10
    """Cells with fewer detected genes are removed."""
    min_cells: int = 3
    """Genes detected in fewer cells are removed."""
    input_units: InputUnits = "counts"
    """`counts` (non-negative integers), `lognorm` (log1p of normalised) or `log2p1` (log2(x + 1))."""
    hvg_flavor: HvgFlavor = "seurat"
    hvg_batch_key: str | None = None
    """Column of `obs` within whose levels genes are ranked first, or None."""
    join: Join = "inner"
    """Genes of several inputs: their intersection (`inner`) or union (`outer`, absent ones are 0)."""
    target_sum: float = 1e4
    """Counts per cell after normalisation."""
    folds: int = 5
    """Parts of the cross-validation: fold k tests on part k, validates on part k + 1."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("input_units", self.input_units, get_args(InputUnits))
        check_choice("hvg_flavor", self.hvg_flavor, get_args(HvgFlavor))
        check_choice("join", self.join, get_args(Join))
        check_at_least("folds", self.folds, 3)
        check_at_least("min_genes", self.min_genes, 0)
        check_at_least("min_cells", self.min_cells, 0)
        check_at_least("seed", self.seed, 0)
        if self.n_top_genes is not None:
            check_at_least("n_top_genes", self.n_top_genes, 0)
            # The way to write None in a settings file.
            object.__setattr__(self, "n_top_genes", self.n_top_genes or None)
        if self.hvg_flavor == "seurat_v3" and self.input_units != "counts":
            raise ConfigError(
                f"hvg_flavor 'seurat_v3' ranks genes by counts; input_units is "
                f"{self.input_units!r}. Choose 'seurat' or 'cell_ranger'."
            )
        if not self.target_sum > 0:
            raise ConfigError(f"target_sum must be positive; got {self.target_sum!r}.")


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """How rows travel from the store to a training step."""

    minibatch_size: int = 512
    """Cells of one training step, over all ranks."""
    run_size: int = 1024
    """Contiguous rows read at once. The store is shuffled, so long runs mix as well as short ones,
    and four chunks of 256 rows are decoded 30 % faster together than one by one."""
    window_size: int = 16_384
    """Rows held and mixed at a time."""
    cache_memory: int = 2 * 2**30
    """Bytes of decoded rows kept in host memory; what does not fit is read again."""
    prefetch: int = 2
    """Minibatches made ahead of the step by a background thread; 0 makes them in turn."""
    device_cache_memory: int | None = None
    """JAX: bytes of train rows kept on the GPU, if all of them fit; else each minibatch is sent there
    as it is stored. None: 40 % of the GPU's free memory, on CPUs nothing. 0: none."""

    def __post_init__(self) -> None:
        check_at_least("minibatch_size", self.minibatch_size, 2)
        check_at_least("run_size", self.run_size, 1)
        check_at_least("window_size", self.window_size, self.run_size)
        check_at_least("cache_memory", self.cache_memory, 0)
        check_at_least("prefetch", self.prefetch, 0)
        if self.device_cache_memory is not None:
            check_at_least("device_cache_memory", self.device_cache_memory, 0)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What a network looks like and how its losses are balanced. None means: by the preset's rule."""

    preset: Preset = "auto"
    """`auto` is ours; `medl` (2-D) and `scmedal` (50-D) keep the papers' mathematics and weights."""
    preset_data: PresetData = "generic"
    """Whose hand-tuned weights a published preset takes: `aml`, `asd`, `hh`, or the code's defaults."""
    n_latent: int | None = None
    """Latent dimensions; None: 30 for `me`, 50 for the others, 2 with preset `medl`."""
    hidden: tuple[int, ...] = (512, 132)
    """Widths of the encoder's hidden layers; decoders mirror them."""
    adversary: Adversary = "published"
    """`strong` mixes batches more and costs cell-type detail."""
    eta: float = 0.0
    """Weight of the closed-form linear adversary in FE and FEC; 0 leaves it out."""
    recon_weight: float | None = None
    adversary_weight: float | None = None
    class_weight: float | None = None
    latent_batch_weight: float | None = None
    kl_weight: float | None = None
    """Weight of the random effects' KL; None: consistent with the evidence lower bound."""
    latent_kl_weight: float = 1e-3
    """`me`: weight of the latent's KL, in units of loss where the mean predictor has 1."""
    input_dropout: float | None = None
    """`me`: share of genes hidden from the encoder in a step; None: 0.2 up to 2,000 train cells, and
    in inverse proportion beyond, since it is small sets that over-fit."""

    def __post_init__(self) -> None:
        check_choice("preset", self.preset, get_args(Preset))
        check_choice("preset_data", self.preset_data, get_args(PresetData))
        check_choice("adversary", self.adversary, get_args(Adversary))
        if self.n_latent is not None:
            check_at_least("n_latent", self.n_latent, 1)
        if not self.hidden or min(self.hidden) < 1:
            raise ConfigError(f"hidden must name at least one width >= 1; got {self.hidden!r}.")
        for name in ("recon_weight", "adversary_weight", "class_weight", "latent_batch_weight",
                     "kl_weight", "latent_kl_weight", "eta"):  # fmt: skip
            value = getattr(self, name)
            if value is not None:
                check_at_least(name, value, 0)
        if self.input_dropout is not None and not 0 <= self.input_dropout < 1:
            raise ConfigError(f"input_dropout must be in [0, 1); got {self.input_dropout!r}.")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long and how fast to train. None means: by the preset's rule."""

    max_epochs: int = 500
    learning_rate: float | None = None
    """None: 1e-3, or 1e-4 with a published preset."""
    early_stopping_patience: int | None = None
    """Optimiser steps without a better validation loss before the learning rate falls or the fit
    ends; None: 10 epochs, within 50 to 150 steps, or 30 epochs with a published preset."""
    compile: Compile = "auto"
    """Let XLA compile the step (TensorFlow): `auto` does so where it is measured to be faster."""
    precision: Precision = "float32"
    """Matrix products of a training step: `bf16` rounds them to bfloat16, which GPUs compute faster;
    `auto` does so where losses are shown to fall alike, which is nowhere yet. All else is float32."""
    device_memory: int | None = None
    """Most bytes of a GPU for TensorFlow or JAX, where RMM or other processes share it; None: as it
    needs, growing."""
    checkpoint_every_s: float = 30.0
    """Seconds between checkpoints."""
    threads: int | None = None
    """CPU threads of one fit; None: all cores divided by the workers."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("compile", self.compile, get_args(Compile))
        check_choice("precision", self.precision, get_args(Precision))
        check_at_least("max_epochs", self.max_epochs, 1)
        if self.device_memory is not None:
            check_at_least("device_memory", self.device_memory, 1 << 20)
        check_at_least("checkpoint_every_s", self.checkpoint_every_s, 0)
        check_at_least("seed", self.seed, 0)
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise ConfigError(f"learning_rate must be positive; got {self.learning_rate!r}.")
        if self.early_stopping_patience is not None:
            check_at_least("early_stopping_patience", self.early_stopping_patience, 1)
        if self.threads is not None:
            check_at_least("threads", self.threads, 1)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that `fit` needs besides the atlas."""

    models: tuple[str, ...] = ("me", "fe", "re", "pca")
    """`pca` takes seconds and is what every score is compared with."""
    folds: tuple[int, ...] = (0,)
    """Folds to fit; the latents of the first one go into the atlas."""
    fe_rep: str | None = None
    """Key of `obsm` that replaces the encoder of `me`; only its decoder is trained."""
    workers: int | None = None
    """Fits side by side; None: all workers of a cluster, without a cluster one."""
    workers_per_fit: int | Literal["auto"] = "auto"
    """Workers that share each fit; `"auto"`: one, but more if there are fewer fits than workers and the
    atlas is large."""
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    stream: StreamConfig = field(default_factory=StreamConfig)

    def __post_init__(self) -> None:
        if not self.models:
            raise ConfigError(f"models names no model. Choose from {', '.join(MODELS)}.")
        for name in self.models:
            check_choice("models", name, MODELS)
        if len(set(self.models)) < len(self.models):
            raise ConfigError(f"models names one twice: {', '.join(self.models)}.")
        if not self.folds or min(self.folds) < 0 or len(set(self.folds)) < len(self.folds):
            raise ConfigError(f"folds must be different numbers >= 0; got {self.folds!r}.")
        if self.fe_rep is not None and "me" not in self.models:
            raise ConfigError("fe_rep freezes the encoder of 'me', which is not among the models.")
        if self.workers is not None:
            check_at_least("workers", self.workers, 1)
        if self.workers_per_fit != "auto":
            check_at_least("workers_per_fit", self.workers_per_fit, 1)
            if self.workers is not None and self.workers_per_fit > self.workers:
                raise ConfigError(
                    f"workers_per_fit {self.workers_per_fit} needs as many workers; workers is "
                    f"{self.workers}. Set --workers to {self.workers_per_fit} or more, or "
                    "--workers-per-fit to auto."
                )


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What is scored, and how exactly."""

    metrics: tuple[str, ...] = tuple(METRIC_GROUPS)
    """Names of metrics or of groups of them."""
    use_rep: tuple[str, ...] | None = None
    """Keys of latents; None: all of a run, or all embeddings in `obsm`."""
    batch_key: str | None = None
    """Column of `obs` with the batch; None: that of the atlas."""
    labels_key: str | None = None
    """Column of `obs` with cell types; None: that of the atlas."""
    targets: tuple[str, ...] = ()
    """Further columns of `obs` that forests predict, such as a diagnosis."""
    split: ScoredSplit | None = None
    """Cells that are scored; None: the test split of each fold of a run, all cells of an AnnData."""
    protocol: Protocol = "full"
    """`full` scores every cell; `paper` draws 10,000, under names of its own."""
    max_seconds: float | None = None
    """About how long it may take; what does not fit is estimated or left out, and said so."""
    tol: float | None = None
    """Error allowed of silhouettes that are not exact; None: 1e-3 for that of a cell (`gridded`), 1e-4
    for their mean (`two_phase`)."""
    confidence: float = 0.99
    """Level of the intervals of estimated silhouettes."""
    workers: int | None = None
    """Processes that share the work; None: all workers of a cluster, without a cluster one."""
    backend: Backend = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("split", self.split, (None, *get_args(ScoredSplit)))
        check_choice("protocol", self.protocol, get_args(Protocol))
        check_choice("backend", self.backend, get_args(Backend))
        if self.workers is not None:
            check_at_least("workers", self.workers, 1)
        check_at_least("seed", self.seed, 0)
        if not self.metrics:
            raise ConfigError(f"metrics names none. Choose from {_metric_names()}.")
        for name in self.metrics:
            if name not in METRICS and name not in METRIC_GROUPS:
                raise ConfigError(f"'{name}' is not a metric. Choose from {_metric_names()}.")
        if self.tol is not None and not self.tol > 0:
            raise ConfigError(f"tol must be positive; got {self.tol!r}.")
        if not 0.5 < self.confidence < 1:
            raise ConfigError(f"confidence must be in (0.5, 1); got {self.confidence!r}.")
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise ConfigError(f"max_seconds must be positive; got {self.max_seconds!r}.")

    def chosen(self) -> frozenset[str]:
        """Return the metrics asked for, groups resolved."""
        return frozenset(
            metric for name in self.metrics for metric in METRIC_GROUPS.get(name, (name,))
        )


@dataclass(frozen=True, kw_only=True)
class ProjectConfig:
    """How chosen cells are decoded as if they came from other batches."""

    model: str = "me"
    """A model with random effects: `me`, or the published `re`."""
    fold: int | None = None
    """Whose model; None: the run's first fold."""
    units: ProjectedUnits = "lognorm"
    """`lognorm`: log-normalised expression; `model`: that times the run's scale, as networks see it."""
    draws: int = 0
    """Draws from the posterior of the effects, for a mean and a credible interval; 0: none."""
    level: float = 0.95
    """Probability that the credible interval holds."""
    intervals: IntervalSource = "auto"
    """`calibrated`: as wide as validation cells show that intervals must be; `model`: as the posterior
    says, which is too narrow; `auto`: calibrated where labels and cells suffice for it."""
    switch: SwitchedSides = "both"
    """Which sides of `re` read the target batch: `both`, as published, or the `decoder` alone, and the
    encoder the cell's own. The encoder of `me` reads no batch."""
    with_reconstructions: bool = True
    """Add what was measured, and what the model and the run's FE and AE reconstruct of each cell."""
    seed: int = 0
    max_bytes: int | None = None
    """The largest projection to make; None: 4 GiB in memory, 64 GiB on disk."""

    def __post_init__(self) -> None:
        check_choice("model", self.model, MODELS)
        check_choice("units", self.units, get_args(ProjectedUnits))
        check_choice("switch", self.switch, get_args(SwitchedSides))
        check_choice("intervals", self.intervals, get_args(IntervalSource))
        check_at_least("draws", self.draws, 0)
        check_at_least("seed", self.seed, 0)
        if self.draws == 1:
            raise ConfigError("draws must be 0, or at least 2 for an interval; got 1. Try 50.")
        if not 0 < self.level < 1:
            raise ConfigError(f"level must be in (0, 1); got {self.level!r}.")
        if self.max_bytes is not None:
            check_at_least("max_bytes", self.max_bytes, 1)


def _metric_names() -> str:
    """Return the names that `metrics` may hold."""
    return f"{', '.join(METRICS)}, or the groups {', '.join(METRIC_GROUPS)}"
