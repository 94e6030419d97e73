"""The dashboard Stored data: what the scrubbers verified, what is corrupt, what nobody can verify."""

from typing import Any

from dashboards.grafana.panels import Column, Query, board, host_link, host_variables, lines, number, rows

STORE = "cluster, instance, store"


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
        "Each store: how much of the current pass is done, how long its oldest byte may have gone unverified, what is "
        "corrupt now and what can't be verified.",
        [
            Query(f"max by ({STORE}) (flipwatch_scrub_pass_ratio{{<host>}})"),
            Query(f"max by ({STORE}) (flipwatch_scrub_oldest_unverified_seconds{{<host>}})"),
            Query(f"sum by ({STORE}) (flipwatch_records_corrupt{{<host>}})"),
            Query(f"sum by ({STORE}) (flipwatch_scrub_unverifiable_bytes{{<host>}})"),
            Query(f"sum by ({STORE}) (rate(flipwatch_scrub_bytes_total{{<host>}}[$__rate_interval]))"),
        ],
        {
            "cluster": Column("Cluster"),
            "instance": Column("Host", link=host_link()),
            "store": Column("Store"),
            "A": Column("Pass", "percentunit"),
            "B": Column("Oldest unverified", "s"),
            "C": Column("Corrupt"),
            "D": Column("Can't be verified", "bytes"),
            "E": Column("Rate", "binBps"),
        },
        sort=["Corrupt"],
    )


def _progress() -> list[Any]:
    return [
        lines(
            "Progress of the pass",
            "A pass that doesn't rise is paused by I/O pressure, or stuck.",
            Query(f"max by ({STORE}) (flipwatch_scrub_pass_ratio{{<host>}})", "{{instance}} {{store}}"),
            unit="percentunit",
        ),
        lines(
            "Oldest unverified byte",
            "Above the store's period the scrubber can't keep up.",
            Query(f"max by ({STORE}) (flipwatch_scrub_oldest_unverified_seconds{{<host>}})", "{{instance}} {{store}}"),
            unit="s",
        ),
        lines(
            "Records verified, by format",
            "Records per second whose checksum held.",
            Query(
                "sum by (format) (rate(flipwatch_records_verified_total{<host>}[$__rate_interval]))",
                "{{format}}",
            ),
            axis="records per second",
        ),
        lines(
            "Corrupt records, by format",
            "Damaged stretches that are open; the line falls when a record is written anew or its file is gone.",
            Query("sum by (format) (flipwatch_records_corrupt{<host>})", "{{format}}"),
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
                "instance": Column("Host", link=host_link()),
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
                "instance": Column("Host", link=host_link()),
                "cluster": Column("Cluster"),
                "store": Column("Store"),
                "reason": Column("Reason"),
                "A": Column("Bytes", "bytes"),
            },
            sort=["Bytes"],
            width=8,
        ),
    ]
