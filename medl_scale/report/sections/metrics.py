"""What each metric of the scores asks, and which end of it is good."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["FOREST_METRICS", "MIXING", "TYPES", "Metric"]


@dataclass(frozen=True)
class Metric:
    """A column of a table of scores."""

    name: str
    better: Literal["higher", "lower"]
    meaning: str
    short: str | None = None

    @property
    def title(self) -> str:
        """What stands over the column."""
        return self.short or self.name


MIXING = (
    Metric("ilisi_knn", "higher", "batches around a cell, scaled to 0 to 1"),
    Metric("iLISI", "higher", "batches around a cell, from 1 to their number"),
    Metric("kbet", "higher", "share of neighbourhoods that look like the whole"),
    Metric("kbet_per_label", "higher", "the same within each type"),
    Metric("silhouette_batch", "higher", "1 less the batches' silhouettes within types"),
    Metric("bras", "higher", "the same against the other batches' mean"),
    Metric("ASW", "lower", "silhouette of batches, from -1 to 1"),
    Metric("CH", "lower", "Calinski-Harabasz index of batches"),
    Metric("1/DB", "lower", "one over the Davies-Bouldin index of batches"),
)
"""Whether batches are mixed; metrics of the batch."""
TYPES = (
    Metric("silhouette_label", "higher", "silhouette of types, scaled to 0 to 1"),
    Metric("clisi_knn", "higher", "purity of types around a cell, scaled to 0 to 1"),
    Metric("cLISI", "lower", "types around a cell, from 1 up"),
    Metric("graph_connectivity", "higher", "share of a type in its largest connected part"),
    Metric("nmi", "higher", "agreement of k-means clusters with types"),
    Metric("ari", "higher", "the same, corrected for chance"),
    Metric("ASW", "higher", "silhouette of types, from -1 to 1"),
    Metric("CH", "higher", "Calinski-Harabasz index of types"),
    Metric("1/DB", "higher", "one over the Davies-Bouldin index of types"),
)
"""Whether cell types are kept; metrics of the label."""
FOREST_METRICS = (
    Metric(
        "RFAccuracy", "higher", "share of test cells that a random forest names rightly", "accuracy"
    ),
    Metric("RFBalancedAccuracy", "higher", "the same, every class counting alike", "balanced"),
    Metric("ChanceAccuracy", "higher", "by drawing classes by their frequency", "chance"),
)
"""What a forest reads from the latent."""
