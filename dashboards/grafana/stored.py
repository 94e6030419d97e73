"""The dashboard Stored data: what the scrubbers verified, what is corrupt, what nobody can verify."""

from typing import Any

from dashboards.grafana.panels import (
    Column,
    Query,
    board,
    host_links,
    host_variables,
    lines,
    number,
    recorded_rate,
    rows,
)

STORE = "cluster, instance, store"
OLDEST = f"topk(200, max by ({STORE}) (flipwatch_scrub_oldest_unverified_seconds{{<host>}}))"
OF_THESE = f"and on ({STORE}) {OLDEST}"


def build() -> Any:
    return board(
        "stored",
        "flipwatch / Stored data",
        "Is stored data still what was written? Passes of the scrubbers, corrupt records, blind spots.",
        host_variables(),
        [*_numbers(), _stores(), *_progress(), *_corrupt()],
    )


def _numbers() -> list[Any]:
    return [
        number(
            "Corrupt, open",
            "Damaged stretches that are neither healed nor gone. `flipwatch locate FILE` names the flipped bit.",
            Query("sum(flipwatch_records_corrupt{<host>})"),
            bad_from=1,
            width=6,
        ),
        number(
            "Verified per second",
            "Bytes that all scrubbers together verify.",
            Query("sum(rate(flipwatch_scrub_bytes_total{<host>}[$__rate_interval]))"),
            unit="binBps",
            width=6,
        ),
        number(
            "Oldest unverified",
            "The longest that any byte of any store may have gone unverified.",
            Query("max(flipwatch_scrub_oldest_unverified_seconds{<host>})"),
            unit="s",
            width=6,
        ),
        number(
            "Can't be verified",
            "Bytes whose records have no checksum that flipwatch knows, or that can't be read.",
            Query("sum(flipwatch_scrub_unverifiable_bytes{<host>}) or vector(0)"),
            unit="bytes",
            width=6,
        ),
    ]


def _stores() -> Any:
    return rows(
        "Stores",
        "How much of each store's current pass is done, how long its oldest byte may have gone unverified, what is "
        "corrupt now and what can't be verified. The 200 stores of which something has gone unverified the longest.",
        [
            Query(f"max by ({STORE}) (flipwatch_scrub_pass_ratio{{<host>}}) {OF_THESE}"),
            Query(OLDEST),
            Query(f"max by ({STORE}) (flipwatch_scrub_period_seconds{{<host>}}) {OF_THESE}"),
            Query(f"sum by ({STORE}) (flipwatch_records_corrupt{{<host>}}) {OF_THESE}"),
            Query(f"sum by ({STORE}) (flipwatch_scrub_unverifiable_bytes{{<host>}}) {OF_THESE}"),
            Query(f"sum by ({STORE}) (rate(flipwatch_scrub_bytes_total{{<host>}}[$__rate_interval])) {OF_THESE}"),
        ],
        {
            "cluster": Column("Cluster"),
            "instance": Column("Host", links=host_links()),
            "store": Column("Store"),
            "A": Column("Pass", "percentunit"),
            "B": Column("Oldest unverified", "s"),
            "C": Column("Period", "s"),
            "D": Column("Corrupt"),
            "E": Column("Can't be verified", "bytes"),
            "F": Column("Rate", "binBps"),
        },
        sort=["Corrupt", "Oldest unverified"],
    )


def _progress() -> list[Any]:
    """Of whole clusters, whichever hosts are chosen: the rules record no less."""
    return [
        lines(
            "Verified, by cluster",
            "Bytes per second that the scrubbers of each cluster verify. A cluster without any is paused by I/O "
            "pressure, or its scrubbers don't run. The progress over each store of a host: dashboard Host.",
            Query(recorded_rate("cluster:flipwatch_scrub_bytes:rate5m", "cluster"), "{{cluster}}"),
            unit="binBps",
        ),
        lines(
            "Oldest unverified byte, by cluster",
            "The longest that any byte of a store in each cluster may have gone unverified. Above the store's period "
            "its scrubber can't keep up.",
            Query("max by (cluster) (cluster:flipwatch_scrub_oldest_unverified_seconds:max{<cluster>})", "{{cluster}}"),
            unit="s",
        ),
        lines(
            "Records verified, by format",
            "Records per second of the chosen clusters whose checksum held.",
            Query(recorded_rate("cluster:flipwatch_records_verified:rate5m", "format"), "{{format}}"),
            axis="records per second",
        ),
        lines(
            "Corrupt records, by format",
            "Damaged stretches of the chosen clusters that are open; the line falls when a record is written anew or "
            "its file is gone.",
            Query("sum by (format) (cluster:flipwatch_records_corrupt:sum{<cluster>})", "{{format}}"),
        ),
    ]


def _corrupt() -> list[Any]:
    return [
        rows(
            "Corrupt now, by format and verdict",
            "flipped: a checksum fails, and one bit explains it or none does; skipped: damage behind which the next "
            "record was found; torn and zeros: a tail that was never written whole; unreadable: the disk says so.",
            [Query(f"sum by ({STORE}, format, verdict) (flipwatch_records_corrupt{{<host>}}) > 0")],
            {
                "instance": Column("Host", links=host_links()),
                "cluster": Column("Cluster"),
                "store": Column("Store"),
                "format": Column("Format"),
                "verdict": Column("Verdict"),
                "A": Column("Corrupt"),
            },
            sort=["Corrupt"],
            width=8,
        ),
        rows(
            "Damage found, by format and layer",
            "Damaged stretches found in the selected time and where they went wrong: disk, path, page-cache, buffer, "
            "core. Only damage of the layer disk is in the file; of the others the machine is the suspect.",
            [
                Query(
                    "round(sum by (format, layer) (increase(flipwatch_records_corrupt_found_total{<host>}[$__range])))"
                ),
            ],
            {"format": Column("Format"), "layer": Column("Layer"), "A": Column("Found")},
            sort=["Found"],
            width=8,
        ),
        rows(
            "What can't be verified, and why",
            "unknown-format: no checksum that flipwatch knows (`flipwatch seal` makes one beside the file); other "
            "reasons name what stands in the way.",
            [Query(f"sum by ({STORE}, reason) (flipwatch_scrub_unverifiable_bytes{{<host>}}) > 0")],
            {
                "instance": Column("Host", links=host_links()),
                "cluster": Column("Cluster"),
                "store": Column("Store"),
                "reason": Column("Reason"),
                "A": Column("Bytes", "bytes"),
            },
            sort=["Bytes"],
            width=8,
        ),
    ]
