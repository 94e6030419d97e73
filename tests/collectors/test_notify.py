"""What Alertmanager is told: labels are identity, every end is said, nothing is said twice without need."""

import json
from dataclasses import replace

import pytest

from collectors.factors import Factor
from collectors.notify import (
    END_REPEATS,
    LASTS_NS,
    REPEAT_NS,
    SEVERITY,
    WHAT,
    Said,
    after,
    annotations,
    desired,
    drill,
    false_alarms,
)
from collectors.revision import ClusterShare
from tests.collectors.bursts import CELESTIAL, START_NS, revision

NOW_NS = START_NS + 120 * 10**9
LINK = "http://centre:9862/"


def told(active, said=(), now_ns=NOW_NS):
    """One delivered round: the alerts, and what has been said after it."""
    due = desired(active, said, now_ns, LINK)
    return [entry.alert(now_ns, LINK) for entry in due], after(said, due)


def names(alerts):
    return sorted((a["labels"]["alertname"], a["labels"].get("cluster", a["labels"].get("cause"))) for a in alerts)


def is_ended(alert) -> bool:
    return alert["endsAt"] <= "2026-11-23T17:09:00.000Z"


def test_a_burst_is_one_alert_and_one_member_per_cluster_that_saw_too_much():
    alerts, _ = told([CELESTIAL])
    assert names(alerts) == [("BurstMember", "fra"), ("BurstMember", "nyc"), ("CorrelatedBurst", "celestial")]
    burst = next(a for a in alerts if a["labels"]["alertname"] == "CorrelatedBurst")
    assert burst["labels"] == {
        "alertname": "CorrelatedBurst", "burst_id": "20261123T1707Z", "severity": "critical", "cause": "celestial",
    }  # fmt: skip
    member = next(a for a in alerts if a["labels"].get("cluster") == "fra")
    assert member["labels"].keys() == {"alertname", "cluster", "burst_id"}
    assert burst["startsAt"] == "2026-11-23T17:07:00.000Z"
    assert burst["endsAt"] == "2026-11-23T17:14:00.000Z"
    assert not any(map(is_ended, alerts))


def test_the_words_say_what_was_seen_and_how_sure_that_is():
    (burst,) = [a for a in told([CELESTIAL])[0] if a["labels"]["alertname"] == "CorrelatedBurst"]
    words = burst["annotations"]
    assert words["summary"] == "Burst of memory faults coherent with a direction in the sky: 2 of 3 clusters"
    assert words["link"] == "http://centre:9862/#burst-20261123T1707Z"
    for part in ("RA 84°, Dec +22°", "fra 6 / 0.01", "0.004 times a year", "extrapolated from 15 days", "96 %"):
        assert part in words["description"]
    assert "supernova" not in words["description"]
    assert all(isinstance(text, str) for text in words.values())


def test_a_cause_that_another_is_likelier_than_is_not_called_the_likeliest():
    words = annotations(revision(label="region", posterior={"region": 0.08, "celestial": 0.92}), LINK)["description"]
    assert "Named cause: region (8 %), in one region. The likelier celestial (92 %) isn't sure enough" in words
    assert "Likeliest" not in words and "Likeliest cause: celestial" in annotations(CELESTIAL, LINK)["description"]


def test_the_words_carry_what_one_has_to_know():
    factor = Factor("rack", "r17", 5, 9, 40, 4000, 1e-9, 1e-7)
    words = annotations(revision(factors=(factor,), change_ids=("kernel-6.9",)), LINK)
    assert words["window"] == "2026-11-23T17:07:00.000Z to 2026-11-23T17:17:00.000Z"
    assert words["clusters"] == "fra, nyc"
    assert words["shared_factors"] == "rack r17 (5 of 9 victims, 40 of 4000 hosts)"
    assert words["changes"] == "kernel-6.9"
    assert "0.004 times a year" in words["false_alarms"]
    assert words["runbook_url"] == "http://centre:9862/runbooks/CorrelatedBurst"
    assert "rack r17" in words["description"] and "Open changes: kernel-6.9" in words["description"]
    assert not {"shared_factors", "changes"} & annotations(CELESTIAL, LINK).keys()  # nothing to say, nothing said


@pytest.mark.parametrize(
    ("observed", "expected", "overdispersion", "part"),
    [
        (0, 0.0, 1, False),
        (1, 0.01, 1, True),
        (1, 0.2, 1, False),
        (6, 3.0, 1, False),
        (7, 3.0, 1, True),
        (7, 3.0, 2, False),
    ],
)
def test_a_cluster_takes_part_only_beyond_its_usual_spread(observed, expected, overdispersion, part):
    """A cluster that is a little up anyway mustn't have its alerts muted."""
    share = ClusterShare("fra", observed, expected, overdispersion)
    assert share.takes_part is part
    alerts, _ = told([revision(clusters=(share,))])
    assert [a["labels"]["cluster"] for a in alerts if a["labels"]["alertname"] == "BurstMember"] == ["fra"] * part


def test_a_drill_is_no_burst():
    alert = drill(LINK, NOW_NS)
    assert alert["labels"]["test"] == "true" and alert["labels"]["severity"] == "info"
    assert alert["labels"]["burst_id"].startswith("test-")
    assert alert["annotations"]["summary"].startswith("DRILL") and alert["endsAt"] == "2026-11-23T17:14:00.000Z"


def test_a_rate_beyond_all_measuring_is_not_printed_as_a_number():
    assert "million years" in false_alarms(revision(far_per_year=1e-50, extrapolated_from_days=None))


def test_what_was_said_is_not_repeated_before_its_time():
    _, said = told([CELESTIAL])
    assert told([CELESTIAL], said, NOW_NS + REPEAT_NS - 1)[0] == []
    alerts, _ = told([CELESTIAL], said, NOW_NS + REPEAT_NS)
    assert len(alerts) == 3
    assert LASTS_NS > 2 * REPEAT_NS  # a lost repetition resolves nothing


def test_new_words_are_told_at_once_under_the_same_start():
    _, said = told([CELESTIAL])
    later = revision(rev=2, far_per_year=0.5, t_start_ns=START_NS - 60 * 10**9)
    alerts, _ = told([later], said, NOW_NS + 1)
    assert names(alerts) == [("CorrelatedBurst", "celestial")]
    assert alerts[0]["startsAt"] == "2026-11-23T17:07:00.000Z"


def test_another_cause_ends_the_old_label_set_in_the_same_post():
    _, said = told([CELESTIAL])
    alerts, said = told([revision(rev=2, label="fleet")], said)
    assert names(alerts) == [("CorrelatedBurst", "celestial"), ("CorrelatedBurst", "fleet")]
    assert [is_ended(a) for a in sorted(alerts, key=lambda a: a["labels"]["cause"])] == [True, False]
    alerts, _ = told([revision(rev=3)], said)  # and back again
    assert [is_ended(a) for a in sorted(alerts, key=lambda a: a["labels"]["cause"])] == [False, True]


def test_an_end_is_said_a_few_times_and_then_forgotten():
    _, said = told([CELESTIAL])
    sent = []
    for round_ in range(10):
        alerts, said = told([], said, NOW_NS + round_ * REPEAT_NS)
        sent.append(len(alerts))
        assert all(is_ended(alert) for alert in alerts)  # the first end holds
    assert sent == [3] * END_REPEATS + [0] * (10 - END_REPEATS)
    assert said == []


def test_a_burst_that_ended_and_goes_on_is_active_again():
    _, said = told([CELESTIAL])
    _, said = told([], said)
    alerts, _ = told([CELESTIAL], said)
    assert len(alerts) == 3 and not any(map(is_ended, alerts))


def test_two_bursts_do_not_end_each_other():
    other = revision(burst_id="other", label="local", clusters=CELESTIAL.clusters[:1])
    _, said = told([CELESTIAL, other])
    alerts, _ = told([CELESTIAL], said)
    assert {a["labels"]["burst_id"] for a in alerts} == {"other"}
    assert all(map(is_ended, alerts))


def test_a_clock_that_went_back_does_not_silence():
    _, said = told([CELESTIAL])
    assert len(told([CELESTIAL], said, NOW_NS - 10**12)[0]) == 3


def test_what_was_said_survives_as_json():
    _, said = told([CELESTIAL])
    said = [replace(said[0], end_ns=NOW_NS, ends_said=1), *said[1:]]
    assert [Said.from_document(json.loads(json.dumps(entry.document()))) for entry in said] == said


def test_every_cause_has_a_severity_and_words():
    assert SEVERITY.keys() == WHAT.keys()
    for cause in SEVERITY:
        alerts, _ = told([revision(label=cause)])
        assert alerts[0]["labels"]["severity"] in ("critical", "warning", "info")
