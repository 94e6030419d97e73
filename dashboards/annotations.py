"""Bursts as Grafana annotations: the collector's revisions in, what should stand in Grafana out. Pure.

One annotation per burst, from its start to its end, known by the tag `burst_id:...`; a later revision changes it, and
one that takes the burst back says so in it. Texts are HTML to Grafana, so that what came from outside is escaped.
Formats: the collector's GET /api/bursts; https://grafana.com/docs/grafana/latest/developers/http_api/annotations/.
"""

import html
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from checksum.printable import printable

TAG = "flipwatch-burst"


@dataclass(frozen=True, slots=True)
class Annotation:
    """What should stand in Grafana about one burst. Times are in ms since 1970, as Grafana has them."""

    burst_id: str
    time_ms: int
    end_ms: int
    tags: tuple[str, ...]
    text: str

    @property
    def id_tag(self) -> str:
        """The tag that no other burst has."""
        return f"burst_id:{self.burst_id}"

    def is_said_by(self, known: Mapping[str, Any]) -> bool:
        """Does an annotation, as Grafana returned it, say just this?"""
        found = (known.get("time"), known.get("timeEnd"), sorted(known.get("tags") or ()), known.get("text"))
        return found == (self.time_ms, self.end_ms, sorted(self.tags), self.text)


def wanted(document: Any) -> list[Annotation]:
    """One annotation per burst of the document of /api/bursts, in the order in which they began.

    Raises:
        ValueError: it isn't such a document; the message says where it isn't.
    """
    try:
        latest: dict[str, Mapping[str, Any]] = {}
        for revision in document["bursts"]:
            known = latest.get(revision["burst_id"])
            if known is None or revision["rev"] > known["rev"]:
                latest[revision["burst_id"]] = revision
        return sorted(map(_annotation, latest.values()), key=lambda burst: (burst.time_ms, burst.burst_id))
    except KeyError as error:
        raise ValueError(f"{error} is missing") from error
    except (TypeError, AttributeError) as error:
        raise ValueError("a value is of the wrong type") from error


def _annotation(revision: Mapping[str, Any]) -> Annotation:
    burst_id, cause = str(revision["burst_id"]), str(revision["label"])
    is_retracted = revision["kind"] == "retract"
    tags = (TAG, f"burst_id:{burst_id}", f"cause:{cause}", *(("retracted",) if is_retracted else ()))
    return Annotation(
        burst_id=burst_id,
        time_ms=_time_ms(revision["t_start"]),
        end_ms=_time_ms(revision["t_end"]),
        tags=tags,
        text=html.escape(printable(_text(revision, burst_id, cause, is_retracted))),
    )


def _text(revision: Mapping[str, Any], burst_id: str, cause: str, is_retracted: bool) -> str:
    if is_retracted:
        return f"Burst {burst_id} was taken back: with what has come in since, it is no more than chance."
    shares = revision["clusters"]
    observed, expected = (_total(shares, name) for name in ("observed", "expected"))
    most = sorted(shares, key=lambda share: share["expected"] - share["observed"])[:6]
    often = f"{revision['far_per_year']:.1g} times a year"
    if revision["far_per_year"] < 1e-6:  # nobody measured that far, as the collector's own alert says
        often = "less than once in a million years"
    where = ", ".join(f"{share['cluster']} {share['observed']}" for share in most if share["observed"])
    return (
        f"Burst {burst_id}, named {cause} ({100 * revision['posterior'][cause]:.0f} %): {observed:.0f} novel "
        f"faults where {expected:.2g} were expected; {where}. "
        f"Chance alone does this {often}."
    )


def _total(shares: Iterable[Mapping[str, Any]], name: str) -> float:
    return float(sum(share[name] for share in shares))


def _time_ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)
