"""A call that may never return, and somebody who mustn't wait for it.

Enters: a function. Leaves: what it returns or raises, or a TimeoutError when it is late. Nothing can end a thread that
hangs in a library, therefore one that is late is left alone, its result is thrown away, and until it has returned every
further call is refused at once: there is never a second thread.
"""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Deadline(Generic[Result]):
    """Calls functions, one at a time, and waits `wait_s` for each."""

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self._thread: threading.Thread | None = None

    def call(self, function: Callable[[], Result]) -> Result:
        """What `function` returns or raises.

        Raises:
            TimeoutError: it hasn't returned in time, or one before it still hasn't.
        """
        if self._thread is None or not self._thread.is_alive():
            results: list[Result] = []
            errors: list[Exception] = []
            # a daemon thread: one that hangs mustn't keep the process from stopping
            self._thread = threading.Thread(target=_run, args=(function, results, errors), daemon=True)
            self._thread.start()
            self._thread.join(self._wait_s)
            if errors:
                raise errors[0]
            if results:
                return results[0]
        raise TimeoutError(f"it hangs: no answer within {self._wait_s:g} s; it is polled again when it returns")


def _run(function: Callable[[], Result], results: list[Result], errors: list[Exception]) -> None:
    try:
        results.append(function())
    except Exception as error:  # handed to the caller, whatever it is
        errors.append(error)
