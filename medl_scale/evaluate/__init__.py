"""Metrics as plain functions over arrays, each with its error: no AnnData, no Dask, no files.

silhouettes/     silhouettes of labels and batches
neighbours/      nearest neighbours, LISI, kBET, graph connectivity
forests/         random forests on latents, their controls, and what the figures mean
separation.py    Calinski-Harabasz, Davies-Bouldin
agreement.py     ARI, NMI, k-means
battery.py       all figures of one latent (budget.py: in how long), summary.py: of several folds
score.py         what a metric returns; inputs.py: what it takes
blocks.py        how work is cut up (threads.py: in one process); backend.py, gpu/: CPU or GPU

Every function takes arrays and returns a `Score`. Work is shared with a Dask client by
`map_blocks=medl_scale.distribute.map_on_client(client)`. The names load when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medl_scale.evaluate.agreement import ari, ari_kmeans, cluster_by_kmeans, nmi, nmi_kmeans
    from medl_scale.evaluate.forests.classification import classify
    from medl_scale.evaluate.forests.forest import ForestSettings, forest_accuracy
    from medl_scale.evaluate.forests.verdicts import give_verdicts
    from medl_scale.evaluate.neighbours.connectivity import graph_connectivity
    from medl_scale.evaluate.neighbours.kbet import kbet
    from medl_scale.evaluate.neighbours.kbet_per_label import kbet_per_label
    from medl_scale.evaluate.neighbours.lisi import (
        clisi,
        clisi_knn,
        ilisi,
        ilisi_knn,
        lisi,
        lisi_of_latent,
    )
    from medl_scale.evaluate.neighbours.neighbours import Neighbours, nearest_neighbours
    from medl_scale.evaluate.score import Score
    from medl_scale.evaluate.separation import (
        calinski_harabasz,
        davies_bouldin,
        inverse_davies_bouldin,
    )
    from medl_scale.evaluate.silhouettes.silhouette import silhouette_samples, silhouette_score
    from medl_scale.evaluate.silhouettes.silhouette_batch import (
        bras,
        silhouette_batch,
        silhouette_label,
    )

__all__ = [
    "ForestSettings",
    "Neighbours",
    "Score",
    "ari",
    "ari_kmeans",
    "bras",
    "calinski_harabasz",
    "classify",
    "clisi",
    "clisi_knn",
    "cluster_by_kmeans",
    "davies_bouldin",
    "forest_accuracy",
    "give_verdicts",
    "graph_connectivity",
    "ilisi",
    "ilisi_knn",
    "inverse_davies_bouldin",
    "kbet",
    "kbet_per_label",
    "lisi",
    "lisi_of_latent",
    "nearest_neighbours",
    "nmi",
    "nmi_kmeans",
    "silhouette_batch",
    "silhouette_label",
    "silhouette_samples",
    "silhouette_score",
]

_HOMES = {
    "agreement": ("ari", "ari_kmeans", "cluster_by_kmeans", "nmi", "nmi_kmeans"),
    "forests.classification": ("classify",),
    "forests.forest": ("ForestSettings", "forest_accuracy"),
    "forests.verdicts": ("give_verdicts",),
    "neighbours.connectivity": ("graph_connectivity",),
    "neighbours.kbet": ("kbet",),
    "neighbours.kbet_per_label": ("kbet_per_label",),
    "neighbours.lisi": ("clisi", "clisi_knn", "ilisi", "ilisi_knn", "lisi", "lisi_of_latent"),
    "neighbours.neighbours": ("Neighbours", "nearest_neighbours"),
    "score": ("Score",),
    "separation": ("calinski_harabasz", "davies_bouldin", "inverse_davies_bouldin"),
    "silhouettes.silhouette": ("silhouette_samples", "silhouette_score"),
    "silhouettes.silhouette_batch": ("bras", "silhouette_batch", "silhouette_label"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"medl_scale.evaluate.{module}"), name)
    raise AttributeError(f"module 'medl_scale.evaluate' has no attribute {name!r}")
