import gc

import numpy as np
import pytest

from medl_scale.stream.buffers import Buffers


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_an_array_is_used_again_once_nobody_holds_it():
    buffers = Buffers(4, 3)
    first = buffers.take(4)
    where = address(first)
    del first
    assert address(buffers.take(2)) == where


def test_an_array_that_is_held_is_not_handed_out():
    buffers = Buffers(4, 3)
    held = [buffers.take(4) for _ in range(5)]
    assert len({address(array) for array in held}) == 5


@pytest.mark.parametrize(
    "hold",
    [
        lambda x: x[1:2],
        lambda x: x.T,
        lambda x: x.ravel()[::2],
        lambda x: memoryview(x),
        lambda x: x.view(np.int32),
        lambda x: np.from_dlpack(x),
    ],
    ids=["slice", "transpose", "ravel", "memoryview", "view", "dlpack"],
)
def test_whoever_holds_a_part_of_an_array_keeps_it(hold):
    buffers = Buffers(4, 3)
    x = buffers.take(4)
    where, part = address(x), hold(x)
    del x
    assert address(buffers.take(4)) != where
    del part
    gc.collect()
    assert where in {address(array) for array in [buffers.take(4), buffers.take(4)]}


def test_the_array_freed_last_comes_first():
    buffers = Buffers(4, 3)
    first, second = buffers.take(4), buffers.take(4)
    where = address(first)
    del first
    first = buffers.take(4)
    assert address(first) == where
    del second, first
    assert address(buffers.take(4)) == where


def test_arrays_beyond_the_most_are_not_kept():
    buffers = Buffers(4, 3, most=2)
    held = [buffers.take(4) for _ in range(4)]
    assert len(buffers._arrays) == 2
    assert len({address(array) for array in held}) == 4


def test_arrays_that_jax_may_share_are_not_written_to():
    jax_numpy = pytest.importorskip("jax.numpy", reason="the jax extra is not installed")
    buffers = Buffers(64, 512)
    given = []
    for value in range(20):
        x = buffers.take(64)
        x[:] = value
        given.append(jax_numpy.asarray(x) + 0 if value % 2 else jax_numpy.asarray(x))
        del x
    assert [float(array.min()) for array in given] == list(range(20))
    assert [float(array.max()) for array in given] == list(range(20))
