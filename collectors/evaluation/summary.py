"""Summaries: rows of figures from what the jobs brought back.

Enters: outcomes of trials and quiet runs. Leaves: the JSON document's lists. A share stands for itself; what it rests
on stands beside it. Pure.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from collectors.evaluation.null import NOMINAL_PER_YEAR, QuietRun
from collectors.evaluation.shared_factors import FactorCounts
from collectors.evaluation.trials import Outcome, Trial
from collectors.false_alarms import TAIL_HOURS, YEAR_H
from collectors.incidents import KINDS

Row = dict[str, Any]

# How many of each a year a fleet may have, and which of KINDS stand for them, all alike.
MIX: Mapping[str, tuple[float, tuple[str, ...]]] = {
    "roll-outs": (100.0, ("cohort", "unannounced", "staged", "staged-bands")),
    "racks": (50.0, ("rack-50", "rack-200", "racks-2", "racks-3")),
    "regions": (12.0, ("region",)),
    "fleet-wide": (4.0, ("fleet-5", "fleet-30")),
}
TAIL_SHARE = 10  # at most so small a part of the hours is a tail
NORMAL_975 = 1.959964  # the quantile


def null_rows(runs: Sequence[QuietRun]) -> list[Row]:
    """One row for each nominal rate; all runs are of one fleet."""
    rows = []
    for nominal in NOMINAL_PER_YEAR:
        alarms, expected = sum(run.found(nominal) for run in runs), sum(run.expected(nominal) for run in runs)
        low, high = poisson_bounds(alarms)
        rows.append(
            {
                "hosts": runs[0].hosts,
                "nominal_per_year": nominal,
                "live_years": sum(run.young_days + run.old_days for run in runs) / 365.25,
                "expected": expected,
                "alarms": alarms,
                "bounds95": [low, high],
                "within": low <= expected <= high,
            }
        )
    return rows


def null_labels(runs: Iterable[QuietRun]) -> dict[str, int]:
    """How the false alarms were called in the end."""
    return dict(Counter(label for run in runs for _, label in run.alarms).most_common())


def power_rows(outcomes: Iterable[Outcome]) -> list[Row]:
    """One row for each kind of burst."""
    groups = grouped(outcomes, lambda t: (t.hosts, t.amplitude, t.window_min, t.response, t.prompt))
    return [
        {
            "hosts": hosts,
            "amplitude": amplitude,
            "window_min": window_min,
            "response": response,
            "prompt": prompt,
            "trials": len(members),
            "excess": float(np.mean([one.excess for one in members])),
            "power": _share(one.found for one in members),
            "celestial": _share(one.last_label == "celestial" for one in members if one.found),
            **places(members),
        }
        for (hosts, amplitude, window_min, response, prompt), members in sorted(groups.items())
    ]


def places(outcomes: Iterable[Outcome]) -> Row:
    """How well the directions of the bursts that were found are known."""
    errors = [one.error_deg for one in outcomes if one.error_deg is not None]
    return {
        "error50_deg": float(np.quantile(errors, 0.5)) if errors else None,
        "error90_deg": float(np.quantile(errors, 0.9)) if errors else None,
        "coverage90": _share(one.covered for one in outcomes if one.covered is not None),
    }


def excess_rows(outcomes: Iterable[Outcome]) -> list[Row]:
    """How many novel faults a burst must bring, on top of the ordinary ones, for power 50 % and 90 %."""
    groups = grouped(outcomes, lambda t: (t.hosts, t.window_min))
    rows = []
    for (hosts, window_min), members in sorted(groups.items()):
        excess50, excess90 = excess_for_power([one.excess for one in members], [one.found for one in members])
        row = {"hosts": hosts, "window_min": window_min, "trials": len(members)}
        rows.append(row | {"excess50": excess50, "excess90": excess90})
    return rows


def excess_for_power(excess: Sequence[int], found: Sequence[bool]) -> tuple[float | None, float | None]:
    """Where a logistic curve over the logarithm of the excess passes 50 % and 90 %; None if it doesn't rise."""
    x, y = np.log(np.array(excess) + 0.5), np.array(found, dtype=float)
    if y.min() == y.max():
        return None, None
    features = np.stack([np.ones(len(x)), x], axis=1)
    weights = np.zeros(2)
    for _ in range(50):  # Newton's method; the small ridge keeps separable data finite
        chance = 1 / (1 + np.exp(-np.clip(features @ weights, -30, 30)))
        gradient = features.T @ (y - chance) - 1e-3 * weights
        curvature = (features * (chance * (1 - chance))[:, None]).T @ features + 1e-3 * np.eye(2)
        weights = weights + np.linalg.solve(curvature, gradient)
    if weights[1] <= 0:
        return None, None
    return float(np.exp(-weights[0] / weights[1])), float(np.exp((np.log(9) - weights[0]) / weights[1]))


def peer_rows(names: Sequence[str], quiet: np.ndarray, rate_per_year: float, outcomes: Iterable[Outcome]) -> list[Row]:
    """Every peer's power beside ours, at the threshold that its own quiet hours [peers, hours] give for the rate."""
    thresholds = [exceeded_at(rate_per_year, hours) for hours in quiet]
    rows = []
    for (hosts, amplitude), members in sorted(grouped(outcomes, lambda t: (t.hosts, t.amplitude)).items()):
        common = {"hosts": hosts, "amplitude": amplitude, "trials": len(members)}
        ours = {"name": "flipwatch", "power": _share(one.found for one in members), "threshold": None}
        rows.append(ours | common)
        for index, (name, threshold) in enumerate(zip(names, thresholds, strict=True)):
            power = _share(one.peers[index] >= threshold for one in members)
            rows.append({"name": name, "power": power, "threshold": threshold} | common)
    return rows


def exceeded_at(rate_per_year: float, hourly_maxima: np.ndarray) -> float:
    """What so many hours a year exceed, by the exponential tail of the largest hundred or so.

    The scale is the sample's own: what two clusters must share falls faster than one log-likelihood ratio does.
    """
    number = max(1, min(TAIL_HOURS, len(hourly_maxima) // TAIL_SHARE))
    largest = np.sort(hourly_maxima)[::-1][: number + 1]
    start, scale = float(largest[-1]), float((largest[:-1] - largest[-1]).mean())
    return start + scale * math.log(number / (len(hourly_maxima) / YEAR_H) / rate_per_year)


def confounder_rows(outcomes: Iterable[Outcome]) -> list[Row]:
    """One row for each kind of incident that isn't a burst, in the order of KINDS."""
    groups = grouped(outcomes, lambda t: t.kind)
    return [_confounder_row(kind, groups[kind]) for kind in KINDS if kind in groups]


def _confounder_row(kind: str, members: Sequence[Outcome]) -> Row:
    right = KINDS[kind].causes
    return {
        "name": kind,
        "hosts": members[0].trial.hosts,
        "trials": len(members),
        "raised": _share(one.raised for one in members),
        "celestial": _share(one.first_label == "celestial" for one in members),
        "celestial_last": _share(one.found and one.last_label == "celestial" for one in members),
        # what raises no alarm has no cause to be named; where none should be raised that is right
        "cause_right": _share(one.last_label in right for one in members if one.raised)
        if right
        else _share(not one.raised for one in members),
        "right": sorted(right),
    }


def confusion(outcomes: Iterable[Outcome]) -> dict[str, dict[str, int]]:
    """Per kind how often each cause was the last one named; "not raised" if there was none."""
    return {
        kind: dict(Counter(one.last_label or "not raised" for one in members).most_common())
        for kind, members in grouped(outcomes, lambda t: t.kind).items()
    }


def wrong_sky_labels(outcomes: Iterable[Outcome]) -> Row:
    """First alerts that call an incident of the declared mix celestial, a year, with the upper 97.5 % bound."""
    groups = grouped(outcomes, lambda t: t.kind)
    wrong, weights = [], []
    for per_year, kinds in MIX.values():
        for kind in kinds:
            if kind not in groups:
                raise KeyError(f"the mix needs trials of {kind}")
            wrong.append(sum(one.first_label == "celestial" for one in groups[kind]))
            weights.append(per_year / len(kinds) / len(groups[kind]))
    return {
        "wrong_sky_labels_per_year": float(np.dot(wrong, weights)),
        "wrong_sky_labels_upper_bound": weighted_upper_bound(wrong, weights),
        "mix_per_year": {name: per_year for name, (per_year, _) in MIX.items()},
    }


def delay_rows(outcomes: Iterable[Outcome]) -> list[Row]:
    """From a burst's first minute to its first alert, and what that and the last revision called it."""
    rows = []
    for (hosts, amplitude), members in sorted(grouped(outcomes, lambda t: (t.hosts, t.amplitude)).items()):
        delays = [one.delay_min for one in members if one.delay_min is not None]
        rows.append(
            {
                "hosts": hosts,
                "amplitude": amplitude,
                "trials": len(members),
                "excess": float(np.mean([one.excess for one in members])),
                "power": _share(one.found for one in members),
                **places(members),
                "delay50_min": float(np.median(delays)) if delays else None,
                "celestial_first": _share(one.first_label == "celestial" for one in members if one.raised),
                "celestial_last": _share(one.last_label == "celestial" for one in members if one.raised),
            }
        )
    return rows


def robustness_rows(outcomes: Iterable[Outcome]) -> list[Row]:
    """Bursts that are harder to see, beside the same bursts seen plainly."""
    groups = grouped(outcomes, lambda t: (t.hosts, t.amplitude, t.silent, t.skew_min, t.backlog_min))
    return [
        {
            "hosts": hosts,
            "amplitude": amplitude,
            "silent": silent,
            "skew_min": skew_min,
            "backlog_min": backlog_min,
            "trials": len(members),
            "power": _share(one.found for one in members),
            **places(members),
            **({"same_as_prompt": _share(one.same for one in members)} if backlog_min else {}),
        }
        for (hosts, amplitude, silent, skew_min, backlog_min), members in sorted(groups.items())
    ]


def factor_rows(hosts: int, counts: Iterable[FactorCounts]) -> list[Row]:
    """Per planted attribute how often it was named first; for "none" how often anything was named."""
    sums: dict[str, Counter[str]] = {}
    for one in counts:
        sums.setdefault(one.attribute, Counter()).update(trials=one.trials, first=one.first, named=one.named)
    return [
        {"hosts": hosts, "planted": attribute, "trials": n["trials"]}
        | ({"false": n["named"] / n["trials"]} if attribute == "none" else {"first": n["first"] / n["trials"]})
        for attribute, n in sums.items()
    ]


def grouped(outcomes: Iterable[Outcome], key: Callable[[Trial], Any]) -> dict[Any, list[Outcome]]:
    groups: dict[Any, list[Outcome]] = {}
    for one in outcomes:
        groups.setdefault(key(one.trial), []).append(one)
    return groups


def poisson_bounds(count: int) -> tuple[float, float]:
    """The central 95 % interval of the mean of a Poisson count (Garwood 1936)."""
    low = 0.0 if count == 0 else _mean_for(lambda mean: 1 - _at_most(count - 1, mean))
    return low, _mean_for(lambda mean: 1 - _at_most(count, mean), probability=0.975)


def _mean_for(chance: Callable[[float], float], probability: float = 0.025) -> float:
    """Where a chance that grows with the mean reaches the probability, by halving."""
    low, high = 0.0, 1e5
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if chance(middle) < probability else (low, middle)
    return (low + high) / 2


def _at_most(count: int, mean: float) -> float:
    """The chance that a Poisson count is no larger."""
    log_chances = [n * math.log(mean) - mean - math.lgamma(n + 1) for n in range(count + 1)]
    return min(1.0, math.fsum(math.exp(value) for value in log_chances))


def weighted_upper_bound(counts: Sequence[int], weights: Sequence[float]) -> float:
    """The upper 97.5 % bound of a weighted sum of Poisson means (Fay and Feuer 1997)."""
    heaviest = max(weights)
    total = float(np.dot(counts, weights)) + heaviest
    variance = float(np.dot(counts, np.square(weights))) + heaviest**2
    freedom = 2 * total**2 / variance
    part = 2 / (9 * freedom)
    chi_square = freedom * (1 - part + NORMAL_975 * math.sqrt(part)) ** 3  # Wilson and Hilferty 1931
    return variance / (2 * total) * chi_square


def _share(flags: Iterable[object]) -> float | None:
    known = [bool(flag) for flag in flags]
    return sum(known) / len(known) if known else None
