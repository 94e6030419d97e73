"""A call that hangs is given up, and there is never a second one beside it."""

import threading

import pytest

from agent.deadline import Deadline


def test_results_and_errors_pass_through() -> None:
    deadline: Deadline[int] = Deadline(30)
    assert deadline.call(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        deadline.call(lambda: 1 // 0)
    assert deadline.call(lambda: 8) == 8


def test_what_hangs_is_left_alone_until_it_returns() -> None:
    deadline: Deadline[int] = Deadline(0.05)
    release, calls = threading.Event(), []

    def hang() -> int:
        calls.append(threading.current_thread())
        release.wait(30)
        return 1

    for _ in range(3):
        with pytest.raises(TimeoutError, match="it hangs"):
            deadline.call(hang)
    assert len(calls) == 1, "the second and third were refused"
    release.set()
    calls[0].join()
    assert deadline.call(lambda: 2) == 2, "its late result is thrown away"
