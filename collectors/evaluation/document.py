"""The evaluation's document: what the jobs brought back as one JSON object, and the same as text.

Enters: the plan, its parts, the jobs' results. Leaves: the document's keys of these parts; text of a document, with the
fleet's size beside every figure. Pure.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from collectors.correlator import TRUSTED_DAYS, UNTRUSTED_SHARE
from collectors.evaluation.fleets import TINY_HOSTS
from collectors.evaluation.null import QuietRun
from collectors.evaluation.plan import HOSTS, ROBUSTNESS, Plan, Tried
from collectors.evaluation.shared_factors import FactorCounts
from collectors.evaluation.summary import (
    Row,
    confounder_rows,
    confusion,
    delay_rows,
    excess_rows,
    factor_rows,
    null_labels,
    null_rows,
    peer_rows,
    power_rows,
    robustness_rows,
    wrong_sky_labels,
)
from collectors.evaluation.trials import BURST, Outcome, Trial

Result = QuietRun | Tried | list[FactorCounts]
ALARM_RATE_PER_YEAR = 1.0  # what all correlators of the trials are configured for


def assembled(plan: Plan, parts: Sequence[str], results: Iterable[Result]) -> dict[str, Any]:
    """The keys of these parts."""
    known = list(results)
    runs = [result for result in known if isinstance(result, QuietRun)]
    tried = [result for result in known if isinstance(result, Tried)]
    outcomes = [outcome for result in tried for outcome in result.outcomes]
    document: dict[str, Any] = {}
    if "null" in parts:
        large = [run for run in runs if run.hosts == HOSTS]
        document |= {"null": null_rows(large), "null_labels": null_labels(large)}
    if "power" in parts:
        document |= _power(outcomes)
    if "peers" in parts:
        document["peers"] = _peers(plan, tried)
    if "confounders" in parts:
        document |= _confounders([one for one in outcomes if one.trial.kind != BURST])
    if "delay" in parts:
        bursts = _told_each_minute(outcomes, HOSTS)
        document |= {"delay": delay_rows(bursts), "burst_causes": confusion(bursts)}
    if "tiny" in parts:
        document["tiny_null"] = null_rows([run for run in runs if run.hosts == TINY_HOSTS])
        document["tiny"] = delay_rows(_told_each_minute(outcomes, TINY_HOSTS))
    if "robustness" in parts:
        rows = [one for one in outcomes if _is_robustness(plan, one.trial)]
        document["robustness"] = robustness_rows(rows)
    if "factors" in parts:
        counts = [count for result in known if isinstance(result, list) for count in result]
        document["factors"] = factor_rows(HOSTS, counts)
    return document


def _told_each_minute(outcomes: Sequence[Outcome], hosts: int) -> list[Outcome]:
    trials = [(one, one.trial) for one in outcomes]
    return [one for one, trial in trials if trial.kind == BURST and trial.each_minute and trial.hosts == hosts]


def _power(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    plain = [one for one in outcomes if _is_plain(one.trial)]
    prompt = [one for one in plain if one.trial.prompt == 1]
    partly = [one for one in plain if one.trial.prompt < 1]
    nominal = [one for one in prompt if one.trial.response == 1]
    return {"power": power_rows(prompt), "prompt": power_rows(partly), "excess_for_power": excess_rows(nominal)}


def _peers(plan: Plan, tried: Sequence[Tried]) -> list[Row]:
    judged = [result for result in tried if result.quiet is not None]
    quiet = np.concatenate([result.quiet for result in judged if result.quiet is not None], axis=1)
    share = 1.0 if plan.history_days >= TRUSTED_DAYS else UNTRUSTED_SHARE
    outcomes = [one for result in judged for one in result.outcomes if _is_nominal(one.trial)]
    return peer_rows(judged[0].peers, quiet, ALARM_RATE_PER_YEAR * share, outcomes)


def _confounders(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return {
        "confounders": confounder_rows(outcomes),
        "causes": confusion(outcomes),
        **wrong_sky_labels(outcomes),
    }


def _is_plain(trial: Trial) -> bool:
    """A burst that everyone sees and tells."""
    return trial.kind == BURST and not (trial.each_minute or trial.silent or trial.skew_min or trial.backlog_min)


def _is_nominal(trial: Trial) -> bool:
    return _is_plain(trial) and (trial.window_min, trial.response, trial.prompt) == (10, 1, 1.0)


def _is_robustness(plan: Plan, trial: Trial) -> bool:
    """One of the bursts that are tried plainly and in each harder way."""
    harder = {(one.silent, one.skew_min, one.backlog_min) for one in ROBUSTNESS}
    same = (trial.silent, trial.skew_min, trial.backlog_min) in harder and not trial.each_minute
    nominal = (trial.kind, trial.hosts, trial.window_min, trial.response, trial.prompt) == (BURST, HOSTS, 10, 1, 1.0)
    return same and nominal and trial.seed < plan.robustness_trials


# --- text

_BURST = ("hosts", "amplitude", "window_min", "response")
_NULL = ("hosts", "nominal_per_year", "live_years", "expected", "alarms", "bounds95", "within")
_TOLD = ("hosts", "amplitude", "trials", "excess", "power", "delay50_min", "celestial_first", "celestial_last")
_HARDER = ("hosts", "amplitude", "silent", "skew_min", "backlog_min")
TABLES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "null": (
        "false alarms where nothing happens",
        _NULL,
    ),
    "power": (
        "bursts from anywhere in the sky, all of it reported promptly",
        (*_BURST, "trials", "excess", "power", "error50_deg", "error90_deg", "coverage90", "celestial"),
    ),
    "prompt": (
        "bursts of which only a share is reported promptly",
        (*_BURST, "prompt", "trials", "power"),
    ),
    "excess_for_power": (
        "excess novel faults that it takes to be found",
        ("hosts", "window_min", "trials", "excess50", "excess90"),
    ),
    "peers": (
        "others at the same false-alarm rate, on the same bursts of 10 min and response 1",
        ("hosts", "name", "amplitude", "trials", "power", "threshold"),
    ),
    "confounders": (
        "incidents that are no bursts; celestial at the first alert, the cause as it is called in the end",
        ("hosts", "name", "trials", "raised", "celestial", "celestial_last", "cause_right", "right"),
    ),
    "delay": (
        "from a burst's first minute to its first alert",
        _TOLD,
    ),
    "robustness": (
        "the same bursts, harder to see",
        (*_HARDER, "trials", "power", "error50_deg", "coverage90", "same_as_prompt"),
    ),
    "tiny_null": ("false alarms of the tiny fleet", _NULL),
    "tiny": ("bursts over the tiny fleet: twelve clusters of two hosts", _TOLD),
    "factors": ("what the victims share", ("hosts", "planted", "trials", "first", "false")),
}


def text(document: Mapping[str, Any]) -> Iterator[str]:
    """Lines for people, Markdown tables."""
    yield f"{document['plan']} plan, {document['clusters']} clusters; hosts are the fleet's"
    for key, (title, columns) in TABLES.items():
        if document.get(key):
            yield f"\n{key}: {title}\n"
            yield from _table(document[key], columns)
    for key in ("null_labels", "causes", "burst_causes"):
        for name, numbers in document.get(key, {}).items():
            yield f"\n{key}: {name}: {numbers}"
    if "wrong_sky_labels_per_year" in document:
        mix = ", ".join(f"{number:g} {name}" for name, number in document["mix_per_year"].items())
        wrong, most = document["wrong_sky_labels_per_year"], document["wrong_sky_labels_upper_bound"]
        yield f"\nwrong sky labels at the first alert: {wrong:.2f} a year, and at most {most:.2f} (97.5 %),"
        yield f"from the shares above and an assumed mix of {mix} a year"
    for clusters, milliseconds in document.get("step_ms", {}).items():
        yield f"\na step of {clusters} clusters with 1000 hosts each: {milliseconds:.2f} ms"


def _table(rows: Sequence[Row], columns: Sequence[str]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"
    for row in rows:
        yield f"| {' | '.join(_cell(row.get(column)) for column in columns)} |"


def _cell(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
        case list():
            return ", ".join(_cell(item) for item in value)
    return str(value)
