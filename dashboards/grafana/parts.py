"""The dashboard Replace these: parts worth a ticket, the worst first, with the rule and the evidence."""

from typing import Any

from dashboards.grafana.host import ACTIONS
from dashboards.grafana.panels import STATE, Column, Query, board, host_links, host_variables, lines, number, rows

DEVICE = "cluster, instance, device"
WORTH = 'flipwatch_device_action{<host>,action=~"replace|drain|reset"}'
NAMED = 'flipwatch_device_info{<host>,part!=""}'
OF_THESE = f"and on ({DEVICE}) {WORTH}"
URGENCY = (
    f'max by ({DEVICE}, action, rule) (flipwatch_device_action{{<host>,action="replace"}} * 3'
    ' or flipwatch_device_action{<host>,action="drain"} * 2'
    ' or flipwatch_device_action{<host>,action="reset"})'
)


def build() -> Any:
    return board(
        "parts",
        "flipwatch / Replace these",
        "Parts worth a ticket, the most urgent first, with slot, serial, the rule that says so and its evidence.",
        host_variables(),
        [*_numbers(), _ranking(), *_history()],
    )


def _numbers() -> list[Any]:
    meanings = {
        "replace": "Parts to replace.",
        "drain": "Hosts to take work off: something is wrong, and which part isn't known yet.",
        "reset": "Parts that mend themselves when they're reset: GPUs with a row waiting to be remapped.",
        "watch": "Parts that erred of late. Nothing to do yet; those that have err again.",
    }
    return [
        number(
            action.capitalize(),
            meaning,
            Query(f'count(flipwatch_device_action{{<host>,action="{action}"}}) or vector(0)'),
            bad_from=1 if action in ("replace", "drain") else None,
            width=6,
        )
        for action, meaning in meanings.items()
    ]


def _ranking() -> Any:
    return rows(
        "Parts worth a ticket",
        "Replace before drain before reset; in each, those with more uncorrected errors first. Evidence: the errors of "
        "the part's life, its mode of failure (row, column, bank, where a witness told), and when it last erred. "
        "What a rule rests on: agent/actions.py.",
        [
            Query(f"sort_desc({URGENCY})"),
            Query(f"max by ({DEVICE}, slot, label, serial, part) (flipwatch_device_info{{<host>}}) {OF_THESE}"),
            Query(f'sum by ({DEVICE}) (flipwatch_memory_errors_total{{<host>,severity!="corrected"}}) {OF_THESE}'),
            Query(f'sum by ({DEVICE}) (flipwatch_memory_errors_total{{<host>,severity="corrected"}}) {OF_THESE}'),
            Query(f"max by ({DEVICE}, state) ({STATE}) {OF_THESE}"),
            Query(f"max by ({DEVICE}, mode) (flipwatch_device_mode{{<host>}}) {OF_THESE}"),
            Query(f"1000 * max by ({DEVICE}) (flipwatch_device_last_fault_timestamp_seconds{{<host>}}) {OF_THESE}"),
        ],
        {
            "A": Column("Urgency"),
            "action": Column("Action", words=ACTIONS),
            "cluster": Column("Cluster"),
            "instance": Column("Host", links=host_links()),
            "slot": Column("Slot"),
            "label": Column("Label"),
            "serial": Column("Serial"),
            "part": Column("Part"),
            "device": Column("Counted as"),
            "rule": Column("Rule"),
            "C": Column("Not corrected"),
            "D": Column("Corrected"),
            "mode": Column("Mode"),
            "state": Column("State"),
            "G": Column("Last fault", "dateTimeFromNow"),
        },
        sort=["Urgency", "Not corrected"],
        height=14,
    )


def _history() -> list[Any]:
    return [
        lines(
            "Parts by action",
            "How many parts each action was advised for.",
            Query("count by (action) (flipwatch_device_action{<host>})", "{{action}}"),
        ),
        rows(
            "Part numbers",
            "Part numbers with devices to replace, drain or reset: a bad lot shows as one line that stands out.",
            [
                Query(f"count by (part) (max by ({DEVICE}, part) ({NAMED}) {OF_THESE})"),
                Query(f"count by (part) (max by ({DEVICE}, part) ({NAMED}))"),
            ],
            {"part": Column("Part"), "A": Column("Worth a ticket"), "B": Column("All")},
            sort=["Worth a ticket"],
            width=12,
            height=8,
        ),
    ]
