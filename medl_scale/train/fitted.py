"""A trained model on disk: loaded without its atlas, it encodes new cells.

A model's folder holds `model.npz`: weights, random effects, what the input was scaled by, the genes it
needs, and a record of how it was made.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final, override

import numpy as np

from medl_scale.config import ModelConfig
from medl_scale.errors import RunError
from medl_scale.models.build import build_network
from medl_scale.models.network import DataSummary, InitialValues
from medl_scale.models.variational import EffectTable
from medl_scale.stream.densify import Transform
from medl_scale.train.checkpoint import read_arrays, write_arrays
from medl_scale.train.effects import NoiseTable
from medl_scale.train.engine import EffectOptions, build_engine
from medl_scale.train.lanes import in_lanes
from medl_scale.train.predictor_numpy import NumpyPredictor

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from medl_scale.train.engine import Predictor

    Floats = NDArray[np.float32]

__all__ = ["FittedModel", "FittedNetwork", "FittedPca", "Vocabulary", "load_model"]

MODEL_FILE = "model.npz"
TILE_ROWS = 256
"""Rows decoded at once: at 3,000 genes they stay in a processor's cache."""


@dataclass(frozen=True)
class Vocabulary:
    """What the model's inputs mean."""

    var_names: tuple[str, ...]
    batch_key: str
    batch_levels: tuple[str, ...]
    label_levels: tuple[str, ...]
    transform: Transform
    """From stored values to what the model reads."""


class FittedModel(ABC):
    """A trained model."""

    name: str
    vocabulary: Vocabulary

    @abstractmethod
    def encode(self, x: Floats, batch_codes: NDArray[np.int32]) -> dict[str, Floats]:
        """Return latents by obsm key.

        Parameters
        ----------
        x
            (m, n_vars) transformed expression.
        batch_codes
            (m,) codes in the model's batches; -1 (unknown) takes the prior mean of the effects.
        """

    @abstractmethod
    def latent_sizes(self) -> dict[str, int]:
        """Return the width of each latent by obsm key; empty if the latent comes from elsewhere."""

    @abstractmethod
    def save(self, folder: Path, extra: Mapping[str, Any]) -> None:
        """Write the model into a folder, with more entries for its record."""


@final
class FittedNetwork(FittedModel):
    """A trained network in an engine, or in NumPy."""

    def __init__(
        self,
        name: str,
        engine: Predictor,
        config: ModelConfig,
        summary: DataSummary,
        vocabulary: Vocabulary,
        *,
        frozen_latent: int | None = None,
    ) -> None:
        self.name = name
        self.engine = engine
        self.config = config
        self.summary = summary
        self.vocabulary = vocabulary
        self.frozen_latent = frozen_latent
        self.network = build_network(name, config, summary, frozen_latent=frozen_latent)

    @override
    def encode(self, x: Floats, batch_codes: NDArray[np.int32]) -> dict[str, Floats]:
        return {f"X_medl_{self.name}": self.engine.encode(x, batch_codes)}

    @override
    def latent_sizes(self) -> dict[str, int]:
        if self.frozen_latent is not None:
            return {}
        return {f"X_medl_{self.name}": self.network.n_latent}

    def decode(self, latent: Floats, batch_codes: NDArray[np.int32], effects: Any = None) -> Floats:
        """Return (m, n_vars) expression in the model's units.

        Parameters
        ----------
        latent
            (m, n_latent).
        batch_codes
            (m,) codes in the model's batches; -1 takes the effects at zero. Networks without effects
            do not look at them.
        effects
            Scales and shifts in place of the posterior means, from `engine.place_effects`; codes
            then are rows of these.

        Notes
        -----
        The same latent under the same effects gives the same bits, whichever cells lie beside it:
        rows are decoded `TILE_ROWS` at a time, the last ones filled up.
        """
        decoded = np.empty((len(latent), self.summary.n_vars), np.float32)
        for rows, tile in self.decode_tiles(latent, batch_codes, effects):
            decoded[rows] = tile
        return decoded

    def decode_tiles(
        self, latent: Floats, batch_codes: NDArray[np.int32], effects: Any = None
    ) -> Iterator[tuple[slice, Floats]]:
        """Yield what `decode` returns some rows at a time, while a processor's cache holds them."""
        n_rows = len(latent)

        def decode(rows: slice) -> tuple[slice, Floats]:
            n_own = rows.stop - rows.start
            lacking = TILE_ROWS - n_own
            tile = self.engine.decode(
                np.pad(latent[rows], ((0, lacking), (0, 0))),
                np.pad(batch_codes[rows], (0, lacking)),
                effects,
            )
            return rows, tile[:n_own]

        tiles = [
            slice(start, min(start + TILE_ROWS, n_rows)) for start in range(0, n_rows, TILE_ROWS)
        ]
        yield from in_lanes(decode, tiles, self.engine.n_lanes)

    def effects(self) -> dict[str, EffectTable]:
        """Return the posterior of the random effects per layer; empty where there are none."""
        return self.engine.effect_tables()

    @override
    def save(self, folder: Path, extra: Mapping[str, Any]) -> None:
        state = self.engine.state()
        kept = {
            name: value
            for name, value in state.items()
            if name.startswith(("model/", "adversary/", "statistics/"))
            or (name.startswith("effects/") and not name.endswith("/moments"))
        }
        summary = {
            f"summary/{name}": getattr(self.summary, name)
            for name in ("mean", "sd", "batch_n", "batch_mean")
        }
        record = {
            "kind": "network",
            "model": self.name,
            "config": dataclasses.asdict(self.config),
            "frozen_latent": self.frozen_latent,
            "n_obs": self.summary.n_obs,
            "n_labels": self.summary.n_labels,
            **_vocabulary_record(self.vocabulary),
            **extra,
        }
        arrays = kept | summary | _names(self.vocabulary)
        write_arrays(folder / MODEL_FILE, arrays, record)


@final
class FittedPca(FittedModel):
    """Principal components of the train split, plain and with batch means subtracted."""

    name = "pca"

    def __init__(
        self, mean: Floats, components: Floats, centres: Floats, vocabulary: Vocabulary
    ) -> None:
        self.mean = mean
        """(n_vars,)."""
        self.components = components
        """(n_vars, n_latent)."""
        self.centres = centres
        """(n_batches, n_latent), mean latent of each batch's train cells."""
        self.vocabulary = vocabulary

    @override
    def encode(self, x: Floats, batch_codes: NDArray[np.int32]) -> dict[str, Floats]:
        latent = np.matmul(x - self.mean, self.components, dtype=np.float32)
        known = np.append(self.centres, np.zeros_like(self.centres[:1]), axis=0)
        return {"X_pca": latent, "X_pca_batch_centred": latent - known[batch_codes]}

    @override
    def latent_sizes(self) -> dict[str, int]:
        n_latent = self.components.shape[1]
        return {"X_pca": n_latent, "X_pca_batch_centred": n_latent}

    @override
    def save(self, folder: Path, extra: Mapping[str, Any]) -> None:
        arrays = {
            "pca/mean": self.mean,
            "pca/components": self.components,
            "pca/centres": self.centres,
        }
        record = {"kind": "pca", "model": "pca", **_vocabulary_record(self.vocabulary), **extra}
        write_arrays(folder / MODEL_FILE, arrays | _names(self.vocabulary), record)


def load_model(
    folder: Path, *, n_threads: int = 1, in_numpy: bool = False
) -> tuple[FittedModel, dict[str, Any]]:
    """Return a saved model and its record.

    Parameters
    ----------
    n_threads
        Threads of an engine's kernels.
    in_numpy
        Predict in NumPy, without loading the framework, instead of by an engine.

    Raises
    ------
    RunError
        If the folder holds no finished model.
    StoreError
        If its file is damaged.
    """
    path = folder / MODEL_FILE
    if not path.exists():
        raise RunError(f"{folder} holds no finished model. Finish the fit with --resume.")
    arrays, record = read_arrays(path)
    vocabulary = Vocabulary(
        var_names=tuple(arrays["var_names"].tolist()),
        batch_key=record["batch_key"],
        batch_levels=tuple(record["batch_levels"]),
        label_levels=tuple(record["label_levels"]),
        transform=Transform(**record["transform"]),
    )
    if record["kind"] == "pca":
        model = FittedPca(
            arrays["pca/mean"], arrays["pca/components"], arrays["pca/centres"], vocabulary
        )
        return model, record
    config = ModelConfig(**(record["config"] | {"hidden": tuple(record["config"]["hidden"])}))
    summary = DataSummary(
        n_obs=record["n_obs"],
        n_batches=len(vocabulary.batch_levels),
        n_labels=record["n_labels"],
        mean=arrays["summary/mean"],
        sd=arrays["summary/sd"],
        batch_n=arrays["summary/batch_n"],
        batch_mean=arrays["summary/batch_mean"],
    )
    frozen = record["frozen_latent"]
    network = build_network(record["model"], config, summary, frozen_latent=frozen)

    def group(prefix: str) -> dict[str, Any]:
        return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}

    initial = InitialValues(group("model/"), group("adversary/"), group("statistics/"))
    tables = {
        layer: EffectTable(arrays[f"effects/{layer}/loc"], arrays[f"effects/{layer}/untransformed"])
        for layer in network.effect_widths
    }
    predictor: Predictor
    if in_numpy:
        predictor = NumpyPredictor(network, initial, tables)
    else:
        options = (
            EffectOptions(tables, network.kl_weights, None, one_draw_kl=False, noise=NoiseTable(0))
            if tables
            else None
        )
        predictor = build_engine(network, initial, options, n_threads=n_threads, compiled=False)
    fitted = FittedNetwork(
        record["model"], predictor, config, summary, vocabulary, frozen_latent=frozen
    )
    return fitted, record


def _vocabulary_record(vocabulary: Vocabulary) -> dict[str, Any]:
    """Return the vocabulary's small parts as plain values."""
    return {
        "batch_key": vocabulary.batch_key,
        "batch_levels": list(vocabulary.batch_levels),
        "label_levels": list(vocabulary.label_levels),
        "transform": dataclasses.asdict(vocabulary.transform),
    }


def _names(vocabulary: Vocabulary) -> dict[str, NDArray[Any]]:
    """Return the gene names as an array that needs no pickling."""
    return {"var_names": np.asarray(vocabulary.var_names, dtype=np.str_)}
