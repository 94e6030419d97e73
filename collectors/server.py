"""The conductor of the collector: it owns the clock, the sockets and the threads.

Enters: the settings. Leaves: nothing; it runs until SIGTERM or SIGINT, and reads the settings again at SIGHUP. The
road: pull -> commit (faults and cursor in one transaction) -> feed -> correlate -> store the revisions -> tell
Alertmanager. Each piece of trouble becomes a log line, a sentence on the page and a metric, and is tried again; what
isn't committed is never acknowledged.

Threads: the event loop (pulls, web), one that writes the store, one that correlates, one that reads for the web. Each
has a connection of its own, so that no two threads share one.
"""

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import resource
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import aiohttp
import uvloop
from aiohttp import web

from agent.report import Change, ReportError
from checksum import systemd
from checksum.printable import printable
from checksum.settings import SettingsError, Stamp, stamp
from collectors import changes, metrics, notify, overview, page, runbooks, tls
from collectors import inventory as inventories
from collectors.alertmanager import post_alerts
from collectors.causes import COHORT
from collectors.config import CollectorConfig, reloaded
from collectors.factors import Factor
from collectors.inventory import Inventory, InventoryError
from collectors.minutes import DAY_NS
from collectors.overview import Health
from collectors.pull import Agent, Puller
from collectors.recording import Conflict, Pulled, Recorded
from collectors.revision import Revision
from collectors.stepper import Step, Stepper, keep
from collectors.store import Move, Store, StoreError

T = TypeVar("T")

STEP_IDLE_S = 15.0  # a step is made at least this often, also when nothing new has come
STEP_GAP_S = 1.0  # and at most this often
RETRY_S = 2.0  # after a failed write or POST
HEARTBEAT_S = 60.0  # Alertmanager is spoken to at least this often, so that its absence is noticed before a burst
INVENTORY_CHECK_S = 2.0
FORGET_S = 3600.0
REPORTS_WAIT_NS = 180 * 10**9  # the scan waits for the slowest agent at most so long
KEEP_OPEN_MAX_S = 100.0  # an agent cuts a connection that is idle for two minutes
CHANGE_BYTES_MAX = 1 << 16
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"

_log = logging.getLogger("flipwatch.collector")


class ServerError(Exception):
    """The collector can't start; the message is one sentence."""


def serve(config: CollectorConfig, reread: Callable[[], CollectorConfig]) -> None:
    """Runs the collector until SIGTERM or SIGINT; `reread` gives the settings as they are at a SIGHUP.

    Raises:
        ServerError, StoreError, InventoryError, SettingsError: it can't start.
    """
    seen = stamp(config.inventory)  # before it is read: an edit right after must not be missed
    fleet = inventories.load(config.inventory)
    _allow_many_connections()
    with (
        contextlib.closing(Store(config.store_path)) as store,
        _alone(config),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(Server(config, reread, fleet, seen, store).run())


def _allow_many_connections() -> None:
    """A connection per agent stays open: as many as the system gives us without asking anybody."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@contextlib.contextmanager
def _alone(config: CollectorConfig) -> Iterator[None]:
    """Keeps a second collector out of the state directory."""
    lock = os.open(config.state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ServerError(f"state_dir = {config.state_dir}: another collector is using it") from error
        yield
    finally:
        os.close(lock)


class Server:
    """One running collector."""

    def __init__(
        self,
        config: CollectorConfig,
        reread: Callable[[], CollectorConfig],
        fleet: Inventory,
        seen: Stamp | None,
        store: Store,
    ) -> None:
        self._config = config
        self._reread = reread
        self._fleet = fleet
        self._seen = seen  # the inventory file that the fleet came from
        self._store = store  # used by the writing thread only, once the loop runs
        self._health = Health(alerts_wanted=bool(config.alertmanager_url))
        self._step: Step | None = None
        self._waiting: list[tuple[Pulled, asyncio.Future[Recorded | Conflict]]] = []
        self._waiting_event = asyncio.Event()
        self._news = asyncio.Event()  # something to correlate
        self._stepped = asyncio.Event()  # something to tell
        self._reload_asked = asyncio.Event()
        self._exposure_from_ns: int | None = None
        self._link = config.page_link
        self._writing = ThreadPoolExecutor(1, "store")
        self._correlating = ThreadPoolExecutor(1, "correlator")
        self._reading = ThreadPoolExecutor(1, "web")
        self._reader = Store(config.store_path, create=False)
        self._stepper = Stepper(config, fleet)
        self._tls = tls.of_listener(config)

    async def run(self) -> None:
        """Until a signal says stop."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload_asked.set)
        connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=300, keepalive_timeout=self._keep_open_s)
        # answers are taken as they come: a compressed one could be larger than the bound on what is received
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
            self._puller = Puller(self._config, session, time.time_ns, self._commit)
            self._log_moves(self._store.note_moves(_clusters_of(self._fleet), time.time_ns()))
            self._log_warnings(self._fleet)
            self._puller.set_hosts(self._fleet.hosts, self._store.cursors())
            try:
                async with self._web():
                    await self._run_until(stop, session)
            finally:
                for executor in (self._correlating, self._writing, self._reading):
                    executor.shutdown()
                self._stepper.close()
                self._reader.close()

    @property
    def _keep_open_s(self) -> float:
        """A connection outlives the wait for the next pull, but not the agent's patience with an idle one."""
        return min(2 * self._config.pull_interval_s + self._config.pull_timeout_s, KEEP_OPEN_MAX_S)

    async def _run_until(self, stop: asyncio.Event, session: aiohttp.ClientSession) -> None:
        roads = [self._puller.run(), self._commit_forever(), self._correlate_forever()]
        roads += [self._watch_inventory(), self._forget_forever(), self._reload_forever()]
        if self._config.alertmanager_url:
            roads.append(self._notify_forever(session))
        else:
            _log.warning("alertmanager_url is not set: bursts are shown, nobody is alerted")
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(road) for road in roads]
            systemd.notify("READY=1", self._status())
            await stop.wait()
            systemd.notify("STOPPING=1")
            _log.info("stopping")
            for task in tasks:
                task.cancel()

    def _set_health(self, name: str, sentence: str) -> None:
        """Notes a piece of trouble, or with an empty sentence its end, and logs the change."""
        if getattr(self._health, name) != sentence:
            _log.log(logging.ERROR if sentence else logging.INFO, "%s: %s", name, sentence or "well again")
            change: dict[str, Any] = {name: sentence}
            self._health = replace(self._health, **change)

    def _status(self) -> str:
        return f"STATUS={overview.status_line(self._puller.agents, self._step, self._health)}"

    def _beat(self) -> None:
        """Tells systemd that the work goes on; so the roads that do it call this, and no clock does."""
        systemd.notify("WATCHDOG=1", self._status())

    async def _reload_forever(self) -> None:
        """Takes over the settings and the inventory at a SIGHUP; if one of them can't be used, neither changes."""
        while True:
            await self._reload_asked.wait()
            self._reload_asked.clear()
            systemd.reloading()
            try:
                config, waiting = reloaded(self._config, await asyncio.to_thread(self._reread))
                fleet = await asyncio.to_thread(inventories.load, config.inventory)
            except (SettingsError, InventoryError) as error:
                self._set_health("config", f"{error}; the former settings stay in force")
            else:
                self._set_health("config", "")
                self._config = config
                self._puller.set_config(config)
                await self._take_over(fleet)
                _log.info("settings and inventory read again")
                if waiting:
                    _log.warning("changed, but in force only after a restart: %s", ", ".join(waiting))
            systemd.notify("READY=1", self._status())

    # -- the store

    async def _write(self, write: Callable[..., T], *arguments: Any) -> T:
        """Calls a method of the store in its thread.

        Raises:
            StoreError: it failed, and nothing of it was stored.
        """
        loop = asyncio.get_running_loop()
        try:
            result = await loop.run_in_executor(self._writing, write, *arguments)
        except sqlite3.Error as error:
            self._set_health("store", f"{self._config.store_path}: can't be written: {error}")
            raise StoreError(str(error)) from error
        self._set_health("store", "")
        return result

    async def _write_until_done(self, write: Callable[..., T], *arguments: Any) -> T:
        while True:
            try:
                return await self._write(write, *arguments)
            except StoreError:
                self._beat()  # to start again would help no disk
                await asyncio.sleep(RETRY_S)

    def _commit(self, answer: Pulled) -> Awaitable[Recorded | Conflict]:
        """Durable, or a StoreError: what the puller waits for before it moves on."""
        future: asyncio.Future[Recorded | Conflict] = asyncio.get_running_loop().create_future()
        self._waiting.append((answer, future))
        self._waiting_event.set()
        return future

    async def _commit_forever(self) -> None:
        """Group commit: what has come in while the disk was busy shares the next transaction."""
        while True:
            await self._waiting_event.wait()
            self._waiting_event.clear()
            batch, self._waiting = self._waiting, []
            try:
                hosts = self._puller.agents.keys()
                outcomes = await self._write(self._store.record, [answer for answer, _ in batch], hosts)
            except StoreError as error:
                for _, future in batch:
                    _settle(future, error)
                continue
            for (_, future), outcome in zip(batch, outcomes, strict=True):
                self._note_news(outcome)
                _settle(future, outcome)

    def _note_news(self, outcome: Recorded | Conflict) -> None:
        if isinstance(outcome, Recorded) and outcome.exposure_from_ns is not None:
            earliest = self._exposure_from_ns
            from_ns = outcome.exposure_from_ns
            self._exposure_from_ns = from_ns if earliest is None else min(earliest, from_ns)
            self._news.set()

    async def _forget_forever(self) -> None:
        while True:
            await self._write_until_done(self._store.forget_before, time.time_ns() - self._config.history_days * DAY_NS)
            await asyncio.sleep(FORGET_S)

    async def _watch_inventory(self) -> None:
        """Takes over the inventory, and certificates, when files change; a bad one is shown, and the old one stays."""
        while True:
            await asyncio.sleep(INVENTORY_CHECK_S)
            if self._tls is not None:
                self._tls.follow()
            now = stamp(self._config.inventory)
            if now == self._seen:
                continue
            self._seen = now
            try:
                fleet = await asyncio.to_thread(inventories.load, self._config.inventory)
            except InventoryError as error:
                self._set_health("inventory", f"{error}; the former inventory stays in force")
                continue
            await self._take_over(fleet)

    async def _take_over(self, fleet: Inventory) -> None:
        self._set_health("inventory", "")
        _log.info("inventory: %s", inventories.what_changed(self._fleet, fleet))
        self._log_warnings(fleet)
        moves = await self._write_until_done(self._store.note_moves, _clusters_of(fleet), time.time_ns())
        self._log_moves(moves)
        cursors = await self._write_until_done(self._store.cursors)
        self._fleet = fleet
        self._puller.set_hosts(fleet.hosts, cursors)
        self._news.set()

    def _log_moves(self, moves: list[Move]) -> None:
        for move in moves:
            _log.warning("%s moved: what it saw before now stays with %s", move.host, move.cluster)

    def _log_warnings(self, fleet: Inventory) -> None:
        for sentence in fleet.warnings:
            _log.warning("inventory: %s", sentence)

    # -- correlation

    async def _correlate_forever(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), STEP_IDLE_S)
            self._news.clear()
            from_ns, self._exposure_from_ns = self._exposure_from_ns, None
            loop = asyncio.get_running_loop()
            try:
                now_ns = time.time_ns()
                heard_ns = heard_until_ns(self._puller.agents.values(), now_ns)
                revisions, step = await loop.run_in_executor(
                    self._correlating, self._stepper.step, now_ns, from_ns, heard_ns, self._fleet, self._config
                )
            except Exception as error:  # whatever it is, pulling must go on, and people must hear of it
                _log.exception("the correlation step failed")
                self._set_health("correlator", f"the last step failed: {type(error).__name__}: {error}")
                self._stepper.start_over()
                self._beat()
                await asyncio.sleep(RETRY_S)
                continue
            self._set_health("correlator", "")
            await self._keep_step(now_ns, revisions, step)
            self._beat()
            await asyncio.sleep(STEP_GAP_S)

    async def _keep_step(self, now_ns: int, revisions: list[Revision], step: Step) -> None:
        """A burst is told only once it is stored; a restart then continues it instead of raising it again."""
        await self._write_until_done(keep, self._store, now_ns, revisions, step)
        for revision in revisions:
            _log.warning("burst %s rev %d %s: %s", revision.burst_id, revision.rev, revision.kind, revision.label)
        if self._step is None or self._step.status.state != step.status.state:
            _log.info("correlator: %s, %.1f days of history", step.status.state, step.status.history_days)
        if self._step is None or _names(self._step.factors_24h) != _names(step.factors_24h):
            _log.info("shared by the victims of the last day: %s", notify.shared(step.factors_24h) or "nothing")
        self._step = step
        self._stepped.set()

    # -- alerts

    async def _notify_forever(self, session: aiohttp.ClientSession) -> None:
        await self._stepped.wait()  # before the first step nobody knows which bursts go on
        documents = await self._write_until_done(self._store.said)
        said = [notify.Said.from_document(document) for document in documents.values()]
        spoken_s = -HEARTBEAT_S
        while True:
            self._stepped.clear()
            assert self._step is not None
            now_ns = time.time_ns()
            due = notify.desired(self._step.active, said, now_ns, self._link)
            if due or time.monotonic() - spoken_s >= HEARTBEAT_S or self._health.alerts:
                said = await self._tell(session, said, due, now_ns)
                spoken_s = time.monotonic()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stepped.wait(), RETRY_S)

    async def _tell(
        self, session: aiohttp.ClientSession, said: list[notify.Said], due: list[notify.Said], now_ns: int
    ) -> list[notify.Said]:
        """POSTs what is due (nothing is a heartbeat) and returns what has been said then."""
        known = {entry.key for entry in said}
        new = [replace(entry, last_ns=0) for entry in due if entry.key not in known]
        if new:  # first on paper: a label set that Alertmanager knows and we don't could never be ended
            said = [*said, *new]
            await self._keep_said(said)
        alerts = [entry.alert(now_ns, self._link) for entry in due]
        sentence = await post_alerts(session, self._config.alertmanager_url, alerts)
        self._set_health("alerts", sentence)
        if sentence or not due:
            return said
        said = notify.after(said, due)
        await self._keep_said(said)
        return said

    async def _keep_said(self, said: list[notify.Said]) -> None:
        documents = {entry.key: entry.document() for entry in said}
        await self._write_until_done(self._store.record_said, documents)

    # -- the web

    @contextlib.asynccontextmanager
    async def _web(self) -> AsyncIterator[None]:
        """The page, /metrics, /healthz and /api, while it lasts."""
        app = web.Application(client_max_size=CHANGE_BYTES_MAX)
        pages = {"/": self._page, "/metrics": self._metrics, "/healthz": self._healthz}
        pages |= {"/api/status": self._api_status, "/api/bursts": self._api_bursts, "/api/changes": self._api_changes}
        app.add_routes([web.get(path, handler) for path, handler in pages.items()])
        app.add_routes([web.get("/runbooks/", self._runbooks), web.get("/runbooks/{name}", self._runbook)])
        app.add_routes([web.post("/api/changes", self._api_change)])
        app.on_response_prepare.append(_harden)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            self._link = self._config.page_link or await self._listen(runner)
            yield
        finally:
            await runner.cleanup()

    async def _listen(self, runner: web.AppRunner) -> str:
        """The URL where it listens: with port 0 in the settings, any free port."""
        address, port = self._config.address
        context = None if self._tls is None else self._tls.context
        try:
            await web.TCPSite(runner, address, port, ssl_context=context).start()
        except OSError as error:
            reason = error.strerror or error
            raise ServerError(f"listen = {self._config.listen}: can't listen there: {reason}") from error
        scheme = "http" if context is None else "https"
        url = f"{scheme}://{f'[{address}]' if ':' in address else address}:{runner.addresses[0][1]}"
        _log.info("listening on %s", url)
        return f"{url}/"

    async def _read(self, read: Callable[..., T], *arguments: Any) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._reading, read, *arguments)
        except sqlite3.Error as error:
            raise web.HTTPServiceUnavailable(text=f"the store can't be read: {printable(str(error))}\n") from error

    def _overview(self, now_ns: int) -> overview.Overview:
        agents = dict(self._puller.agents)  # the loop may replace it while this thread reads
        return overview.gather(now_ns, self._fleet, agents, self._reader, self._step, self._health)

    async def _page(self, request: web.Request) -> web.Response:
        def build() -> bytes:
            now_ns = time.time_ns()
            refresh_s = max(round(self._config.pull_interval_s), 5)
            shown = page.details(self._reader, now_ns)
            return page.render(self._overview(now_ns), shown, self._config.false_alarms_per_year, refresh_s)

        return _html(await self._read(build))

    async def _metrics(self, request: web.Request) -> web.Response:
        text = await self._read(lambda: metrics.render(self._overview(time.time_ns())))
        return web.Response(body=text, headers={"Content-Type": metrics.CONTENT_TYPE})

    async def _healthz(self, request: web.Request) -> web.Response:
        troubles = [sentence for sentence in (self._health.store, self._health.correlator) if sentence]
        return web.Response(text="\n".join(map(printable, troubles or ["ok"])) + "\n", status=503 if troubles else 200)

    async def _runbooks(self, request: web.Request) -> web.Response:
        return _html(runbooks.index())

    async def _runbook(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        html = runbooks.page(name)
        if html is None:
            sentence = f"there is no runbook {printable(name)}; /runbooks/ names them all\n"
            return web.Response(text=sentence, status=404)
        return _html(html)

    async def _api_status(self, request: web.Request) -> web.Response:
        return _json(await self._read(lambda: overview.status_document(self._overview(time.time_ns()))))

    async def _api_bursts(self, request: web.Request) -> web.Response:
        return _json({"bursts": await self._read(self._reader.revision_documents)})

    async def _api_changes(self, request: web.Request) -> web.Response:
        return _json(overview.changes_document(await self._read(self._reader.changes)))

    async def _api_change(self, request: web.Request) -> web.Response:
        """Takes a change; answers once it is durable. JSON only: no foreign web page can make a browser send that."""
        if request.content_type != "application/json":
            return _refused(415, "the body must be of type application/json")
        try:
            kept, sentence = await self._write(self._take_change, await request.read(), time.time_ns())
        except ReportError as error:
            return _refused(400, str(error))
        except StoreError as error:
            return _refused(503, f"the change couldn't be stored: {error}")
        if kept is None:
            return _refused(409, sentence)
        self._news.set()
        return _json({"change": overview.change_document(kept), "warning": sentence})

    def _take_change(self, body: bytes, now_ns: int) -> tuple[Change | None, str]:
        """What is stored now and a warning, or None and the reason."""
        known = {(change.id, change.action): change for _, change in self._store.changes()}
        change = changes.parse(body, known, now_ns)
        why = changes.refusal(change, known, now_ns, self._config.history_days)
        if why:
            return None, why
        cohorts = {host.labels.get(COHORT, "") for host in self._fleet.hosts}
        kept = self._store.record_change(change)
        _log.info("change %s %s for cohort %s", kept.id, kept.action, kept.cohort)
        return kept, changes.warning(kept, cohorts)


def heard_until_ns(agents: Iterable[Agent], now_ns: int) -> int:
    """Until when every agent that answers has told all it saw, but no longer ago than REPORTS_WAIT_NS."""
    complete = [agent.complete_until_ns for agent in agents if agent.state == "ok"]
    return max(min([now_ns, *complete]), now_ns - REPORTS_WAIT_NS)


def _settle(future: asyncio.Future[Recorded | Conflict], outcome: Recorded | Conflict | StoreError) -> None:
    if future.done():  # the puller has given up meanwhile
        return
    if isinstance(outcome, StoreError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _clusters_of(fleet: Inventory) -> dict[str, str]:
    return {host.name: host.cluster for host in fleet.hosts}


def _names(factors: tuple[Factor, ...]) -> set[tuple[str, str]]:
    return {(factor.attribute, factor.value) for factor in factors}


async def _harden(request: web.Request, response: web.StreamResponse) -> None:
    """A second wall behind the escaping: no answer can run, load, send or be taken for anything but what it is."""
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"


def _html(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="text/html", charset="utf-8")


def _json(document: Any, status: int = 200) -> web.Response:
    return web.Response(body=json.dumps(document).encode(), content_type="application/json", status=status)


def _refused(status: int, sentence: str) -> web.Response:
    return _json({"error": sentence}, status)
