"""What tests on a GPU ask for: a device, or a reason to be skipped."""

import pytest

from medl_scale.evaluate.backend import gpu_problem, require_gpu


def need(library):
    """Skip where a library or device is missing; under MEDL_REQUIRE_GPU that is a failure."""
    problem = gpu_problem(library)
    if problem is not None:
        (pytest.fail if require_gpu() else pytest.skip)(str(problem))


@pytest.fixture(scope="session")
def cuda():
    """The current CUDA device."""
    need("cupy")
    from medl_scale.evaluate.gpu.device import CudaDevice

    return CudaDevice()


@pytest.fixture(scope="session")
def cuml():
    """The cuML package."""
    need("cuml")
    import cuml

    return cuml
