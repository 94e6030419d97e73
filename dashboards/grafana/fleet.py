"""The dashboard Fleet: is anything wrong anywhere, and where on Earth."""

from typing import Any

from dashboards.grafana.panels import (
    GREEN,
    GREY,
    PHYSICAL,
    PLACES,
    RED,
    Column,
    Query,
    board,
    board_link,
    cluster_links,
    clusters_map,
    fleet_variables,
    host_links,
    in_range,
    lines,
    number,
    per_hour,
    recorded_rate,
    rows,
)

GOOD = {"0": ("trouble", RED), "1": ("ok", GREEN)}


def build() -> Any:
    return board(
        "fleet",
        "flipwatch / Fleet",
        "Flipped bits of the whole fleet: what happens, where, who isn't watching.",
        fleet_variables(),
        [*_numbers(), *_faults(), *_clusters(), *_blind()],
    )


def _numbers() -> list[Any]:
    return [
        number(
            "Agents that answer",
            "Hosts whose agent the collector reaches. Those it doesn't reach are told apart under Agents by state.",
            Query('sum(max by (cluster) (flipwatch_agents{<cluster>,state="ok"}))'),
        ),
        number(
            "ECC-blind hosts",
            "Physical hosts that don't see their memory's errors: no driver, or counters that can't be read. "
            "`flipwatch doctor` there says why. Virtual machines aren't counted: their hosts see for them.",
            Query(f"count(max by (cluster, instance) (flipwatch_ecc_blind{{<cluster>}}) == 1 {PHYSICAL}) or vector(0)"),
        ),
        number(
            "Uncorrected faults, open",
            "Devices with an error that ECC couldn't correct in the last seven days. Deaths of hosts aren't counted.",
            Query('sum(flipwatch_open_faults{<cluster>,severity!="corrected",stream!="host"}) or vector(0)'),
            bad_from=1,
            link=board_link("parts"),
        ),
        number(
            "Parts worth a ticket",
            "Devices that a rule says to replace, or whose host to drain.",
            Query('count(flipwatch_device_action{<cluster>,action=~"replace|drain"}) or vector(0)'),
            bad_from=1,
            link=board_link("parts"),
        ),
        number(
            "Corrupt records, open",
            "Damaged stretches of stored data that are neither healed nor gone.",
            Query("sum(flipwatch_records_corrupt{<cluster>}) or vector(0)"),
            bad_from=1,
            link=board_link("stored"),
        ),
        number(
            "Bursts that go on",
            "Bursts of faults in many places at once that the collector holds for more than chance.",
            Query("sum(max by (cause) (flipwatch_bursts_active{<job>}))"),
            bad_from=1,
            link=board_link("bursts"),
        ),
    ]


def _faults() -> list[Any]:
    return [
        lines(
            "Errors by stream and severity",
            "Every error once, whichever witness saw it, as a rate per hour. A storm in one bad module shows here too: "
            "novel faults don't count it twice.",
            Query(
                f"3600 * {recorded_rate('cluster:flipwatch_memory_errors:rate5m', 'stream, severity')}",
                "{{stream}} {{severity}}",
            ),
            axis="errors per hour",
        ),
        lines(
            "Novel faults, seen and expected",
            "A device's first fault after seven quiet days, per hour; dashed is what the baseline expects. Both lines "
            "rise together when more hosts watch; the first alone when something hits them.",
            Query(
                per_hour("flipwatch_cluster_novel_faults_total", "stream"),
                "{{stream}} seen",
            ),
            Query(
                per_hour("flipwatch_cluster_expected_faults_total", "stream"),
                "{{stream}} expected",
            ),
            axis="novel faults per hour",
            dashed="/expected$/",
        ),
    ]


def _clusters() -> list[Any]:
    # increase() stretches what it saw to the edges of the range; rounded, over a long range, that is the count
    seen = f"round({in_range('flipwatch_cluster_novel_faults_total')})"
    return [
        clusters_map(
            "Where the faults are",
            "Each cluster where it stands, as large as the number of its novel faults in the selected time.",
            Query(f"{seen} * {PLACES}"),
        ),
        rows(
            "Novel faults by cluster",
            "Novel faults in the selected time against what the baseline expected, hosts that watch now, and agents "
            "that don't answer. A cluster with many more than expected is worth a look; compare with Bursts.",
            [
                Query(seen),
                Query(in_range("flipwatch_cluster_expected_faults_total")),
                Query("max by (cluster) (flipwatch_cluster_watching_hosts{<cluster>})"),
                Query('sum by (cluster) (max by (cluster, state) (flipwatch_agents{<cluster>,state!="ok"}))'),
                Query("max by (cluster) (flipwatch_pull_lag_seconds{<cluster>})"),
            ],
            {
                "cluster": Column("Cluster", links=cluster_links()),
                "A": Column("Seen"),
                "B": Column("Expected"),
                "C": Column("Hosts watching"),
                "D": Column("Agents silent"),
                "E": Column("Lag", "s"),
            },
            sort=["Seen"],
            width=12,
            height=12,
        ),
        lines(
            "Hosts watching, by stream",
            "Hosts whose agent answers and can decide what is novel. Nothing is known of the others.",
            Query(
                "sum by (stream) (max by (cluster, stream) (flipwatch_cluster_watching_hosts{<cluster>}))", "{{stream}}"
            ),
            width=8,
        ),
        lines(
            "Agents by state",
            "What the collector gets from the agents: ok, silent, slow, garbage, refused, conflict.",
            Query("sum by (state) (max by (cluster, state) (flipwatch_agents{<cluster>}))", "{{state}}"),
            width=8,
        ),
        number(
            "Collector",
            "Whether the collector itself is well: its store, its inventory, the way to Alertmanager (shown where one "
            "is configured), and faults that were gone before they could be pulled.",
            Query("min(flipwatch_store_up{<job>})", "store"),
            Query("min(flipwatch_inventory_up{<job>})", "inventory"),
            Query("min(flipwatch_alert_delivery_up{<job>})", "alerts"),
            words=GOOD,
        ),
        number(
            "Faults lost",
            "Faults in the selected time that an agent's journal no longer held when the collector asked.",
            Query("round(sum(max by (cluster) (increase(flipwatch_pull_lost_faults_total{<cluster>}[$__range]))))"),
            bad_from=1,
        ),
    ]


def _blind() -> list[Any]:
    return [
        lines(
            "ECC-blind hosts, by reason",
            "Physical hosts. no-driver: the kernel has no EDAC driver for the memory controller; unreadable: there is "
            "one that couldn't be read.",
            Query("sum by (reason) (cluster:flipwatch_hosts_ecc_blind:count{<cluster>})", "{{reason}}"),
        ),
        rows(
            "Which hosts are ECC-blind",
            "Physical machines whose memory errors can't be seen, and why; 500 at most. `flipwatch doctor` there says "
            "what to do.",
            [
                Query(
                    f"topk(500, max by (cluster, instance, reason) (flipwatch_ecc_blind{{<cluster>}}) == 1 {PHYSICAL})"
                ),
            ],
            {
                "cluster": Column("Cluster", links=cluster_links()),
                "instance": Column("Host", links=host_links()),
                "reason": Column("Reason", words={"unreadable": ("unreadable", RED), "no-driver": ("no driver", GREY)}),
            },
            width=12,
            height=8,
        ),
    ]
