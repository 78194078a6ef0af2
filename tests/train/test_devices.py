"""One card a process, and what the frameworks are told of it, without a card."""

import os
import stat
import subprocess
import sys

import pytest

from medl_scale.errors import ConfigError
from medl_scale.train import devices
from medl_scale.train.devices import (
    Card,
    claim_card,
    device_cache_budget,
    jax_variables,
    list_cards,
    take_device,
)

CARDS = (
    Card("GPU-aaa1", 80 << 30, 70 << 30),
    Card("GPU-bbb2", 80 << 30, 79 << 30),
    Card("GPU-ccc3", 80 << 30, 10 << 30),
)
TOLD = "GPU-aaa1, 81920, 71680\nGPU-bbb2, 81920, [N/A]\n"


@pytest.fixture(autouse=True)
def nothing_taken(monkeypatch):
    """Let each test begin as a fresh process does, and let go of locks."""
    monkeypatch.setattr(devices, "_taken", [])
    monkeypatch.setattr(devices, "_claimed", locks := [])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    yield
    for lock in locks:
        lock.close()


@pytest.fixture
def two_cards(tmp_path, monkeypatch):
    """A machine on which `nvidia-smi` tells of two cards."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\ncat <<'END'\n" + TOLD + "END\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(devices.tempfile, "tempdir", str(tmp_path))


def test_processes_side_by_side_claim_a_card_each_and_the_last_shares_the_emptiest(tmp_path):
    claimed = []
    for _ in range(4):
        environ = {}
        card = claim_card(CARDS, environ, tmp_path)
        assert environ == {"CUDA_VISIBLE_DEVICES": card.uuid}
        claimed.append(card.uuid)
    assert claimed == ["GPU-aaa1", "GPU-bbb2", "GPU-ccc3", "GPU-bbb2"]


HOLD = """
import sys, time
from pathlib import Path
from medl_scale.train.devices import Card, claim_card
print(claim_card([Card("GPU-aaa1", 1, 1), Card("GPU-bbb2", 1, 1)], {}, Path(sys.argv[1])).uuid, flush=True)
time.sleep(100)
"""


def test_a_killed_process_gives_its_card_back(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline().strip() == "GPU-aaa1"
            assert claim_card(CARDS[:2], {}, tmp_path).uuid == "GPU-bbb2"
        finally:
            process.kill()
    assert claim_card(CARDS[:2], {}, tmp_path).uuid == "GPU-aaa1"


@pytest.mark.parametrize(
    ("names", "expected"),
    [("1", "GPU-bbb2"), ("GPU-ccc", "GPU-ccc3"), ("", None), ("-1", None), ("7,0", None)],
)
def test_a_process_that_was_given_a_card_keeps_it(tmp_path, names, expected):
    environ = {"CUDA_VISIBLE_DEVICES": names}
    card = claim_card(CARDS, environ, tmp_path)
    assert (card and card.uuid) == expected
    assert environ == {"CUDA_VISIBLE_DEVICES": names}
    assert not list(tmp_path.iterdir())


def test_of_the_cards_a_process_sees_no_other_is_claimed(tmp_path):
    environ = {"CUDA_VISIBLE_DEVICES": "2,1"}
    assert claim_card(CARDS, environ, tmp_path).uuid == "GPU-ccc3"
    environ = {"CUDA_VISIBLE_DEVICES": "2,1"}
    assert claim_card(CARDS, environ, tmp_path).uuid == "GPU-bbb2"


def test_cards_are_read_from_the_driver_s_tool(two_cards):
    assert list_cards() == (
        Card("GPU-aaa1", 80 << 30, 70 << 30),
        Card("GPU-bbb2", 80 << 30, 0),
    )


def test_without_the_tool_there_are_no_cards_and_nothing_is_set(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    before = dict(os.environ)
    take_device("tensorflow")
    take_device("jax", 1 << 40)
    assert dict(os.environ) == before


def test_taking_a_device_bounds_jax_and_leaves_other_processes_their_choice(two_cards, monkeypatch):
    pytest.importorskip("jax", reason="JAX is not installed")
    seen = {}
    monkeypatch.setattr("jax.devices", lambda: seen.update(os.environ))
    for name in ("XLA_PYTHON_CLIENT_PREALLOCATE", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "true")
    take_device("jax", 20 << 30)
    assert seen["CUDA_VISIBLE_DEVICES"] == "GPU-aaa1"
    assert seen["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.2500"
    # What the user has set stays.
    assert seen["XLA_PYTHON_CLIENT_PREALLOCATE"] == "true"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    monkeypatch.setattr("jax.devices", lambda: pytest.fail("a device is taken once"))
    take_device("jax", 20 << 30)


def test_more_memory_than_the_card_has_is_refused(two_cards):
    with pytest.raises(ConfigError, match=r"has 85,899,345,920 bytes; got 107,374,182,400\. Lower"):
        take_device("tensorflow", 100 << 30)
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


class Configuration:
    """Stands in for TensorFlow's, which has no card here."""

    def __init__(self) -> None:
        self.grown, self.limits = [], {}

    def list_physical_devices(self, kind):
        assert kind == "GPU"
        return ["card"]

    def set_logical_device_configuration(self, device, parts):
        self.limits[device] = parts

    @staticmethod
    def LogicalDeviceConfiguration(memory_limit):
        return memory_limit

    @property
    def experimental(self):
        return self

    def set_memory_growth(self, device, enable):
        self.grown.append((device, enable))


def test_tensorflow_grows_unless_it_is_given_a_part_in_mebibytes(monkeypatch):
    found = Configuration()
    monkeypatch.setitem(sys.modules, "tensorflow", type("Tf", (), {"config": found}))
    devices.limit_tensorflow(None)
    assert (found.grown, found.limits) == ([("card", True)], {})
    devices.limit_tensorflow(20 << 30)
    assert (len(found.grown), found.limits) == (1, {"card": [20 << 10]})


def test_jax_grows_to_most_of_the_card_by_default():
    assert jax_variables(None, CARDS) == {
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.9000",
    }


def test_rows_are_kept_on_accelerators_by_default_and_on_cpus_when_asked():
    stats = {"bytes_limit": 100, "bytes_in_use": 50}
    assert device_cache_budget(None, "cpu", None) is None
    assert device_cache_budget(0, "cpu", None) is None
    assert device_cache_budget(7, "cpu", None) == 7
    assert device_cache_budget(None, "gpu", stats) == 20
    assert device_cache_budget(0, "gpu", stats) == 0
    assert device_cache_budget(7, "gpu", stats) == 7
    assert device_cache_budget(None, "gpu", None) == 0
