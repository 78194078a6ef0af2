"""The kernel is CUDA that compiles without a warning for present devices, and fits their registers."""

import re
import shutil
import subprocess
from importlib.resources import as_file, files

import pytest

from medl_scale.evaluate.gpu.plan import kernel_for


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("d", [2, 50])
def test_nvcc_compiles_it_without_warnings_or_spills(d, architecture, tmp_path):
    if shutil.which("nvcc") is None:
        pytest.skip("no nvcc to compile the GPU kernel with")
    with as_file(files("medl_scale.evaluate.gpu").joinpath("silhouette.cu")) as source:
        command = ["nvcc", f"-arch={architecture}", *kernel_for(d).options, "-Xptxas", "-v,-Werror"]
        command += ["-Werror", "all-warnings", "-cubin", "-o", str(tmp_path / "k"), str(source)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    told = ended.stdout + ended.stderr
    assert ended.returncode == 0, told
    assert "warning" not in told
    # A few addresses, which the loop over pairs does without, may leave their registers.
    assert all(int(n) <= 128 for n in re.findall(r"(\d+) bytes spill", told))
