"""Genes in modules, whose correlations are known."""

import numpy as np

__all__ = ["module_correlations", "module_values"]


def module_values(n_cells: int, n_genes: int, n_modules: int, seed: int) -> np.ndarray:
    """Cells in which genes of a module go together, (n_cells, n_genes); gene i is of i % n_modules."""
    random = np.random.default_rng(seed)
    factors = random.standard_normal((n_cells, n_modules))
    module = np.arange(n_genes) % n_modules
    return 0.7 * factors[:, module] + 0.7 * random.standard_normal((n_cells, n_genes))


def module_correlations(
    n_cells: int = 400, n_genes: int = 64, n_modules: int = 4, seed: int = 0
) -> np.ndarray:
    """The correlations of such cells."""
    return np.corrcoef(module_values(n_cells, n_genes, n_modules, seed).T)
