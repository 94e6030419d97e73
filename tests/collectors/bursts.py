"""A burst's revision for tests that are not about correlation."""

from dataclasses import replace
from typing import Any

from collectors.revision import ClusterShare, Revision

START_NS = 1_795_453_620 * 10**9

CELESTIAL = Revision(
    burst_id="20261123T1707Z",
    rev=1,
    kind="new",
    t_start_ns=START_NS,
    t_end_ns=START_NS + 600 * 10**9,
    window_min=10,
    label="celestial",
    posterior={"none": 0.0, "local": 0.01, "fleet": 0.03, "celestial": 0.96},
    far_per_year=0.004,
    extrapolated_from_days=15,
    statistic_nats=31.0,
    amplitude=16.0,
    ra_deg=83.6,
    dec_deg=22.0,
    area90_deg2=900.0,
    ground_latitude_deg=22.0,
    ground_longitude_deg=8.0,
    clusters=(ClusterShare("fra", 6, 0.01), ClusterShare("nyc", 3, 0.01), ClusterShare("syd", 0, 0.01)),
)


def revision(**changes: Any) -> Revision:
    return replace(CELESTIAL, **changes)
