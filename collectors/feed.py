"""The feed: what the store has got since the last call goes into the correlator's minutes.

Enters: the store and the time. Leaves: novel faults and watching hosts in a Minutes, and the faults' hosts among the
Victims. It makes no difference whether a fault was pulled by this process or imported by another. Reads no clock.
"""

from collectors.correlator import VICTIMS_MIN
from collectors.fault_rows import StoredFault
from collectors.minutes import DAY_NS, Minutes, minute_of
from collectors.population import Victims
from collectors.store import Store

DELAY_MAX_S = 60.0  # a fault whose time is vaguer than this waits no longer for the others


class Feed:
    """Remembers what was fed already. Its store is a connection of its own, used by the correlator's thread."""

    def __init__(self, store: Store, minutes: Minutes, victims: Victims, history_days: int) -> None:
        self._store = store
        self._minutes = minutes
        self._victims = victims
        self._history_ns = history_days * DAY_NS
        self._last_id = 0
        self._waiting: list[StoredFault] = []
        self._fed_until: int | None = None  # the last minute whose exposure was fed

    def advance(self, now_ns: int, changed_from_ns: int | None, heard_until_ns: int) -> None:
        """Feeds what is new; `changed_from_ns` is the earliest exposure that changed since the last call.

        A fault waits for a later call until what happened together with it must have been told by everybody: agents
        report an error with a delay of up to their time error, and have told all until `heard_until_ns`. Else the few
        that are first would look like the cause. So a fault from the future, whose clock is wrong, waits until then.
        One that is older than the history is never fed.
        """
        oldest_ns = now_ns - self._history_ns
        now_minute = minute_of(now_ns)
        first = self._first_minute(oldest_ns, changed_from_ns)
        if first is not None and first <= now_minute:
            for stream in self._store.watching_streams():
                hosts = self._store.watching_hosts(stream, first, now_minute, self._minutes.cluster_names)
                self._minutes.set_watching(stream, first, hosts)
            self._fed_until = now_minute
        waiting, self._waiting = self._waiting, []
        for stored in self._store.novel_faults(self._last_id):
            self._last_id = stored.id
            if stored.fault.time_ns >= oldest_ns:
                waiting.append(stored)
        for stored in waiting:
            delay_ns = int(min(stored.fault.time_error_s, DELAY_MAX_S) * 1e9)
            if stored.fault.time_ns + delay_ns > heard_until_ns:
                self._waiting.append(stored)
            elif self._minutes.observe(stored.fault) and minute_of(stored.fault.time_ns) >= now_minute - VICTIMS_MIN:
                self._victims.add(stored.victim)
        self._minutes.forget_before(minute_of(oldest_ns))

    def _first_minute(self, oldest_ns: int, changed_from_ns: int | None) -> int | None:
        """From where on exposure must be fed: all there is at first, then what is new."""
        if self._fed_until is None:
            first = self._store.first_watched_minute()
            return None if first is None else max(first, minute_of(oldest_ns))
        changed = self._fed_until if changed_from_ns is None else minute_of(changed_from_ns)
        return max(min(changed, self._fed_until), minute_of(oldest_ns))
