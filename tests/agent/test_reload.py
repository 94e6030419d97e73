"""SIGHUP: the configuration is read again, nobody is told twice, and what can't change says so."""

import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from agent import scrubd
from agent.alarm import Alarm
from agent.config import AT_RELOAD, AgentSettings, default, load, reloaded
from agent.scrubd import Scrubber, StoreScrub
from tests.agent.edac_tree import controller
from tests.agent.processes import Daemon, errors_metric, eventually
from tests.agent.scrubbed_store import log_of, store_settings

SLOT = "mc0/channel0/slot0"


def test_what_may_change_and_what_waits() -> None:
    old = default()
    agent = replace(old.agent, poll_interval_s=1.0, listen="127.0.0.1:1", canary_mib=8)
    config, waiting = reloaded(old, replace(old, agent=agent, listen_address=("127.0.0.1", 1)))
    assert waiting == ["listen", "canary_mib"]
    assert config.listen_address == old.listen_address
    assert config.agent == replace(old.agent, poll_interval_s=1.0)
    assert {*AT_RELOAD} < {*AgentSettings.__dataclass_fields__}


def test_the_agent_goes_on_with_other_settings(tmp_path: Path) -> None:
    mc = controller(tmp_path / "sys").create()
    with Daemon(tmp_path, settings={"poll_interval_s": 3600}) as agent:
        mc.inject("dimm0", 2)
        agent.settings = {"poll_interval_s": 0.1}
        agent.write_config()
        agent.signal(signal.SIGHUP)
        eventually(lambda: agent.metrics()[errors_metric(SLOT)] == 2)  # the old interval would have taken an hour
        agent.write_config().write_text("[agent]\nlisten = 3\n")
        agent.signal(signal.SIGHUP)
        eventually(lambda: any("the former configuration stays in force" in line for line in agent.log))
        mc.inject("dimm0", 3)
        eventually(lambda: agent.metrics()[errors_metric(SLOT)] == 5)
        assert sum(fault.count for fault in agent.faults()[1]) == 5
        assert agent.stop() == 0


def test_a_storm_of_signals_is_borne(tmp_path: Path) -> None:
    controller(tmp_path / "sys").create()
    with Daemon(tmp_path) as agent:
        for _ in range(300):
            agent.signal(signal.SIGHUP)
        eventually(lambda: any("configuration read again" in line for line in agent.log))
        assert agent.stop() == 0


def test_an_alarm_forgets_no_request() -> None:
    alarm = Alarm()
    assert not alarm.takes_reload()
    alarm.ask_for_reload()
    alarm.ask_for_reload()
    assert not alarm.wait(3600, hears_events=False), "at once"
    assert alarm.takes_reload() and not alarm.takes_reload()
    alarm.wait(0, hears_events=False)  # the bell of the requests that were taken
    thread = threading.Timer(0.1, alarm.stop)
    thread.start()
    assert not alarm.wait(3600, hears_events=True) and alarm.is_stopped
    thread.join()
    alarm.close()
    alarm.stop()  # a signal after the end


@pytest.fixture
def scrubber(tmp_path: Path) -> Scrubber:
    (tmp_path / "store").mkdir()
    (tmp_path / "store/a.log").write_bytes(log_of(5)[0])
    toml = Daemon(tmp_path, "scrubd", stores=[store_settings(tmp_path / "store")]).write_config()
    return Scrubber(load(toml))


def test_a_read_that_hangs_is_said_and_so_is_its_end(scrubber: Scrubber, caplog: pytest.LogCaptureFixture) -> None:
    hung = threading.Event()
    work = StoreScrub(scrubber, scrubber.config.stores[0])
    work._pass = lambda: (hung.wait(60), work.wait(3600))  # type: ignore[method-assign]
    work.start()
    try:
        eventually(lambda: work._busy_since_s is not None)
        work.say_if_silent(time.monotonic())
        assert work.trouble == ""
        for _ in range(2):
            work.say_if_silent(time.monotonic() + scrubd.SILENT_S + 1)
        assert work.trouble == "a read hangs" and len(caplog.records) == 1
        assert work.is_running and not work.is_ending
        hung.set()
        eventually(lambda: work._busy_since_s is None)
        work.say_if_silent(time.monotonic() + scrubd.SILENT_S + 1)
        assert work.trouble == "", "waiting of its own will is no silence"
    finally:
        hung.set()
        work.stop()
        work.join()
    assert not work.is_running
    scrubber._journal.close()


def test_a_thread_that_dies_ends_the_scrubber(scrubber: Scrubber, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd starts it again; it must not stay and verify nothing."""
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    monkeypatch.setattr(StoreScrub, "_pass", lambda _: 1 / 0)
    monkeypatch.setattr(scrubd, "TEND_S", 0.01)
    with pytest.raises(RuntimeError, match="has died"):
        scrubber.run()
    scrubber._journal.close()
