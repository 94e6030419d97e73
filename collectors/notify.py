"""What Alertmanager has to hear: bursts in, alert objects out.

Enters: the active bursts' latest revisions, what was said before, and the time. Leaves: the alerts to POST now to
/api/v2/alerts, and what will have been said once that succeeded. Labels are an alert's identity: when one of them
changes, the old label set is ended in the same POST. Pure: the server owns the clock and the socket.
Format: Alertmanager's OpenAPI, api/v2/openapi.yaml, `postableAlerts`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from checksum.printable import printable
from collectors.causes import SKY
from collectors.factors import Factor
from collectors.revision import ClusterShare, Revision

REPEAT_NS = 60 * 10**9  # an active alert is said again this often
LASTS_NS = 5 * REPEAT_NS  # and resolves by itself this long after the collector fell silent
NAME_CHARACTERS_MAX = 100
_MARKS = str.maketrans("<>[]`@", "‹›()'＠")
NOT_NAMED = "isn't sure enough to be named"
END_REPEATS = 3  # an end is said this often, in case Alertmanager was restarted in between

SEVERITY = {
    "part": "warning",
    "local": "warning",
    "region": "critical",
    "fleet": "critical",
    "incoherent": "warning",
    "rollout": "warning",
    "celestial": "critical",
    "low-cutoff": "critical",
    "none": "info",
}
WHAT = {
    "part": "in machines that share a part",
    "local": "in one cluster",
    "region": "in one region",
    "fleet": "in the whole fleet",
    "incoherent": "in clusters without a common direction",
    "rollout": "during a roll-out",
    "celestial": "coherent with a direction in the sky",
    "low-cutoff": "where the geomagnetic cutoff is low",
    "none": "without a likely cause",
}


@dataclass(frozen=True, slots=True)
class Said:
    """One label set that Alertmanager knows of, and what is left to say about it."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    start_ns: int
    last_ns: int  # when it was last said
    end_ns: int | None = None  # None: still active
    ends_said: int = 0

    @property
    def key(self) -> str:
        return key(self.labels)

    def alert(self, now_ns: int, link: str) -> dict[str, Any]:
        """The object to POST."""
        ends_ns = now_ns + LASTS_NS if self.end_ns is None else self.end_ns
        return {
            "labels": dict(self.labels),
            "annotations": dict(self.annotations),
            "startsAt": rfc3339(self.start_ns),
            "endsAt": rfc3339(ends_ns),
            "generatorURL": link,
        }

    def document(self) -> dict[str, Any]:
        """As JSON for the store; `from_document` is the way back."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Said":
        return cls(**document)


def key(labels: Mapping[str, str]) -> str:
    """A label set as one string that no other label set has."""
    return "\0".join(part for name in sorted(labels) for part in (name, labels[name]))


def wanted(active: Iterable[Revision], link: str) -> list[tuple[dict[str, str], dict[str, str], int]]:
    """(labels, annotations, start_ns) of each alert that the active bursts call for."""
    alerts: list[tuple[dict[str, str], dict[str, str], int]] = []
    for burst in active:
        labels = {
            "alertname": "CorrelatedBurst",
            "burst_id": burst.burst_id,
            "severity": SEVERITY[burst.label],
            "cause": burst.label,
        }
        alerts.append((labels, annotations(burst, link), burst.t_start_ns))
        for name in burst.members:
            member = {"alertname": "BurstMember", "cluster": name, "burst_id": burst.burst_id}
            summary = inert(f"{_short(name)} takes part in burst {burst.burst_id}")
            alerts.append((member, {"summary": summary}, burst.t_start_ns))
    return alerts


def drill(link: str, now_ns: int) -> dict[str, Any]:
    """An alert that goes the way of a real one but says that it isn't: for routes and people to be tried out.

    It has no severity that pages, and ends by itself like any alert that isn't repeated.
    """
    labels = {"alertname": "CorrelatedBurst", "test": "true", "severity": "info", "cause": "none"}
    labels["burst_id"] = f"test-{now_ns // 10**9}"
    text = "This is a drill of `flipwatch collector --test-alert`: nothing has happened, and nothing needs to be done."
    annotations = {"summary": "DRILL: a test of the alert path", "description": text, "link": link}
    return Said(labels, annotations, now_ns, now_ns).alert(now_ns, link)


def desired(active: Iterable[Revision], said: Sequence[Said], now_ns: int, link: str) -> list[Said]:
    """The label sets that are due now, as they'll stand once said: new, changed, to repeat, ended or to end again."""
    before = {entry.key: entry for entry in said}
    due = []
    for labels, texts, start_ns in wanted(active, link):
        old = before.pop(key(labels), None)
        if old is None or old.end_ns is not None:
            due.append(Said(labels, texts, start_ns, now_ns))
        elif dict(old.annotations) != texts or now_ns - old.last_ns >= REPEAT_NS or now_ns < old.last_ns:
            due.append(replace(old, annotations=texts, last_ns=now_ns))
    for old in before.values():
        if old.end_ns is None:
            due.append(replace(old, end_ns=now_ns, last_ns=now_ns, ends_said=1))
        elif old.ends_said < END_REPEATS and now_ns - old.last_ns >= REPEAT_NS:
            due.append(replace(old, last_ns=now_ns, ends_said=old.ends_said + 1))
    return due


def after(said: Sequence[Said], due: Sequence[Said]) -> list[Said]:
    """What has been said once the due ones were delivered; an end that was said often enough is forgotten."""
    now_said = {entry.key: entry for entry in said} | {entry.key: entry for entry in due}
    return [entry for entry in now_said.values() if entry.ends_said < END_REPEATS]


def annotations(burst: Revision, link: str) -> dict[str, str]:
    """The words of a burst's alert."""
    raised = burst.members
    texts = {
        "summary": f"Burst of memory faults {WHAT[burst.label]}: {len(raised)} of {len(burst.clusters)} clusters",
        "description": description(burst),
        "window": f"{rfc3339(burst.t_start_ns)} to {rfc3339(burst.t_end_ns)}",
        "started": rfc3339(burst.t_start_ns),
        "clusters": ", ".join(map(_short, raised)),
        "shared_factors": shared(burst.factors),
        "changes": _changes(burst),
        "false_alarms": false_alarms(burst),
    }
    links = {"runbook_url": f"{link}runbooks/CorrelatedBurst", "link": f"{link}#burst-{burst.burst_id}"}
    return {name: inert(text) for name, text in texts.items() if text} | links


def inert(text: str) -> str:
    """Text that no receiver of notifications takes for markup, a link with another face, or a call to everybody.

    Each has a language of its own (Slack's <...>, Markdown's [...](...), a mention's @), so none of their marks stays.
    """
    return printable(text).translate(_MARKS)


def shared(factors: Iterable[Factor]) -> str:
    """What the victims share, the most telling first; empty if nothing."""
    return ", ".join(
        f"{_short(f.attribute)} {_short(f.value)} "
        f"({f.victims} of {f.victims_total} victims, {f.hosts} of {f.hosts_total} hosts)"
        for f in factors
    )


def description(burst: Revision) -> str:
    """What was seen, in sentences."""
    observed = sum(share.observed for share in burst.clusters)
    expected = sum(share.expected for share in burst.clusters)
    sentences = [
        f"{observed} novel faults in {burst.window_min} minutes where {expected:.2g} were expected",
        f"{'Named' if burst.held_back else 'Likeliest'} cause: {_probable(burst, burst.label)}, {WHAT[burst.label]}",
    ]
    if burst.held_back:
        sentences.append(f"The likelier {_probable(burst, burst.held_back)} {NOT_NAMED}")
    if burst.label in SKY:
        sentences.append(f"{direction(burst)}, within {burst.area90_deg2:.0f} square degrees (90 %)")
    shares = sorted(burst.clusters, key=lambda share: share.expected - share.observed)
    sentences.append("Clusters (seen / expected): " + ", ".join(_share(share) for share in shares[:12]))
    if burst.factors:
        sentences.append(f"The victims share: {shared(burst.factors)}")
    if burst.change_ids:
        sentences.append(f"Open changes: {_changes(burst)}")
    sentences.append(false_alarms(burst))
    return ". ".join(sentences) + "."


def _probable(burst: Revision, cause: str) -> str:
    return f"{cause} ({100 * burst.posterior.get(cause, 0.0):.0f} %)"


def _changes(burst: Revision) -> str:
    return ", ".join(map(_short, burst.change_ids))


def _short(name: str) -> str:
    """A name may be long enough to push all else out of a message."""
    return name if len(name) <= NAME_CHARACTERS_MAX else f"{name[: NAME_CHARACTERS_MAX - 1]}…"


def _share(share: ClusterShare) -> str:
    return f"{_short(share.cluster)} {share.observed} / {share.expected:.2g}"


def direction(burst: Revision) -> str:
    """Where the burst came from, for people."""
    return f"Coherent with direction RA {burst.ra_deg:.0f}°, Dec {burst.dec_deg:+.0f}°"


def false_alarms(burst: Revision) -> str:
    """How often chance alone does this, and how well that is known."""
    often = f"about {burst.far_per_year:.2g} times a year"
    if burst.far_per_year < 1e-6:  # the tail is far from anything that was measured
        often = "less than once in a million years"
    text = f"Chance alone does this {often}"
    if burst.extrapolated_from_days is not None:
        text += f" (extrapolated from {burst.extrapolated_from_days} days)"
    return text


def rfc3339(time_ns: int) -> str:
    """RFC 3339 in UTC, to the millisecond."""
    moment = datetime.fromtimestamp(time_ns // 10**9, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ns // 10**6 % 1000:03d}Z"
