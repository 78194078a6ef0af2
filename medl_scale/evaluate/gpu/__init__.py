"""The same figures on a GPU; see `medl_scale.evaluate.backend` for who chooses.

- `silhouette`: exact silhouettes by a fused kernel, `silhouette.cu`, loaded through CuPy;
- `plan`, `bounds`, `device`: how its work is cut, which labels it may skip, what runs it;
- `forest`, `neighbours`: cuML's random forests and nearest neighbours.

Nothing here is imported where there is no GPU.
"""
