"""Who computes: in processes of their own, as what is imported and the environment decide it.

Machines with other libraries and devices are played by small packages of the libraries' names.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from medl_scale.errors import ConfigError
from medl_scale.evaluate.backend import choose_backend

ROOT = Path(__file__).parents[2]
DEVICES = {
    "one": "def getDeviceCount():\n    return 1\n",
    "none": "def getDeviceCount():\n    return 0\n",
    "no driver": "def getDeviceCount():\n    raise RuntimeError('driver is insufficient')\n",
}
FORESTS = "from medl_scale.evaluate.backend import *\nprint(choose_backend({asked!r}, what='forests', library='cuml'))"
CHOOSE = "from medl_scale.evaluate.backend import *\nprint(choose_backend({asked!r}, what='silhouettes'))"
FAIL = """
import sys, warnings
from medl_scale.evaluate.backend import on_chosen
from medl_scale.errors import DataError

class OutOfMemoryError(MemoryError):
    pass

def gpu():
    raise {error}

warnings.simplefilter("always")
for _ in range(2):
    print(on_chosen(gpu, lambda: "from the cpu", asked={asked!r}, what="silhouettes"))
"""


def run(code, *, folder=None, required=None):
    """Run Python with these packages and this wish, and return its output and its last error line."""
    environment = {k: v for k, v in os.environ.items() if k != "MEDL_REQUIRE_GPU"}
    if required is not None:
        environment["MEDL_REQUIRE_GPU"] = required
    paths = [str(path) for path in (folder, ROOT) if path is not None]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return ended.stdout.split("\n")[:-1], ended.stderr


@pytest.fixture
def machine(tmp_path):
    """Make a folder with stand-ins of CuPy on a machine with such devices, and of cuML."""

    def make(devices, cuml=None):
        runtime = tmp_path / "cupy" / "cuda"
        runtime.mkdir(parents=True)
        (tmp_path / "cupy" / "__init__.py").write_text("from cupy import cuda\n")
        (runtime / "__init__.py").write_text("from cupy.cuda import runtime\n")
        (runtime / "runtime.py").write_text(DEVICES[devices])
        if cuml is not None:
            (tmp_path / "cuml").mkdir()
            (tmp_path / "cuml" / "__init__.py").write_text("raise SystemExit('imported')\n")
            info = tmp_path / f"cuml_cu12-{cuml}.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: cuml-cu12\nVersion: {cuml}\n"
            )
        return tmp_path

    return make


no_cupy = pytest.mark.skipif(find_spec("cupy") is not None, reason="CuPy is installed here")


@no_cupy
def test_without_cupy_auto_is_the_cpu_and_nothing_is_imported():
    code = CHOOSE.format(asked="auto") + "\nimport sys\nprint('cupy' in sys.modules)"
    assert run(code)[0] == ["cpu", "False"]


@no_cupy
def test_without_cupy_asking_for_a_gpu_says_what_to_install():
    out, err = run(CHOOSE.format(asked="gpu"))
    assert out == []
    assert "MissingExtraError: backend='gpu' was asked for silhouettes: CuPy is not" in err
    assert "pip install 'medl-scale[cu12]'" in err


@no_cupy
@pytest.mark.parametrize("required", ["1", "true"])
def test_where_a_gpu_is_required_auto_does_not_go_to_the_cpu_in_silence(required):
    out, err = run(CHOOSE.format(asked="auto"), required=required)
    assert out == []
    assert "ConfigError: MEDL_REQUIRE_GPU is set, but silhouettes would be computed on" in err
    assert "CuPy is not installed" in err
    assert "or pass backend='cpu'" in err


@no_cupy
@pytest.mark.parametrize("required", ["", "0", "no"])
def test_a_gpu_that_is_not_required_may_be_missing(required):
    assert run(CHOOSE.format(asked="auto"), required=required)[0] == ["cpu"]


def test_the_cpu_can_be_asked_for_even_where_a_gpu_is_required(machine):
    code = CHOOSE.format(asked="cpu") + "\nimport sys\nprint('cupy' in sys.modules)"
    assert run(code, folder=machine("one"), required="1")[0] == ["cpu", "False"]


@pytest.mark.parametrize("asked", ["auto", "gpu"])
def test_where_a_device_answers_it_is_taken(machine, asked):
    assert run(CHOOSE.format(asked=asked), folder=machine("one"), required="1")[0] == ["gpu"]


@pytest.mark.parametrize(
    ("devices", "text"),
    [
        ("none", "there is no CUDA device. See whether `nvidia-smi` lists one"),
        ("no driver", "no CUDA device answers (driver is insufficient). See whether"),
    ],
)
def test_cupy_without_a_device_is_the_cpu_or_an_error(machine, devices, text):
    folder = machine(devices)
    assert run(CHOOSE.format(asked="auto"), folder=folder)[0] == ["cpu"]
    for asked, required in (("gpu", None), ("auto", "1")):
        out, err = run(CHOOSE.format(asked=asked), folder=folder, required=required)
        assert out == []
        assert "ConfigError" in err
        assert text in err


def test_cuml_is_not_imported_to_choose_it(machine):
    assert run(FORESTS.format(asked="auto"), folder=machine("one", "26.8.0"))[0] == ["gpu"]


@pytest.mark.parametrize("found", ["26.6.1", "25.12.0"])
def test_an_old_cuml_is_not_taken(machine, found):
    folder = machine("one", found)
    assert run(FORESTS.format(asked="auto"), folder=folder)[0] == ["cpu"]
    _, err = run(FORESTS.format(asked="gpu"), folder=folder)
    assert "MissingExtraError: backend='gpu' was asked for forests: cuML 26.08 or later" in err
    assert f"{found} is installed" in err


@pytest.mark.skipif(find_spec("cuml") is not None, reason="cuML is installed here")
def test_a_missing_cuml_is_named(machine):
    _, err = run(FORESTS.format(asked="gpu"), folder=machine("one"))
    assert "cuML is not installed. Install it with `pip install 'medl-scale[cu12]'`" in err


FAILURE = "OutOfMemoryError('Out of memory allocating 9 bytes')"


def test_a_gpu_that_fails_is_given_up_with_one_warning(machine):
    code = FAIL.format(error=FAILURE, asked="auto")
    out, err = run(code, folder=machine("one"))
    assert out == ["from the cpu", "from the cpu"]
    assert err.count("UserWarning: The GPU failed at silhouettes (OutOfMemoryError: Out of") == 1
    assert "Pass backend='cpu' to go there at once." in err


def test_a_gpu_that_fails_where_one_is_required_is_an_error(machine):
    code = FAIL.format(error=FAILURE, asked="auto")
    out, err = run(code, folder=machine("one"), required="1")
    assert out == []
    assert "ConfigError: MEDL_REQUIRE_GPU is set, but the GPU failed at silhouettes (OutOf" in err


@pytest.mark.parametrize(
    ("error", "asked", "name"),
    [
        (FAILURE, "gpu", "OutOfMemoryError: Out of memory"),
        ("DataError('latent has NaN')", "auto", "medl_scale.errors.DataError: latent has NaN"),
        ("TypeError('ours')", "auto", "TypeError: ours"),
    ],
)
def test_what_was_asked_for_or_is_no_failure_of_the_gpu_is_raised_as_it_is(
    machine, error, asked, name
):
    out, err = run(FAIL.format(error=error, asked=asked), folder=machine("one"))
    assert out == []
    assert name in err.splitlines()[-1]


def test_an_unknown_backend_lists_the_known_ones():
    with pytest.raises(ConfigError, match="backend must be one of 'auto', 'cpu', 'gpu'; got 'tpu'"):
        choose_backend("tpu", what="silhouettes")
