"""The agent's conductor: owns the clock and the socket, polls the sources, writes the journal, answers requests.

Enters: the configuration. Leaves: durable faults, /metrics and /v1/faults. Whatever a source or the disk does, the next
cycle comes: trouble of a source is a metric and one log line per change, a journal that can't be written keeps its
faults waiting in memory (bounded) and shows none of them until they are durable.
"""

import contextlib
import io
import logging
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, generate_latest

from agent import acknowledge, cores, evidence, host, inventory, status, suspicion, trace_instance
from agent.alarm import Alarm
from agent.config import Config, reloaded
from agent.core_tester import CoreTester
from agent.journal import Journal, JournalReader, page
from agent.metrics import AgentCollector, SourceStatus, View
from agent.observation import Moment, Poll
from agent.reconcile import Changes, State, clock_step, oldest_waiting_ns, reconcile, watching
from agent.report import AgentHeader, Fault, JournalSpan, MemoryFault, encode
from agent.serve import Server
from agent.sources import tracefs
from agent.sources.table import SOURCES, Source, failed
from checksum import crc32c, systemd
from checksum.settings import SettingsError

if TYPE_CHECKING:
    from agent.tls import Tls

PENDING_FAULTS_MAX = 1000
HIDDEN_FROM_GUESTS = {tracefs.SRAM}  # the caches' errors are reported to the machine below
TEMPERATURE_NS = 60 * 10**9  # so long it may be taken for that of an earlier time
# To the next poll while there is something to wait for; in a storm of events it grows.
PROMPT_S, PROMPT_MAX_S = 0.25, 5.0

log = logging.getLogger(__name__)


class Agent:
    """One machine's agent. `run` returns after `stop`. `reread` gives the configuration as it is at a reload."""

    def __init__(self, config: Config, reread: Callable[[], Config] | None = None) -> None:
        self.config = config
        self._reread = reread or (lambda: config)
        self._config_trouble = ""
        self.host = config.agent.host or host.name()
        self._inventory = inventory.read(config.agent.sysfs)
        self._facts = host.facts(config.agent.sysfs, config.agent.proc) | {"parts": self._inventory.part_numbers}
        self._is_virtual = host.virtual(config.agent.sysfs, config.agent.proc, self._facts) is not None
        self._boot_id = host.now(config.agent.proc).boot_id
        self._journal = Journal(
            config.memory_journal_dir, config.journal_max_bytes, host.machine_id(config.agent.machine_id)
        )
        if self._journal.recovered_damage:
            log.error(
                "the journal was damaged (%d bytes, %d faults known lost); going on as journal %s",
                self._journal.damaged_bytes,
                self._journal.lost_faults,
                self._journal.id,
            )
        self._sources, self._core_tester = dict(SOURCES), self._make_core_tester()
        if self._core_tester is not None:
            self._sources[cores.SOURCE] = Source(self._core_tester.poll, (cores.STREAM,))
        self._scrub_journal: JournalReader | None = None
        self._acknowledged: acknowledge.Acknowledged = {}
        self._unread_acknowledgements: tuple[str, ...] = ()
        self._told_suspect_ns = suspicion.read(config.agent.state_dir)
        acknowledge.make_directory(config.agent.state_dir)
        self._lock = threading.Lock()  # guards everything below and both journals
        self._pending_faults: list[Fault] = []
        self._pending_changes: Changes = _for_cursors("at_start")
        self._is_writable = True
        self._written_s = 0.0
        self._statuses: dict[str, SourceStatus] = {}
        self._complete_until_ns = 0
        self._is_unfinished = False  # a source will tell more of what it has begun to read
        self._alarm = Alarm()
        self._heard: set[str] = set()  # the sources whose events wake it
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(AgentCollector(self._view))
        self._server = Server(config.listen_address, self, self._make_tls())

    def _make_tls(self) -> "Tls | None":
        cert, key = self.config.agent.tls_cert_file, self.config.agent.tls_key_file
        if cert is None or key is None:
            return None
        from agent.tls import Tls, TlsFiles  # not at the top: it would take memory that plain HTTP has no use for

        return Tls(TlsFiles(cert, key, self.config.agent.tls_client_ca_file))

    def _make_core_tester(self) -> CoreTester | None:
        if not self.config.agent.core_self_test_s:
            return None
        if crc32c.extension is None:
            log.warning("no self-test of the cores: without a C compiler there are no kernels to test them with")
            return None
        return CoreTester(self.config.agent.core_self_test_s)

    @property
    def url(self) -> str:
        return self._server.url

    def run(self) -> None:
        """Polls until `stop` is called. The first poll is done before READY is said."""
        if self._inventory.lack is not None and not self._is_virtual:
            log.info("%s", self._inventory.lack)
        self._prepare()
        self._listen()
        self._cycle()
        if self._core_tester is not None:
            self._core_tester.start()
        thread = threading.Thread(target=self._server.run, daemon=True)
        thread.start()
        log.info("listening on %s", self.url)
        systemd.notify("READY=1", self._status_line())
        self._poll_on()
        systemd.notify("STOPPING=1")
        if self._core_tester is not None:
            self._core_tester.stop()
        self._server.stop()
        thread.join()
        with self._lock:
            self._pending_changes.update(_for_cursors("at_stop"))
            self._write(force=True)
            self._journal.close()
        self._alarm.close()

    def stop(self) -> None:
        """Safe in a signal handler, as is `reload`."""
        self._alarm.stop()

    def reload(self) -> None:
        """Has the configuration read again before the next poll."""
        self._alarm.ask_for_reload()

    def _reload(self) -> None:
        """Takes over what may change while it runs; a configuration that can't be used changes nothing."""
        systemd.reloading()
        try:
            config, waiting = reloaded(self.config, self._reread())
        except (SettingsError, OSError) as error:
            self._config_trouble = f"{error}; the former configuration stays in force"
            log.error("%s", self._config_trouble)
        else:
            with self._lock:
                self.config, self._config_trouble = config, ""
            log.info("configuration read again")
            if waiting:
                log.warning("changed, but in force only after a restart: %s", ", ".join(waiting))
        systemd.notify("READY=1", self._status_line())

    def _prepare(self) -> None:
        """Does what takes root itself if it is root, as when it is tried by hand."""
        if os.geteuid() != 0:
            return
        try:
            prepare(self.config)
        except OSError as error:
            log.info("%s: no trace buffers: %s", error.filename, error.strerror)

    def _listen(self) -> None:
        """Has events wake the agent, also those of a source that wasn't there before."""
        for name, source in SOURCES.items():
            if name not in self._heard:
                with contextlib.suppress(OSError):  # its poll says why
                    if fds := source.wakers(self.config.agent):
                        self._alarm.listen(fds)
                        self._heard.add(name)

    def _poll_on(self) -> None:
        """Polls at each interval; sooner when an event wakes the agent, and again while something waits.

        Events that follow each other wake it ever more seldom, so that a storm takes few polls and few fault lines.
        """
        pause_s, is_woken = PROMPT_S, False
        polled_s = time.monotonic()
        next_s = polled_s + self.config.agent.poll_interval_s
        while True:
            is_woken = self._alarm.wait(self._until(next_s), hears_events=not is_woken) or is_woken
            if self._alarm.is_stopped:
                return
            systemd.notify("WATCHDOG=1")
            if self._alarm.takes_reload():
                self._reload()
                next_s = min(next_s, time.monotonic() + self.config.agent.poll_interval_s)
            if is_woken:
                next_s = min(next_s, polled_s + pause_s)
            if time.monotonic() < next_s:
                continue
            self._cycle()
            self._listen()
            systemd.notify(self._status_line())
            interval_s, polled_s = self.config.agent.poll_interval_s, time.monotonic()
            next_s = max(next_s + interval_s, polled_s)
            pause_s = min(2 * pause_s, interval_s, PROMPT_MAX_S) if is_woken else PROMPT_S
            if is_woken or self._is_unfinished or self._waiting_since_ns() is not None:
                next_s = min(next_s, polled_s + pause_s)
            is_woken = False

    def _until(self, next_s: float) -> float:
        wait_s = max(0.0, next_s - time.monotonic())
        watchdog_s = systemd.watchdog_interval_s()
        return wait_s if watchdog_s is None else min(wait_s, watchdog_s)

    def _waiting_since_ns(self) -> int | None:
        return oldest_waiting_ns(self._state())

    # --- the cycle --------------------------------------------------------------------------------------------

    def _cycle(self) -> None:
        """One poll of all sources, and its faults in the journal."""
        try:
            now = host.now(self.config.agent.proc)
        except OSError as error:
            log.error("%s: can't tell which boot this is, so counters can't be compared: %s", error.filename, error)
            return
        with self._lock:
            self._follow_clock(self._state(), now)
            state = self._state()
            polls, cursors = {}, _cursors(state)
            for name in self._sources:
                poll = self._poll(name, cursors.get(name, {}), now)
                polls[name] = inventory.with_parts(poll, self._inventory)
            self._is_unfinished = any(poll.is_unfinished for poll in polls.values())
            faults, changes = reconcile(polls, state, now, self.host)
            faults = tuple(_with_temperature(fault, now) for fault in faults)
            changes = evidence.remember(faults, state, changes)
            for name, poll in polls.items():
                changes.update({f"{name}/{key}": value for key, value in poll.cursor.items()})
            suspect_ns = suspicion.latest_ns(faults)
            if suspect_ns is not None:
                changes["suspect_ns"] = suspect_ns
            changes["clock"] = [now.time_ns, now.boottime_ns, now.boot_id]
            self._read_acknowledged()
            self._keep(faults, changes, state)
            self._write(force=False)
            self._tell_scrubber()
            self._boot_id = now.boot_id
            if not self._pending_faults:
                self._complete_until_ns = min(now.time_ns, self._waiting_since_ns() or now.time_ns)

    def _state(self) -> State:
        """What is remembered, with what still waits for the journal."""
        return {**self._journal.state, **self._pending_changes}

    def _poll(self, name: str, cursor: dict[str, Any], now: Moment) -> Poll:
        started_s = time.perf_counter()
        source = self._sources[name]
        try:
            poll = source.poll(self.config.agent, cursor, now)
        except Exception as error:  # an OSError, or a defect: whatever ails one witness, the others go on
            poll = failed(source, error)
        status = SourceStatus(time.perf_counter() - started_s, poll.blind, poll.trouble, poll.absent)
        old = self._statuses.get(name)
        if old is None or _news(old) != _news(status):
            self._tell(name, status, old)
        self._statuses[name] = status
        return poll

    def _tell(self, name: str, status: SourceStatus, old: SourceStatus | None) -> None:
        """One line per change of a source's state."""
        if status.blind:
            log.warning("source %s is blind: %s %s", name, status.blind, "; ".join(status.trouble))
        elif status.trouble:
            log.warning("source %s: %s", name, "; ".join(status.trouble))
        elif status.absent:
            log.info("source %s is absent: %s", name, status.absent)
        elif old is not None:
            log.info("source %s sees everything again", name)

    def _tell_scrubber(self) -> None:
        """Once the fault is durable; tried again at the next cycle if it can't be told now."""
        suspect_ns = self._journal.state.get("suspect_ns", 0)
        if suspect_ns == self._told_suspect_ns:
            return
        try:
            suspicion.write(self.config.agent.state_dir, suspect_ns)
        except OSError as error:
            log.error("%s: the scrubber can't be told what to verify first: %s", error.filename, error.strerror)
            return
        self._told_suspect_ns = suspect_ns

    def _read_acknowledged(self) -> None:
        """What people acknowledged since the last cycle; the sentences on what can't be read are logged once."""
        self._acknowledged, trouble = acknowledge.read(self.config.agent.state_dir)
        for sentence in set(trouble) - set(self._unread_acknowledgements):
            log.warning("not acknowledged: %s", sentence)
        self._unread_acknowledgements = trouble

    def _follow_clock(self, state: State, now: Moment) -> None:
        if "clock" not in state:
            return
        changes = clock_step(state, Moment(*state["clock"]), now)
        if changes:
            log.warning("the clock was set; remembered times are moved along with it")
            self._pending_changes.update(changes)

    def _keep(self, faults: tuple[Fault, ...], changes: Changes, state: State) -> None:
        """Adds what this cycle brought to what waits for the journal, within bounds."""
        dropped = max(0, len(self._pending_faults) + len(faults) - PENDING_FAULTS_MAX)
        if faults:
            changes["journal/faults"] = state.get("journal/faults", 0) + len(faults) - dropped
        if dropped:
            changes["journal/dropped"] = state.get("journal/dropped", 0) + dropped
        self._pending_faults = [*self._pending_faults, *faults][dropped:]
        self._pending_changes.update({k: v for k, v in changes.items() if state.get(k) != v})

    def _write(self, force: bool) -> None:
        """Writes what is waiting, if it is more than the passing of time or a heartbeat is due."""
        is_news = bool(self._pending_faults) or any(not _is_heartbeat(key) for key in self._pending_changes)
        is_due = time.monotonic() - self._written_s >= self.config.agent.heartbeat_s
        if not self._pending_changes or not (is_news or is_due or force):
            return
        try:
            self._journal.append(self._pending_faults, self._pending_changes)
        except OSError as error:
            if self._is_writable:
                log.error("%s: can't write, faults wait in memory: %s", self._journal.directory, error)
            self._is_writable = False
            return
        if not self._is_writable:
            log.info("%s: can be written again", self._journal.directory)
        self._pending_faults, self._pending_changes = [], {}
        self._is_writable = True
        self._written_s = time.monotonic()

    def _status_line(self) -> str:
        with self._lock:
            line = status.watching(self._journal.state, self._statuses, time.time_ns())
        return "STATUS=" + "; ".join(filter(None, (self.health(), line, self._config_trouble)))

    # --- the desk ---------------------------------------------------------------------------------------------

    def metrics(self) -> bytes:
        return generate_latest(self._registry)

    def health(self) -> str | None:
        with self._lock:
            if not self._is_writable:
                return f"{self._journal.directory} can't be written; {len(self._pending_faults)} faults wait in memory"
        return None

    def faults(self, cursor: str | None, limit: int) -> bytes:
        with self._lock:
            found = page((self._journal, *self._refreshed_scrub_journal()), cursor, limit)
            header = self._header(found.cursor, found.spans)
        answer = io.StringIO()
        for line in (header, *found.faults):
            answer.write(encode(line) + "\n")
        return answer.getvalue().encode()

    def _header(self, cursor: str, spans: tuple[JournalSpan, ...]) -> AgentHeader:
        up = [self._sources[name] for name, status in self._statuses.items() if status.is_up]
        seeing = {stream for source in up for stream in source.streams}
        if self._is_virtual:
            seeing -= HIDDEN_FROM_GUESTS
        return AgentHeader(
            time_ns=time.time_ns(),
            complete_until_ns=self._complete_until_ns,
            boot_id=self._boot_id,
            host=self.host,
            cursor=cursor,
            journals=spans,
            watching={
                stream: since_ns
                for stream, since_ns in watching(self._journal.state, sorted(seeing)).items()
                if since_ns <= self._complete_until_ns
            },
            facts=self._facts,
        )

    def _refreshed_scrub_journal(self) -> list[JournalReader]:
        directory = self.config.scrub_journal_dir
        if self._scrub_journal is None and directory.is_dir():
            self._scrub_journal = JournalReader(directory)
        if self._scrub_journal is None:
            return []
        self._scrub_journal.refresh()
        return [self._scrub_journal]

    def _view(self) -> View:
        with self._lock:
            scrub_state: dict[str, Any] = {}
            try:
                for reader in self._refreshed_scrub_journal():
                    scrub_state = dict(reader.state)
            except OSError as error:
                log.warning("the scrubber's journal can't be read: %s", error)
            return View(
                now_ns=time.time_ns(),
                state=dict(self._journal.state),
                scrub_state=scrub_state,
                acknowledged=self._acknowledged,
                sources=dict(self._statuses),
                journal_bytes=self._journal.size_bytes,
                journal_damaged_bytes=self._journal.damaged_bytes,
                journal_lost_faults=self._journal.lost_faults,
                is_journal_writable=self._is_writable,
                is_virtual=self._is_virtual,
            )


def _with_temperature(fault: MemoryFault, now: Moment) -> MemoryFault:
    """Is it just hot? The sensors are asked only when there is a fault; a GPU has told its own temperature."""
    is_past = now.time_ns - fault.time_ns > TEMPERATURE_NS  # such as what killed the host before it started again
    hottest = None if is_past or fault.stream == "gpu" else host.hottest(fault.stream)
    if hottest is None:
        return fault
    sensor = {"temperature_celsius": hottest.celsius, "temperature_sensor": f"{hottest.chip} {hottest.sensor}"}
    return replace(fault, detail={**fault.detail, **sensor})


def prepare(config: Config) -> None:
    """What takes root, for an agent that has less: the trace buffers, for the group of the state directory.

    Raises:
        OSError: it can't be done; the error names the file.
    """
    config.agent.state_dir.mkdir(parents=True, exist_ok=True)
    group = config.agent.state_dir.stat().st_gid
    acknowledge.make_directory(config.agent.state_dir)
    trace_instance.prepare(config.agent.tracefs, group, config.agent.trace_buffer_kib)


def _cursors(state: State) -> dict[str, dict[str, Any]]:
    """The state's keys <name>/<rest>, by name: those of a source are its cursor."""
    found: dict[str, dict[str, Any]] = {}
    for key, value in state.items():
        name, _, rest = key.partition("/")
        found.setdefault(name, {})[rest] = value
    return found


def _news(status: SourceStatus) -> tuple[Any, ...]:
    """What takes a line of the log when it changes; the numbers in a sentence may be others at each poll."""
    return status.blind, status.absent, [re.sub(r"\d+", "", sentence) for sentence in status.trouble]


def _for_cursors(moment: str) -> Changes:
    """What the table of sources wants their cursors to say at `moment`: "at_start" or "at_stop"."""
    return {f"{name}/{key}": v for name, source in SOURCES.items() for key, v in getattr(source, moment).items()}


def _is_heartbeat(key: str) -> bool:
    return key == "clock" or key.endswith("/polled")
