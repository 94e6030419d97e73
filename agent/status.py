"""How a daemon fares, in the one line that `systemctl status` shows.

Enters: what the daemon remembers, what its last cycle saw, and the moment. Leaves: a sentence without a full stop,
such as "watching 32 DIMMs and 64 cores, 4 sources live, nvml absent; no fault in 24 h".
"""

from collections.abc import Iterable, Mapping
from typing import Any

from agent.inventory import place_of
from agent.metrics import SourceStatus
from agent.novelty import DAY_NS
from agent.reconcile import devices


def watching(state: Mapping[str, Any], sources: Mapping[str, SourceStatus], now_ns: int) -> str:
    """The agent's line."""
    known = list(devices(state))
    faulty = sum(any(now_ns - ns < DAY_NS for ns in device["last_ns"].values()) for _, _, device in known)
    present = [(stream, name) for stream, name, device in known if not device.get("is_gone")]
    names = {stream: {name for s, name in present if s == stream} for stream in ("dram", "gpu", "core")}
    dimms = {place for name in names["dram"] if (place := place_of(name))}
    gpus = {name.split("/")[1] for name in names["gpu"]}
    parts = (_counted(dimms, "DIMM"), _counted(gpus, "GPU"), _counted(names["core"], "core"))
    faults = f"faults at {_counted(range(faulty), 'device')} in 24 h" if faulty else "no fault in 24 h"
    return f"watching {_listed(filter(None, parts)) or 'no part that tells'}, {_sources(sources)}; {faults}"


def _sources(sources: Mapping[str, SourceStatus]) -> str:
    """Whom to believe: how many are live, and who isn't, worst first."""
    live = _counted([name for name, status in sources.items() if status.is_up], "source") or "no source"
    blind = [name for name, status in sources.items() if status.blind]
    troubled = [name for name, status in sources.items() if status.trouble and not status.blind]
    absent = [name for name, status in sources.items() if status.absent]
    others = ((blind, "blind"), (troubled, "in trouble"), (absent, "absent"))
    return ", ".join([f"{live} live", *(f"{_listed(sorted(names))} {what}" for names, what in others if names)])


def verifying(state: Mapping[str, Any], troubles: Mapping[str, str]) -> str:
    """The scrubber's line; `troubles` is by store, empty where there is none."""
    if not troubles:
        return "no [[store]] is configured, so there is nothing to verify"
    stores = [state[key] for store in troubles if (key := f"store/{store}") in state]
    done, total = (sum(store[key] for store in stores) for key in ("done_bytes", "total_bytes"))
    opened = sum(len(entry["findings"]) for key, entry in state.items() if key.startswith("open/"))
    corrupt = _counted(range(opened), "corrupt stretch", "corrupt stretches") or "nothing corrupt"
    passed = f"{min(1.0, done / total):.0%} of this pass done, " if total else ""
    told = [f"{store}: {trouble}" for store, trouble in troubles.items() if trouble]
    return "; ".join([f"verifying {_counted(troubles, 'store')}, {passed}{corrupt}", *told])


def _counted(things: Iterable[Any], noun: str, plural: str = "") -> str:
    """ "3 cores"; empty where there is none."""
    count = len(list(things))
    return f"{count} {noun if count == 1 else plural or noun + 's'}" if count else ""


def _listed(words: Iterable[str]) -> str:
    """ "a, b and c" """
    *first, last = [*words] or [""]
    return f"{', '.join(first)} and {last}" if first else last
