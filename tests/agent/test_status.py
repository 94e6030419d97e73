"""The line that `systemctl status` shows, for hosts and stores in all states."""

from typing import Any

import pytest

from agent.metrics import SourceStatus
from agent.status import DAY_NS, verifying, watching

NOW_NS = 10 * DAY_NS
UP = SourceStatus(0.0)
BLIND = SourceStatus(0.0, "no-driver")
TROUBLED = SourceStatus(0.0, trouble=("it hangs",))
ABSENT = SourceStatus(0.0, absent="it's off")


def devices(*names: str, last_ns: int | None = None) -> dict[str, Any]:
    return {f"device/{name}": {"last_ns": {} if last_ns is None else {"corrected": last_ns}} for name in names}


DIMMS = devices(*(f"dram/mc{mc}/channel0/slot{slot}" for mc in range(2) for slot in range(2)), "dram/mc0/unknown")


@pytest.mark.parametrize(
    ("state", "sources", "line"),
    [
        (
            {**DIMMS, **devices("host/host", "core/cpu0"), "clock": [1, 2, "boot"]},
            {"edac": UP, "kmsg": UP, "nvml": ABSENT},
            "watching 4 DIMMs and 1 core, 2 sources live, nvml absent; no fault in 24 h",
        ),
        (
            devices("gpu/gpu/GPU-1/dram", "gpu/gpu/GPU-1/sram", "core/cpu0", "core/cpu1", "dram/mc0/channel0/slot0"),
            {"tracefs": ABSENT, "nvml": TROUBLED, "edac": UP, "canary": ABSENT, "rasdaemon": ABSENT},
            "watching 1 DIMM, 1 GPU and 2 cores, 1 source live, nvml in trouble, canary, rasdaemon and tracefs absent; "
            "no fault in 24 h",
        ),
        (  # two ranks of one module, what is no module, and one that is gone
            {
                **devices("dram/mc0/csrow0/channel0", "dram/mc0/csrow1/channel0", "dram/socket0/bank9", "dram/fru/A1"),
                "device/dram/mc0/csrow2/channel0": {"last_ns": {}, "is_gone": True},
            },
            {"edac": UP},
            "watching 1 DIMM, 1 source live; no fault in 24 h",
        ),
        ({}, {"edac": BLIND}, "watching no part that tells, no source live, edac blind; no fault in 24 h"),
        (
            {**DIMMS, **devices("dram/mc5/channel0/slot0", "sram/cpu0", last_ns=NOW_NS - DAY_NS + 1)},
            {"edac": UP},
            "watching 5 DIMMs, 1 source live; faults at 2 devices in 24 h",
        ),
        (
            devices("dram/mc5/channel0/slot0", last_ns=NOW_NS - DAY_NS),
            {"edac": UP},
            "watching 1 DIMM, 1 source live; no fault in 24 h",
        ),
    ],
)
def test_watching(state: dict[str, Any], sources: dict[str, SourceStatus], line: str) -> None:
    assert watching(state, sources, NOW_NS) == line


def test_verifying() -> None:
    store = {"done_bytes": 30, "total_bytes": 100}
    opened = {"open//a/log": {"findings": [{}, {}]}, "open//b/log": {"findings": [{}]}}
    assert verifying({}, {}) == "no [[store]] is configured, so there is nothing to verify"
    assert verifying({}, {"/a": ""}) == "verifying 1 store, nothing corrupt"
    assert verifying({"store//a": store}, {"/a": ""}) == "verifying 1 store, 30% of this pass done, nothing corrupt"
    assert (
        verifying(
            {"store//a": store, "store//b": {"done_bytes": 150, "total_bytes": 100}, **opened}, {"/a": "", "/b": ""}
        )
        == "verifying 2 stores, 90% of this pass done, 3 corrupt stretches"
    )
    assert verifying({}, {"/a": "", "/b": "a read hangs"}) == "verifying 2 stores, nothing corrupt; /b: a read hangs"
