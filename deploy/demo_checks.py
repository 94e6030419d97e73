"""The verdict of the demonstration: did flipwatch say exactly what happened?

Enters: the stage, with the truth of what was done. Leaves: lines on the screen, and on `stage.missing` one sentence for
each thing that should be true and isn't.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

from deploy import demo_world as world
from deploy.demo_stage import Missing, Receiver, Stage, get, get_json, place

DIRECTION_ERROR_MAX_DEG = 30.0
AGENT_MIB_MAX = 36.0
WAIT_S = 40.0
SHARES_PER_LINE = 4


def check_burst(stage: Stage, page: str, receiver: Receiver, source: world.Source) -> None:
    injected = sum(world.burst_faults(source).values())

    def latest() -> dict[str, Any]:
        bursts = get_json(f"{page}/api/bursts").get("bursts", [])
        return bursts[-1] if bursts else {}

    def whole() -> Any:
        """The burst, once all of it has come in."""
        burst = latest()
        observed = sum(cluster["observed"] for cluster in burst.get("clusters", []))
        return burst.get("label") == "celestial" and observed >= injected and burst

    try:
        burst = stage.wait_for("a burst labelled celestial", WAIT_S, whole)
    except Missing:
        seen = latest()
        what = (
            f"the last word was {seen['kind']} {seen['label']}: {seen['clusters']}" if seen else "no burst was raised"
        )
        raise Missing(f"a burst labelled celestial, with all of its {injected} faults; {what}") from None
    far, days = burst["far_per_year"], burst["extrapolated_from_days"]
    stage.say(
        f"burst {burst['burst_id']}: {burst['label']} (posterior {burst['posterior']['celestial']:.3f}), "
        + ("less than one false alarm in a million years" if far < 1e-6 else f"{far:.2g} false alarms a year")
        + (f", extrapolated from {days} days" if days else "")
    )
    misses_deg = _misses_deg(burst, source)
    stage.say(
        f"  direction: right ascension {burst['ra_deg']:.1f}, declination {burst['dec_deg']:.1f} degrees, "
        f"above {place(burst['ground_latitude_deg'], burst['ground_longitude_deg'])}; "
        f"{misses_deg:.1f} degrees from the truth"
    )
    if misses_deg > DIRECTION_ERROR_MAX_DEG:
        stage.missing.append(f"the direction within {DIRECTION_ERROR_MAX_DEG:.0f} degrees: it is {misses_deg:.0f} off")
    shares = [f"{c['cluster']} {c['observed']} ({c['expected']:.3f})" for c in burst["clusters"]]
    for begin in range(0, len(shares), SHARES_PER_LINE):
        head = "  observed (expected):" if begin == 0 else "  " + " " * 20
        stage.say(f"{head} {', '.join(shares[begin : begin + SHARES_PER_LINE])}")
    alert = stage.wait_for("the alert over HTTP", WAIT_S, lambda: receiver.alert(burst["burst_id"], "celestial"))
    stage.say(f"alert delivered by {receiver.sender}: {alert['labels']}")
    stage.say(f"  {alert['annotations'].get('summary', '')}")


def check_errors(stage: Stage, page: str) -> None:
    """Every injected error is counted exactly, at the agents and at the centre."""
    wanted = sum(stage.errors.values())

    def counted() -> bool:
        return bool(get_json(f"{page}/api/status").get("faults", {}).get("dram", {}).get("errors", 0) >= wanted)

    stage.wait_for(f"{wanted} errors at the collector", WAIT_S, counted)
    at_centre = get_json(f"{page}/api/status")["faults"]["dram"]["errors"]
    at_agents = {host: _agent_errors(address) for host, address in stage.addresses.items()}
    wrong = {host: count for host, count in at_agents.items() if count != stage.errors.get(host, 0)}
    for host, count in sorted(wrong.items()):
        stage.missing.append(f"{host} counted {count} errors, {stage.errors.get(host, 0)} were injected")
    if at_centre != wanted:
        stage.missing.append(f"the collector counted {at_centre} errors, {wanted} were injected")
    if not wrong and at_centre == wanted:
        stage.say(f"memory errors: {wanted} injected, {wanted} counted by the agents, {wanted} at the collector")


def check_records(stage: Stage, page: str) -> None:
    """Every corrupt record is reported with the bit that flipped, and no other; the centre hears of them all."""
    wanted = {(str(f.path), f.offset_bytes, f.bit, f.stored) for f in stage.flips}
    paths = {str(flip.path) for flip in stage.flips}

    def reported() -> set[tuple[str, int, int, int]]:
        return {key for fault in _record_faults(stage) if (key := _flip_key(fault))}

    try:
        stage.wait_for("the corrupt records", WAIT_S, lambda: wanted <= reported())
    except Missing:
        for path, offset, bit, _ in sorted(wanted - reported()):
            stage.missing.append(f"the flip of bit {bit} at byte {offset} of {path} was not reported")
    for fault in _record_faults(stage):
        detail = fault["detail"]
        where = f"{detail['path']}: bytes {detail['begin']} to {detail['end']}"
        key = _flip_key(fault)
        if key and key in wanted:
            stage.say(f"corrupt record skipped: {where.removeprefix(str(stage.directory) + '/')}")
            stage.say(f"  bit {key[2]} of byte {key[1]} flipped from {1 - key[3]} to {key[3]}")
        elif key or detail["path"] not in paths:
            stage.missing.append(f"{where} was reported {detail['verdict']}, but nobody touched it")
    count = len(_record_faults(stage))
    stage.wait_for(
        f"{count} record faults at the collector",
        WAIT_S,
        lambda: get_json(f"{page}/api/status")["faults"].get("record", {}).get("faults") == count,
    )


def check_memory(stage: Stage) -> None:
    mib = {name: _resident_mib(process.pid) for name, process in stage.agents.items()}
    name = max(mib, key=lambda host: mib[host])
    stage.say(f"resident memory of the largest agent ({name}): {mib[name]:.1f} MiB at its highest")
    if mib[name] >= AGENT_MIB_MAX:
        stage.missing.append(f"an agent below {AGENT_MIB_MAX:.0f} MiB: {name} needed {mib[name]:.1f}")


def _misses_deg(burst: dict[str, Any], source: world.Source) -> float:
    cosine = source.cosine(burst["ground_latitude_deg"], burst["ground_longitude_deg"])
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))


def _agent_errors(address: str) -> int:
    page = get(f"{address}/metrics") or ""
    return sum(int(float(value)) for value in re.findall(r"^flipwatch_memory_errors_total\{.*\} (\S+)$", page, re.M))


def _record_faults(stage: Stage) -> list[dict[str, Any]]:
    faults = []
    for address in stage.addresses.values():
        lines = map(json.loads, (get(f"{address}/v1/faults?limit=5000") or "").splitlines())
        faults += [line for line in lines if line["kind"] == "record"]
    return faults


def _flip_key(fault: dict[str, Any]) -> tuple[str, int, int, int] | None:
    flip = fault["detail"].get("flip")
    return (fault["detail"]["path"], flip["offset_bytes"], flip["bit"], flip["stored"]) if flip else None


def _resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(match[1]) / 1024 if match else 0.0
