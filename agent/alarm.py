"""What a daemon's main thread sleeps on.

Enters: descriptors that become readable at an event, requests from signal handlers. Leaves: wake-ups. A handler runs in
the middle of anything, so it takes no lock: it sets a flag and writes to an eventfd.
"""

import os
import select


class Alarm:
    """Sleeps until something happens: a stop, a reload, an event of a source, or the end of the time."""

    def __init__(self) -> None:
        self.is_stopped = False
        self._wants_reload = False
        self._bell_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)  # only wakes; the flags tell what for
        self._event_fds: set[int] = set()

    def listen(self, fds: list[int]) -> None:
        """Takes descriptors that become readable at an event, and closes them in the end."""
        self._event_fds.update(fds)

    def wait(self, timeout_s: float, *, hears_events: bool) -> bool:
        """Whether an event ended the wait. Without `hears_events` only a stop or a reload does."""
        if self.is_stopped or self._wants_reload:
            return False
        poll = select.poll()
        for fd in (self._bell_fd, *(self._event_fds if hears_events else ())):
            poll.register(fd, select.POLLIN)
        woken = dict(poll.poll(timeout_s * 1000))
        if woken.pop(self._bell_fd, 0):
            os.eventfd_read(self._bell_fd)
        heard = list(woken.items())
        for fd, mask in heard:
            if not mask & select.POLLIN:  # its buffer is gone, and it would be heard for ever
                self._event_fds.discard(fd)
                os.close(fd)
        return bool(heard)

    def stop(self) -> None:
        self.is_stopped = True
        self._ring()

    def ask_for_reload(self) -> None:
        self._wants_reload = True
        self._ring()

    def _ring(self) -> None:
        if self._bell_fd >= 0:  # a signal may come after the end
            os.eventfd_write(self._bell_fd, 1)

    def takes_reload(self) -> bool:
        """Whether one was asked for; what is asked for from now on is another one."""
        wants_reload, self._wants_reload = self._wants_reload, False
        return wants_reload

    def close(self) -> None:
        fds, self._bell_fd = (self._bell_fd, *self._event_fds), -1
        self._event_fds.clear()
        for fd in fds:
            os.close(fd)
