"""A `Device` that runs the very kernel on the CPU: its source compiled by g++, its threads in turn."""

import ctypes
import os
import shutil
import subprocess
import tempfile
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import pytest

from medl_scale.evaluate.gpu.device import Device

HERE = Path(__file__).parent


class HostDevice(Device):
    """Skips the test where there is no g++."""

    xp = np

    def __init__(self, *, backwards=False, n_processors=1):
        if shutil.which("g++") is None:
            pytest.skip("no g++ to compile the GPU kernel for the CPU")
        self.backwards = backwards
        self.processors = n_processors
        self.launches = []

    @property
    def n_processors(self):
        return self.processors

    def free_bytes(self):
        return 1 << 30

    def launch(self, kernel, grid, arguments):
        self.launches.append(grid)
        # One element more than nothing, so that no pointer is null.
        arrays = [a for a in arguments if isinstance(a, np.ndarray)]
        assert all(a.flags.c_contiguous for a in arrays)
        pointers = [ctypes.c_void_p(a.ctypes.data) for a in arrays]
        sizes = [ctypes.c_longlong(int(a)) for a in arguments[len(arrays) : -1]]
        completed = built(kernel)(*grid, self.backwards, *pointers, *sizes, int(arguments[-1]))
        assert completed, "some threads ended while others waited at a barrier"

    def to_host(self, values):
        return values


@cache
def built(kernel):
    """Return the launching function of one form of the kernel."""
    # Away from the checkout, and kept while tests run.
    folder = Path(tempfile.mkdtemp(prefix="medl-scale-"))
    library = folder / "kernel.so"
    defines = [option for option in kernel.options if option.startswith("-D")]
    with as_file(files("medl_scale.evaluate.gpu").joinpath("silhouette.cu")) as source:
        command = ["g++", "-std=c++17", "-O2", "-fPIC", "-shared", "-Wall"]
        # Fused multiplication and addition are asked for by name alone, as far as figures go.
        command += ["-Wno-unknown-pragmas", "-ffp-contract=off", *defines, f'-DKERNEL="{source}"']
        command += [str(HERE / "silhouette_on_host.cpp"), "-o", str(library)]
        subprocess.run(command, check=True, env=os.environ | {"LC_ALL": "C"})
    loaded = ctypes.CDLL(str(library))
    shutil.rmtree(folder)
    return loaded.launch
