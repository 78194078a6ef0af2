"""What an engine does in one step and in twenty, as plain arrays; run as a module, on another backend.

`KERAS_BACKEND=jax python -m tests.train.recording out.npz`
"""

from __future__ import annotations

import sys

import numpy as np

from tests.models import small

N_STEPS = 20


def record(case: small.Case, *, compiled: bool = False) -> dict[str, np.ndarray]:
    """Return states around the first step, the loss terms of all, and an evaluation and latents before."""
    net = small.network(case)
    engine = small.engine(case, compiled=compiled)
    found = {f"before/{name}": value for name, value in engine.state().items()}
    first = small.feeds(net)
    found["evaluation"] = engine.evaluate(first)
    # The last cell is of a batch that the model does not know.
    found["latent"] = engine.encode(first.x, np.append(first.batch_codes[:-1], -1).astype(np.int32))
    found["decoded"] = engine.decode(found["latent"], first.batch_codes)
    losses = []
    for step in range(N_STEPS):
        terms = engine.step(small.feeds(net, seed=5 + step), learning_rate=case.learning_rate)
        losses.append(np.asarray(terms))
        if step == 0:
            found |= {f"after/{name}": value for name, value in engine.state().items()}
    found["losses"] = np.array(losses)
    return found


def record_all() -> dict[str, np.ndarray]:
    """Return the records of all cases, names led by the case's."""
    return {
        f"{name}:{key}": value
        for name, case in small.CASES.items()
        for key, value in record(case).items()
    }


if __name__ == "__main__":
    np.savez(sys.argv[1], **record_all())
