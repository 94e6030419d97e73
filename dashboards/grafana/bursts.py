"""The dashboard Bursts: what goes on now, what there was, and what each cluster saw against what it should have."""

from typing import Any

from dashboards.grafana.panels import (
    GREEN,
    GREY,
    PLACES,
    RED,
    Column,
    Query,
    board,
    cluster_links,
    clusters_map,
    fleet_variables,
    lines,
    number,
    per_hour,
    rows,
)

BURST = "burst_id, cause"
START = "flipwatch_burst_start_timestamp_seconds"
CORRELATOR = {"starting": 1, "learning": 2, "live": 3, "failed": 4}
WORDS = {"1": ("starting", GREY), "2": ("learning", GREY), "3": ("live", GREEN), "4": ("failed", RED)}


def build() -> Any:
    return board(
        "bursts",
        "flipwatch / Bursts",
        "Faults in many places at once: bursts that go on, bursts there were, and the share of each cluster.",
        fleet_variables(),
        [*_numbers(), *_active(), *_over_time(), *_past()],
        since="now-7d",
    )


def _numbers() -> list[Any]:
    state = " or ".join(
        f'flipwatch_correlator_state{{<job>,state="{name}"}} * {value} > 0' for name, value in CORRELATOR.items()
    )
    return [
        number(
            "Bursts that go on",
            "By the cause that is named. A burst may change its cause or be taken back as more becomes known.",
            Query("sum(max by (cause) (flipwatch_bursts_active{<job>}))"),
            bad_from=1,
            width=6,
        ),
        number(
            "Correlator",
            "Learning: there isn't enough history yet, and nothing is raised. Failed: the last step failed; see the "
            "collector's log.",
            Query(f"max({state})"),
            words=WORDS,
            width=6,
        ),
        number(
            "Chance does this, times a year",
            "How often chance alone reaches what is seen now. A large number is an ordinary moment; below the accepted "
            "false alarms a year (the collector's false_alarms_per_year) a burst is raised.",
            Query("min(flipwatch_scan_false_alarms_per_year{<job>})"),
            width=6,
        ),
        number(
            "Correlation step",
            "How long the last step of the correlator took.",
            Query("max(flipwatch_step_seconds{<job>})"),
            unit="s",
            width=6,
        ),
    ]


def _active() -> list[Any]:
    seen = f"timestamp({START}{{<job>}})"
    return [
        rows(
            "Bursts in the selected time",
            "Each burst that went on at some time in the selected range: when it began, whether it still goes on and "
            "else until when, its named cause, how often chance alone makes such a one, faults seen and expected in "
            "its window. A burst whose cause changed has a line for each.",
            [
                Query(f"1000 * max by ({BURST}) (max_over_time({START}{{<job>}}[$__range]))"),
                Query(f"min by ({BURST}) (min_over_time(flipwatch_burst_false_alarms_per_year{{<job>}}[$__range]))"),
                Query(f"sum by ({BURST}) ({_share('observed', 'job')})"),
                Query(f"sum by ({BURST}) ({_share('expected', 'job')})"),
                Query(f"count by ({BURST}) ({_share('observed', 'job')} > 0)"),
                Query(f"max by ({BURST}) ({START}{{<job>}} * 0 + 1 or max_over_time({START}{{<job>}}[$__range]) * 0)"),
                Query(f"1000 * max by ({BURST}) ({seen} or max_over_time({seen}[$__range:1m]))"),
            ],
            {
                "F": Column("State", words={"1": ("goes on", RED), "0": ("over", GREY)}),
                "A": Column("Began", "dateTimeAsIso"),
                "G": Column("Last seen", "dateTimeAsIso"),
                "burst_id": Column("Burst"),
                "cause": Column("Cause"),
                "C": Column("Seen"),
                "D": Column("Expected"),
                "B": Column("False alarms a year", "sci"),
                "E": Column("Clusters"),
            },
            sort=["State", "Began"],
            height=8,
        ),
        rows(
            "What each cluster saw",
            "Faults of each cluster in the window of each burst of the selected time, against what was expected there.",
            [
                Query(_share("observed", "cluster")),
                Query(_share("expected", "cluster")),
            ],
            {
                "burst_id": Column("Burst"),
                "cause": Column("Cause"),
                "cluster": Column("Cluster", links=cluster_links()),
                "A": Column("Seen"),
                "B": Column("Expected"),
            },
            sort=["Seen"],
            width=12,
            height=12,
        ),
        clusters_map(
            "Where the bursts were seen",
            "Each cluster as large as the faults that it saw in the bursts of the selected time. One side of the Earth "
            "is what something from one direction looks like; one cluster is a local cause.",
            Query(f"sum by (cluster) ({_share('observed', 'cluster')}) * {PLACES}"),
        ),
    ]


def _share(kind: str, scope: str) -> str:
    """What a cluster saw (or should have) in each burst of the selected time; two collectors say the same."""
    return f"max by ({BURST}, cluster) (max_over_time(flipwatch_burst_{kind}_faults{{<{scope}>}}[$__range]))"


def _over_time() -> list[Any]:
    return [
        lines(
            "Novel faults by cluster",
            "Novel faults per hour of each cluster; dashed is what the baseline expects.",
            Query(
                per_hour("flipwatch_cluster_novel_faults_total", "cluster"),
                "{{cluster}} seen",
            ),
            Query(
                per_hour("flipwatch_cluster_expected_faults_total", "cluster"),
                "{{cluster}} expected",
            ),
            axis="novel faults per hour",
            dashed="/expected$/",
        ),
        lines(
            "Scan statistic",
            "The largest log-likelihood ratio of the windows that end now. What it takes to raise a burst is learned "
            "from the fleet's own history.",
            Query("max(flipwatch_scan_statistic_nats{<job>})", "statistic"),
            axis="nats",
            unit="none",
        ),
    ]


def _past() -> list[Any]:
    return [
        rows(
            "Revisions ever made",
            "How often a burst was raised (new), changed (update) or taken back (retract), since the store began. Many "
            "retracts mean that data comes late.",
            [Query("max by (cause, kind) (flipwatch_bursts_total{<job>})")],
            {"cause": Column("Cause"), "kind": Column("Kind"), "A": Column("Revisions")},
            sort=["Revisions"],
            width=12,
            height=8,
        ),
        lines(
            "Bursts by cause",
            "How many bursts went on at a time.",
            Query("max by (cause) (flipwatch_bursts_active{<job>})", "{{cause}}"),
        ),
    ]
