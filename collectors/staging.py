"""Staging: is a burst one stage of a change that walks through the fleet, though nobody announced it?

Enters: bursts that were told, and peaks with the verdict on them. Leaves: yes where another place was struck within
four hours: sources in the sky don't jump, roll-outs do. Pure.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from collectors.causes import SKY, Verdict
from collectors.lifecycle import Crossing, overlap
from collectors.minutes import HOUR_MIN
from collectors.revision import Revision
from collectors.sky import SPHERE_DEG2, separation_deg, unit_vectors

STAGED_MIN = 4 * HOUR_MIN
STAGED_DEG = 40.0
STAGED_LABELS = (*SKY, "region", "rollout")  # what looks like a place may be a stage


@dataclass(frozen=True, slots=True)
class Stage:
    """First and last minute (both included) of what may be one stage of a change, and where it struck."""

    first_minute: int
    last_minute: int
    direction: np.ndarray
    radius_deg: float  # of the area that holds the direction with 90 %


def may_be_stage(burst: Revision) -> bool:
    return burst.kind != "retract" and burst.label in STAGED_LABELS


def stage_of_burst(burst: Revision) -> Stage:
    ground = unit_vectors(np.array(burst.ground_latitude_deg), np.array(burst.ground_longitude_deg))
    return Stage(*burst.span, ground, _radius_deg(burst.area90_deg2))


def stage_of_peak(peak: Crossing, verdict: Verdict) -> Stage:
    return Stage(peak.first_minute, peak.minute, verdict.place.direction, _radius_deg(verdict.place.area90_deg2))


def is_staged(one: Stage, stages: Iterable[Stage]) -> bool:
    """True if another place was struck within four hours, before or after."""
    span = (one.first_minute, one.last_minute)
    return any(
        not overlap(*span, other.first_minute, other.last_minute, -1)
        and overlap(*span, other.first_minute, other.last_minute, STAGED_MIN)
        and separation_deg(one.direction, other.direction) > max(STAGED_DEG, one.radius_deg, other.radius_deg)
        for other in stages
    )


def _radius_deg(area_deg2: float) -> float:
    """Of a cap with this area."""
    return float(np.degrees(np.arccos(np.clip(1 - 2 * area_deg2 / SPHERE_DEG2, -1, 1))))
