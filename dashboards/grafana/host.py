"""The dashboard Host: one machine's parts, faults and witnesses."""

from typing import Any

from dashboards.grafana.panels import (
    GREEN,
    GREY,
    ORANGE,
    RED,
    STATE,
    Column,
    Query,
    board,
    host_variables,
    lines,
    number,
    rows,
    states,
)

DEVICE = "cluster, instance, device"
ACTIONS = {
    "watch": ("watch", GREY),
    "reset": ("reset", ORANGE),
    "drain": ("drain", ORANGE),
    "replace": ("replace", RED),
}
STATES = {
    "open": ("open", ORANGE),
    "acknowledged": ("acknowledged", GREY),
    "healed": ("healed", GREEN),
    "gone": ("gone", GREY),
}


def build() -> Any:
    return board(
        "host",
        "flipwatch / Host",
        "One host (or a few): its memory modules by slot, their faults, and who watches them.",
        host_variables(all_hosts=False),
        [*_numbers(), _devices(), *_faults(), *_witnesses()],
    )


def _numbers() -> list[Any]:
    return [
        number(
            "Memory errors seen?",
            "Blind: nobody on this host sees memory errors. `flipwatch doctor` there says why and what to do. Virtual: "
            "nor does this one, and its host has to.",
            Query(
                "max(flipwatch_ecc_blind{<host>} * 2 unless on (cluster, instance) flipwatch_host_virtual{<host>} == 1"
                " or flipwatch_ecc_blind{<host>})"
            ),
            words={"0": ("yes", GREEN), "1": ("virtual", GREY), "2": ("blind", RED)},
        ),
        number(
            "Corrected, open",
            "Devices with a corrected error in the last seven days.",
            Query('sum(flipwatch_open_faults{<host>,severity="corrected"}) or vector(0)'),
        ),
        number(
            "Uncorrected, open",
            "Devices with an error in the last seven days that ECC couldn't correct. Not the host's death.",
            Query('sum(flipwatch_open_faults{<host>,severity!="corrected",stream!="host"}) or vector(0)'),
            bad_from=1,
        ),
        number(
            "Last fault",
            "When the latest fault of any device was reported.",
            Query("1000 * max(flipwatch_device_last_fault_timestamp_seconds{<host>})"),
            unit="dateTimeFromNow",
        ),
        number(
            "Started",
            "When the machine was started.",
            Query("1000 * min(flipwatch_host_boot_timestamp_seconds{<host>})"),
            unit="dateTimeFromNow",
        ),
        number(
            "Faults never written",
            "Faults of the selected time that were seen but not kept, because the journal couldn't be written for too "
            "long.",
            Query("round(sum(increase(flipwatch_journal_dropped_total{<host>}[$__range])))"),
            bad_from=1,
        ),
    ]


def _devices() -> Any:
    not_corrected = 'flipwatch_memory_errors_total{<host>,severity!="corrected"}'
    return rows(
        "Devices",
        "Every part that can be replaced: where it sits, which one it is, the errors of its life, its state, and what "
        "to do about it with the rule that says so. Rules and their sources: agent/actions.py.",
        [
            Query(f"max by ({DEVICE}, slot, label, serial, part) (flipwatch_device_info{{<host>}})"),
            Query(f"max by ({DEVICE}) (flipwatch_device_size_bytes{{<host>}})"),
            Query(f'sum by ({DEVICE}) (flipwatch_memory_errors_total{{<host>,severity="corrected"}})'),
            Query(f"sum by ({DEVICE}) ({not_corrected})"),
            Query(f"1000 * max by ({DEVICE}) (flipwatch_device_last_fault_timestamp_seconds{{<host>}})"),
            Query(f"max by ({DEVICE}, state) ({STATE})"),
            Query(f"max by ({DEVICE}, mode) (flipwatch_device_mode{{<host>}})"),
            Query(f"max by ({DEVICE}, action, rule) (flipwatch_device_action{{<host>}})"),
        ],
        {
            "cluster": Column("Cluster"),
            "instance": Column("Host"),
            "slot": Column("Slot"),
            "label": Column("Label"),
            "device": Column("Counted as"),
            "serial": Column("Serial"),
            "part": Column("Part"),
            "B": Column("Size", "bytes"),
            "C": Column("Corrected"),
            "D": Column("Not corrected"),
            "E": Column("Last fault", "dateTimeFromNow"),
            "state": Column("State", words=STATES),
            "mode": Column("Mode"),
            "action": Column("Action", words=ACTIONS),
            "rule": Column("Rule"),
        },
        sort=["Last fault"],
    )


def _faults() -> list[Any]:
    return [
        lines(
            "Errors by device",
            "Errors per hour of each device that had any in its life.",
            Query(
                f"3600 * sum by ({DEVICE}, severity)"
                " (rate(flipwatch_memory_errors_total{<host>}[$__rate_interval]))"
                f" and on ({DEVICE}) flipwatch_device_last_fault_timestamp_seconds{{<host>}}",
                "{{device}} {{severity}}",
            ),
            axis="errors per hour",
        ),
        states(
            "What to do, over time",
            "The action that the rules advised for each device: 1 watch, 2 reset, 3 drain, 4 replace.",
            Query(
                f'max by ({DEVICE}) (flipwatch_device_action{{<host>,action="watch"}}'
                ' or flipwatch_device_action{<host>,action="reset"} * 2'
                ' or flipwatch_device_action{<host>,action="drain"} * 3'
                ' or flipwatch_device_action{<host>,action="replace"} * 4)',
                "{{device}}",
            ),
            {"1": ("watch", GREY), "2": ("reset", ORANGE), "3": ("drain", ORANGE), "4": ("replace", RED)},
        ),
    ]


def _witnesses() -> list[Any]:
    return [
        states(
            "Witnesses",
            "Whether each source of errors could read all it should. Down: in trouble. Blind: it can't see memory's "
            "errors, as on virtual machines. Absent: there is nothing here that it could read, which is normal for "
            "some. `flipwatch doctor` tells why.",
            Query(
                'label_replace(max by (cluster, instance) (flipwatch_ecc_blind{<host>}) == 1, "source", "edac", "", "")'
                " * 3 or max by (cluster, instance, source)"
                " (flipwatch_source_up{<host>} + 2 * flipwatch_source_absent{<host>})",
                "{{source}}",
            ),
            {"0": ("down", RED), "1": ("up", GREEN), "2": ("absent", GREY), "3": ("blind", ORANGE)},
        ),
        lines(
            "How long a poll takes",
            "A source that gets slow holds up nobody for long, but is worth a look.",
            Query("max by (instance, source) (flipwatch_source_poll_seconds{<host>})", "{{source}}"),
            unit="s",
        ),
        lines(
            "Progress of the scrub",
            "How much of the current pass over each store is done. A line that doesn't rise is paused by I/O pressure, "
            "or stuck. A host without stores has none.",
            Query("max by (cluster, instance, store) (flipwatch_scrub_pass_ratio{<host>})", "{{store}}"),
            unit="percentunit",
        ),
        lines(
            "Journal",
            "Size of the kept journal of faults. It is bounded by journal_max_mib.",
            Query("max by (instance) (flipwatch_journal_bytes{<host>})", "{{instance}}"),
            unit="bytes",
        ),
        number(
            "Journal writable",
            "While the journal can't be written, faults wait in memory.",
            Query("min(flipwatch_journal_writable{<host>})"),
            words={"0": ("no", RED), "1": ("yes", GREEN)},
            width=8,
        ),
        number(
            "Journal damaged",
            "Bytes of the kept journal that fail their checksum: the agent's own disk or memory flips bits.",
            Query("sum(flipwatch_journal_damaged_bytes{<host>})"),
            unit="bytes",
            bad_from=1,
            width=8,
        ),
        number(
            "Trace events lost",
            "Trace events of the selected time that were overwritten before they were read. Counters still tell how "
            "many errors there were, not when and where.",
            Query("round(sum(increase(flipwatch_trace_lost_events_total{<host>}[$__range])))"),
            bad_from=1,
            width=8,
        ),
        rows(
            "Software",
            "Version of each agent and the CRC-32C implementation that it runs.",
            [Query("max by (cluster, instance, version, crc32c) (flipwatch_build_info{<host>})")],
            {
                "cluster": Column("Cluster"),
                "instance": Column("Host"),
                "version": Column("Version"),
                "crc32c": Column("CRC-32C by"),
            },
            width=24,
            height=6,
        ),
    ]
