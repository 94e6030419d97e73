"""Against Debian's own Alertmanager: a burst is delivered, renamed, resolved, and mutes what it should."""

import asyncio
import contextlib
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from collectors.alertmanager import post_alerts
from collectors.notify import Said, after, desired
from collectors.revision import ClusterShare
from collectors.store import Store
from tests.collectors.bursts import revision
from tests.collectors.running import CITIES, RunningCollector, flipwatch, wait_for, write_config, write_inventory
from tests.collectors.scripted_agent import Agents, ScriptedAgent
from tests.conftest import require
from tests.servers.alertmanager import EXAMPLE, alerts, free_port, running_alertmanager
from tests.servers.webhook import Webhook


def post(url: str, objects: list[dict[str, Any]]) -> str:
    async def once() -> str:
        async with aiohttp.ClientSession() as session:
            return await post_alerts(session, url, objects)

    return asyncio.run(once())


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with Webhook() as receiver:
        yield receiver


def test_a_burst_is_delivered_renamed_and_resolved(tmp_path, webhook):
    with running_alertmanager(tmp_path, webhook) as url:
        said: list[Said] = []

        def tell(*active) -> None:
            nonlocal said
            now_ns = time.time_ns()
            due = desired(active, said, now_ns, "http://centre/")
            assert post(url, [entry.alert(now_ns, "http://centre/") for entry in due]) == ""
            said = after(said, due)

        burst = revision(t_start_ns=time.time_ns() - 60 * 10**9)
        tell(burst)
        wait_for(lambda: webhook.states(cause="celestial") == ["firing"])
        tell(revision(rev=2, label="fleet", t_start_ns=burst.t_start_ns))
        wait_for(lambda: webhook.states(cause="celestial") == ["firing", "resolved"])
        wait_for(lambda: webhook.states(cause="fleet") == ["firing"])
        assert post(url, []) == ""  # the heartbeat
        tell()
        wait_for(lambda: webhook.states(cause="fleet") == ["firing", "resolved"])
        assert webhook.states(alertname="BurstMember") == []
        (delivered,) = [a for a in webhook.received if a["status"] == "firing" and a["labels"]["cause"] == "celestial"]
        assert "RA 84°" in delivered["annotations"]["description"]
    assert "can't be reached" in post(url, [])


def muted(url: str) -> set[tuple[str, str]]:
    """(name, cluster) of each alert that another one inhibits."""
    found = [a["labels"] for a in alerts(url) if a["status"]["state"] == "suppressed"]
    return {(labels["alertname"], labels.get("cluster", "")) for labels in found}


def test_what_is_told_as_one_is_not_told_one_by_one(tmp_path, webhook):
    """A test of the rules that no burst has a part in."""
    with running_alertmanager(tmp_path, webhook) as url:
        collector, of_fra = {"instance": "centre:9862"}, {"cluster": "fra", "instance": "fra-1:9861"}
        labels = [
            {"alertname": "AgentsSilent", "cluster": "fra", **collector},
            {"alertname": "AgentDown", **of_fra},
            {"alertname": "AgentDown", "cluster": "syd", "instance": "syd-1:9861"},
            {"alertname": "UncorrectedMemoryError", **of_fra},
            {"alertname": "CollectorTrouble", **collector},
        ]
        assert post(url, [{"labels": entry} for entry in labels]) == ""
        wait_for(lambda: muted(url) == {("AgentDown", "fra")})
        assert post(url, [{"labels": {"alertname": "CollectorDown"}}]) == ""
        wait_for(lambda: muted(url) == {("AgentDown", "fra"), ("CollectorTrouble", "")})


def test_a_member_mutes_corrected_errors_of_its_cluster_and_nothing_else(tmp_path, webhook):
    with running_alertmanager(tmp_path, webhook) as url:
        now_ns = time.time_ns()
        due = desired([revision(t_start_ns=now_ns)], [], now_ns, "http://centre/")
        ends = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
        others = [
            {"labels": {"alertname": name, "cluster": cluster, "device": "mc0/channel0/slot0"}, "endsAt": ends}
            for name in ("CorrectedMemoryErrorStorm", "UncorrectedMemoryError")
            for cluster in ("fra", "syd")
        ]
        assert post(url, [entry.alert(now_ns, "http://centre/") for entry in due] + others) == ""

        # fra takes part in the burst, syd doesn't
        wait_for(lambda: muted(url) == {("CorrectedMemoryErrorStorm", "fra")})
        wait_for(lambda: webhook.states(alertname="UncorrectedMemoryError", cluster="fra") == ["firing"])


def test_a_burst_over_thirty_clusters_is_one_notification_to_one_receiver(tmp_path, webhook):
    with running_alertmanager(tmp_path, webhook) as url:
        now_ns = time.time_ns()
        shares = tuple(ClusterShare(f"c{number:02d}", 9, 0.01) for number in range(30))
        storms = [
            {"labels": {"alertname": "CorrectedMemoryErrorStorm", "cluster": share.cluster, "severity": "warning"}}
            for share in shares
        ]
        due = desired([revision(t_start_ns=now_ns, clusters=shares)], [], now_ns, "http://centre/")
        assert post(url, [entry.alert(now_ns, "http://centre/") for entry in due]) == ""
        assert len(due) == 31
        wait_for(lambda: webhook.notifications)  # without any wait of its own, Alertmanager needs to know of the burst
        assert post(url, storms) == ""
        # one more that nothing mutes: once it's here, so is all that went before it
        loud = {"labels": {"alertname": "UncorrectedMemoryError", "cluster": "c00", "severity": "critical"}}
        assert post(url, [loud]) == ""
        wait_for(lambda: webhook.states(alertname="UncorrectedMemoryError"))
        heard = [(path, document["groupLabels"]["alertname"]) for path, document in webhook.notifications]
        assert heard == [("/called", "CorrelatedBurst"), ("/called", "UncorrectedMemoryError")]
        assert len(webhook.received) == 2


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        ({"alertname": "CorrelatedBurst", "severity": "critical", "burst_id": "b"}, "called"),
        ({"alertname": "CorrelatedBurst", "severity": "warning", "burst_id": "b"}, "ticket"),
        ({"alertname": "CorrelatedBurst", "severity": "critical", "burst_id": "b", "test": "true"}, "looked-at"),
        ({"alertname": "DeviceNeedsHands", "severity": "warning", "cluster": "fra"}, "ticket"),
        ({"alertname": "CorrelatorLearning", "severity": "info"}, "looked-at"),
        ({"alertname": "HostDied", "severity": "warning"}, "ticket"),
    ],
)
def test_who_hears_of_it(labels, receiver, tmp_path):
    amtool = require("amtool")
    pairs = [f"{name}={value}" for name, value in labels.items()]
    done = subprocess.run(
        [amtool, "config", "routes", "test", f"--config.file={EXAMPLE}", *pairs],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == receiver


def test_what_alertmanager_refuses_is_said(tmp_path, webhook):
    with running_alertmanager(tmp_path, webhook) as url:
        assert "status 400" in post(url, [{"labels": {"alertname": ""}}])


def test_a_drill_goes_the_whole_way_and_says_that_it_is_one(tmp_path, webhook):
    inventory = write_inventory(tmp_path / "inventory.json", [ScriptedAgent("h0")])
    with running_alertmanager(tmp_path, webhook) as url:
        outcome = drill(write_config(tmp_path, inventory, alertmanager_url=url))
        assert (outcome.returncode, outcome.stderr) == (0, "")
        assert f"{url} took the drill: state active, routed to looked-at" in outcome.stdout
        wait_for(lambda: webhook.states(alertname="CorrelatedBurst", test="true") == ["firing"])
        (delivered,) = webhook.received
        assert delivered["labels"]["severity"] == "info"
        assert delivered["annotations"]["summary"].startswith("DRILL")
    gone = drill(write_config(tmp_path, inventory, alertmanager_url=url))
    assert gone.returncode == 2 and "can't be reached: Connection refused" in gone.stderr
    unset = drill(write_config(tmp_path, inventory))
    assert unset.returncode == 2 and "alertmanager_url is not set" in unset.stderr


def drill(config: Path) -> subprocess.CompletedProcess[str]:
    command = flipwatch("collector", "--test-alert", "--config", config)
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_from_faults_over_the_wire_to_the_webhook_and_to_the_end_after_a_restart(tmp_path, webhook):
    agents = [ScriptedAgent(f"{city}-{n}") for city, *_ in CITIES for n in range(2)]
    port = free_port()
    with Agents(*agents), contextlib.ExitStack() as later:
        config = write_config(
            tmp_path,
            write_inventory(tmp_path / "inventory.json", agents),
            alertmanager_url=f"http://127.0.0.1:{port}",
        )
        import_quiet_history(tmp_path, config)
        with RunningCollector(config) as collector:
            wait_for(lambda: collector.json("/api/status")["state"] == "live")
            for agent in agents[:2] + agents[12:14] + agents[22:24]:  # Frankfurt, London, Moscow
                agent.add(3)
            (burst_id,) = wait_for(lambda: collector.json("/api/status")["bursts_active"])
            wait_for(lambda: "flipwatch_alert_delivery_up 0.0" in collector.get("/metrics"))
            url = later.enter_context(running_alertmanager(tmp_path, webhook, port))  # what was due is told now
            wait_for(lambda: "firing" in webhook.states(alertname="CorrelatedBurst", burst_id=burst_id))
            wait_for(lambda: "flipwatch_alert_delivery_up 1.0" in collector.get("/metrics"))
            members = {a["labels"]["cluster"] for a in alerts(url) if a["labels"]["alertname"] == "BurstMember"}
            assert {"fra", "lon", "mow"} <= members
            before = collector.json("/api/bursts")["bursts"]
        with contextlib.closing(Store(tmp_path / "state" / "collector.sqlite3")) as store:
            assert store.document("calibration")["blocks"]  # so that the next life need not slide the history again
        # kill -9: the next life goes on with the same burst, and raises nothing anew
        with RunningCollector(config) as collector:
            wait_for(lambda: collector.json("/api/status")["bursts_active"] == [burst_id])
            after_restart = collector.json("/api/bursts")["bursts"]
            assert after_restart[: len(before)] == before
            assert [b["kind"] for b in after_restart].count("new") == 1
        retract(tmp_path / "state" / "collector.sqlite3")
        with RunningCollector(config) as collector:  # it still knows what it once said, and ends it
            wait_for(lambda: webhook.states(alertname="CorrelatedBurst", burst_id=burst_id)[-1] == "resolved")
            assert collector.json("/api/status")["bursts_active"] == []


def import_quiet_history(directory: Path, config: Path) -> None:
    """Fifteen days of background at a raised rate, so that two hosts a cluster are enough to learn from."""
    inventory, history = directory / "inventory.json", directory / "history.ndjson"
    rate = ("--novel-per-host-hour", 0.05, "--seed", 1)
    simulate = flipwatch("simulate", "--fleet", inventory, "--out", history, *rate)
    for command in (simulate, flipwatch("import", history, "--config", config)):
        subprocess.run(command, check=True, capture_output=True, timeout=120)


def retract(path: Path) -> None:
    """As if the faults had been a mistake: they're gone, and the burst is taken back."""
    with contextlib.closing(Store(path)) as store:
        last = store.bursts()[-1]
        store.record_step([replace(last, rev=last.rev + 1, kind="retract")], {}, {})
        with store.transaction() as db:
            db.execute("DELETE FROM faults WHERE journal LIKE 'journal-of-%'")
