import time

import numba
import pytest

from medl_scale.evaluate.threads import in_threads


@pytest.mark.parametrize("n_threads", [1, 2])
def test_results_come_in_the_order_of_the_items_and_errors_come_through(n_threads):
    def slow_then_fast(i):
        time.sleep(0.02 if i == 0 else 0)
        if i == 7:
            raise FloatingPointError("seven")
        return i * i

    before = numba.get_num_threads()
    try:
        numba.set_num_threads(min(n_threads, before))
        assert in_threads(slow_then_fast, [0, 1, 2, 3]) == [0, 1, 4, 9]
        assert in_threads(slow_then_fast, []) == []
        with pytest.raises(FloatingPointError, match="seven"):
            in_threads(slow_then_fast, range(9))
    finally:
        numba.set_num_threads(before)
