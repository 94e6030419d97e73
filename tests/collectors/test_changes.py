"""Roll-outs: what may be told of them, by whom, how often, and where it is seen."""

import json
import socket
import time

import pytest
from click.testing import CliRunner, Result

from agent.report import Change, ReportError, encode
from collectors.changes import parse, refusal, roll_outs, warning
from collectors.commands import change, import_
from collectors.minutes import DAY_NS
from tests.collectors.running import RunningCollector, wait_for, write_config, write_inventory
from tests.collectors.scripted_agent import Agents, ScriptedAgent

NOW_NS = 1_795_453_620 * 10**9
HOUR_NS = 3600 * 10**9


def made(action: str = "open", id_: str = "kernel", cohort: str = "canary", time_ns: int = NOW_NS) -> Change:
    return Change(time_ns=time_ns, id=id_, action=action, cohort=cohort)


def known(*changes: Change) -> dict[tuple[str, str], Change]:
    return {(c.id, c.action): c for c in changes}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(change, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("told", "before", "words"),
    [
        (made(), [], ""),
        (made(), [made(time_ns=NOW_NS - HOUR_NS)], ""),  # said again
        (made("close"), [made(time_ns=NOW_NS - HOUR_NS)], ""),
        (made("close"), [made(time_ns=NOW_NS - HOUR_NS), made("close")], ""),
        (made(cohort="all"), [made()], "opened for cohort 'canary'"),
        (made(), [made(), made("close")], "was closed at"),
        (made("close"), [], "no change 'kernel' was opened"),
        (made("close", time_ns=NOW_NS - HOUR_NS), [made()], "was opened at"),
        (made(time_ns=NOW_NS + 2 * DAY_NS), [], "more than a day ahead"),
        (made(time_ns=NOW_NS - 91 * DAY_NS), [], "longer ago than history_days = 90"),
    ],
)
def test_what_is_taken_and_what_is_refused(told, before, words):
    sentence = refusal(told, known(*before), NOW_NS, 90)
    assert words in sentence and bool(words) == bool(sentence)


def test_a_cohort_that_nobody_has_is_taken_with_a_warning():
    assert warning(made(), {"canary", "all"}) == ""
    assert "no host of the inventory has the label cohort = 'canary'" in warning(made(), {"all"})


def test_a_post_may_leave_out_what_is_clear():
    assert parse(b'{"id": "kernel", "action": "open", "cohort": "canary"}', {}, NOW_NS) == made()
    closed = parse(b'{"id": "kernel", "action": "close", "time_ns": 5}', known(made()), NOW_NS)
    assert closed == made("close", time_ns=5)
    assert parse(encode(made("close")).encode(), known(made()), 0) == made("close")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"\xff", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b"[" * 10_000, "not JSON"),
        (b"{}", "lacks the key 'id'"),
        (b'{"id": "x", "action": "pause", "cohort": "c"}', "action must be one of open, close"),
        (b'{"id": "x", "action": "open"}', "lacks the key 'cohort'"),
        (b'{"id": "x", "action": "close"}', "no change 'x' was opened"),
        (b'{"id": ["x"], "action": "close", "cohort": "c"}', "id must be a string"),
        (b'{"id": "x", "action": "open", "cohort": "c", "time_ns": "now"}', "time_ns must be a whole number"),
        (b'{"kind": "alive", "cluster": "x", "hosts": 1, "hosts_up": 1}', "is no change"),
    ],
)
def test_a_post_that_cannot_be_understood_says_why(body, words):
    with pytest.raises(ReportError, match=words):
        parse(body, {}, NOW_NS)


def test_roll_outs_are_listed_the_latest_first():
    found = roll_outs(
        [made(), made("close", time_ns=NOW_NS + 5), made(id_="bios", time_ns=NOW_NS + 1), made("close", "?")]
    )
    assert [(r.id, r.opened_ns, r.closed_ns) for r in found] == [
        ("bios", NOW_NS + 1, None),
        ("kernel", NOW_NS, NOW_NS + 5),
    ]


def test_a_change_is_told_seen_repeated_closed_and_survives(tmp_path):
    agent = ScriptedAgent("h0")
    with Agents(agent):
        inventory = write_inventory(tmp_path / "inventory.json", [agent], cohort="canary")
        config = write_config(tmp_path, inventory)
        with RunningCollector(config) as collector:
            here = ("--collector", collector.url)
            opened = run("open", "kernel-6.9", "--cohort", "canary", *here)
            assert (opened.exit_code, opened.stderr) == (0, "")
            assert "change 'kernel-6.9' of cohort 'canary': open at" in opened.stdout
            assert run("open", "kernel-6.9", "--cohort", "canary", *here).stdout == opened.stdout
            odd = run("open", "<b>bios", "--cohort", "nobody", *here)
            assert odd.exit_code == 0 and "warning: no host of the inventory" in odd.stderr
            other = run("open", "kernel-6.9", "--cohort", "other", *here)
            assert other.exit_code == 2 and "opened for cohort 'canary'" in other.stderr
            page = wait_for(lambda: (p := collector.get("/")) and "kernel-6.9" in p and p)
            assert "&lt;b&gt;bios" in page and "goes on" in page
            assert "flipwatch_changes_open 2.0" in collector.get("/metrics")
            assert run("close", "kernel-6.9", *here).exit_code == 0
        with RunningCollector(config) as collector:  # after kill -9
            listed = {c["id"]: c for c in collector.json("/api/changes")["changes"]}
            assert listed["kernel-6.9"]["closed"] is not None and listed["<b>bios"]["closed"] is None
            assert collector.json("/api/status")["changes"] == collector.json("/api/changes")["changes"]
            again = run("open", "kernel-6.9", "--cohort", "canary", "--collector", collector.url)
            assert again.exit_code == 2 and "was closed at" in again.stderr


def test_what_a_collector_refuses_over_http(tmp_path):
    agent = ScriptedAgent("h0")
    with Agents(agent):
        config = write_config(tmp_path, write_inventory(tmp_path / "inventory.json", [agent]))
        with RunningCollector(config) as collector:
            good = {"id": "x", "action": "open", "cohort": "c"}
            assert collector.post("/api/changes", good, "text/plain")[0] == 415  # what a foreign web page could send
            assert collector.post("/api/changes", b"{")[0] == 400
            assert collector.post("/api/changes", good | {"time_ns": 1})[0] == 409
            assert collector.json("/api/changes") == {"changes": []}
            status, answer = collector.post("/api/changes", good)
            assert (status, answer["change"]["id"], "no host" in answer["warning"]) == (200, "x", True)


def test_a_collector_that_is_not_there_is_a_sentence():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        outcome = run("close", "x", "--collector", f"http://127.0.0.1:{probe.getsockname()[1]}")
    assert outcome.exit_code == 2 and "can't be reached: Connection refused" in outcome.stderr
    assert "not a URL" in run("close", "x", "--collector", "centre").stderr


def test_what_is_no_collector_is_a_sentence():
    agent = ScriptedAgent("h0")
    with Agents(agent):
        outcome = run("open", "x", "--cohort", "c", "--collector", f"http://{agent.target}")
    assert outcome.exit_code == 2 and "answers with status 404" in outcome.stderr


def test_changes_in_a_history_are_imported(tmp_path):
    agent = ScriptedAgent("h0")
    agent.port = 1
    config = write_config(tmp_path, write_inventory(tmp_path / "inventory.json", [agent]))
    now_ns = time.time_ns()
    told = [made("close", time_ns=now_ns), made(time_ns=now_ns - HOUR_NS), made(time_ns=now_ns, cohort="other")]
    history = tmp_path / "h.ndjson"
    history.write_text("".join(encode(line) + "\n" for line in told))
    outcome = CliRunner().invoke(import_, [str(history), "--config", str(config)])
    assert outcome.exit_code == 0 and "2 changes" in outcome.output
    assert "change 'kernel' was opened before" in outcome.output
    with Agents(agent), RunningCollector(config) as collector:
        (listed,) = collector.json("/api/changes")["changes"]
        assert (listed["cohort"], listed["closed"] is not None) == ("canary", True)
        assert json.loads(collector.get("/api/status"))["changes"] == [listed]
