"""The contract between a network and the loop that trains it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from medl_scale.models.across import Across
    from medl_scale.models.scope import Arrays

    Tensor = Any
    Effects = Mapping[str, tuple[Tensor, Tensor]]

__all__ = ["DataSummary", "InitialValues", "Inputs", "Network"]


@dataclass(frozen=True)
class DataSummary:
    """What a network must know of the train split before its first step.

    Values are in the units the network sees (log-normalised expression times the run's scale).
    """

    n_obs: int
    n_batches: int
    n_labels: int
    mean: NDArray[np.float32]
    """(n_vars,) mean of each gene."""
    sd: NDArray[np.float32]
    """(n_vars,) standard deviation of each gene."""
    batch_n: NDArray[np.int64]
    """(n_batches,) train cells of each batch."""
    batch_mean: NDArray[np.float32]
    """(n_batches, n_vars) mean of each gene in each batch."""

    @property
    def n_vars(self) -> int:
        """Number of genes."""
        return len(self.mean)

    @property
    def variance(self) -> float:
        """Mean per-gene variance: the squared error of the mean predictor."""
        return float(np.mean(np.square(self.sd, dtype=np.float64)))


class Inputs(NamedTuple):
    """What one training step or validation block feeds to a network. Absent parts are None."""

    x: Tensor
    """(m, n_vars) float32."""
    batch_codes: Tensor
    """(m,) int32."""
    label_codes: Tensor
    """(m,) int32, -1 where unlabelled."""
    effects: Effects
    """Per random-effects layer the (scale, shift) of each cell, (m, width) each."""
    latent_noise: Tensor | None = None
    """(m, n_latent) float32 standard normal."""
    keep_mask: Tensor | None = None
    """(m, n_vars) uint8, 0 where input dropout hides a gene."""
    frozen_latent: Tensor | None = None
    """(m, n_latent) float32, an embedding from elsewhere that replaces the encoder."""
    ramp: Tensor = 1.0
    """Scalar in [0, 1] by which annealed terms are multiplied."""
    across: Across | None = None
    """The other processes that hold cells of the same minibatch."""


@dataclass(frozen=True)
class InitialValues:
    """The state a network starts from."""

    model: Arrays
    """Weights of everything but the adversary."""
    adversary: Arrays = field(default_factory=dict)
    statistics: Arrays = field(default_factory=dict)
    """Moving statistics of batch normalisation; not trained."""


class Network(ABC):
    """A network: final classes below implement it, none inherits from another.

    One step is: `activations` of the encoder; `n_adversary_updates` updates of the adversary on
    these activations, detached; then `objective` with the updated adversary, whose gradient moves
    the other weights. Every weight is updated once a step by its own optimiser.
    """

    name: str
    n_adversary_updates: int = 0
    effect_widths: Mapping[str, int]
    """Units of each layer with random effects; empty where there are none."""
    encoder_effects: tuple[str, ...] = ()
    """Those of these layers that the encoder reads."""
    uses_latent_noise: bool = False
    input_dropout: float = 0.0
    max_gradient_norm: float | None = None
    batch_norm_momentum: float | None = None
    n_latent: int
    kl_weights: Mapping[str, float]
    """Weight of each random-effects layer's KL term (scale and shift tables together)."""
    reported: tuple[str, ...]
    """Names of the terms that `objective` returns, `total` first."""

    @abstractmethod
    def initial_values(self, rng: np.random.Generator) -> InitialValues:
        """Return first values."""

    @abstractmethod
    def activations(
        self, values: Mapping[str, Tensor], inputs: Inputs, *, training: bool
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the encoder's activations by name and the new moving statistics."""

    @abstractmethod
    def objective(
        self,
        values: Mapping[str, Tensor],
        adversary: Mapping[str, Tensor],
        activations: Mapping[str, Tensor],
        inputs: Inputs,
        *,
        training: bool,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the loss terms, `total` among them (weighted), and the new moving statistics."""

    def adversary_loss(
        self,
        adversary: Mapping[str, Tensor],
        activations: Mapping[str, Tensor],
        inputs: Inputs,
    ) -> Tensor:
        """Return the loss that the adversary minimises."""
        raise NotImplementedError(f"{self.name} has no adversary.")

    @abstractmethod
    def encode(self, values: Mapping[str, Tensor], x: Tensor, effects: Effects) -> Tensor:
        """Return (m, n_latent) latents with moving statistics and without noise."""

    @abstractmethod
    def decode(self, values: Mapping[str, Tensor], latent: Tensor, effects: Effects) -> Tensor:
        """Return (m, n_vars) expression in the network's units."""
