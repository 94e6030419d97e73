"""Pulling: each agent is asked for what is new, and only a whole, sound answer counts.

Enters: the hosts to ask and their cursors. Leaves: Answers, handed to a `commit` function that returns once they are
durable, and per agent a state with one sentence that says what is wrong. A slow, silent or garbled agent delays nobody:
each has at most one request in flight, with bounds on time and size. The session and the clock are the server's.
"""

import asyncio
import logging
import os
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import aiohttp
from yarl import URL

from agent.report import AgentHeader, Fault, Line, MemoryFault, RecordFault, ReportError, decode
from collectors import tls
from collectors.config import CollectorConfig
from collectors.inventory import Host
from collectors.minutes import DAY_NS, MINUTE_NS
from collectors.recording import Conflict, Pulled, Recorded
from collectors.store import StoreError

STATES = ("ok", "silent", "slow", "garbage", "refused", "conflict")
CONTENT_TYPE = "application/x-ndjson"
TICK_S = 0.05  # how finely the requests of one interval are spread
CLOCK_OFF_S = 30.0  # an agent whose clock is further off than this is told about
CHUNK_BYTES = 1 << 16
NOT_ASKED = "not asked yet"
NAMED_MAX = 50  # so many agents whose state changed are named within a pull interval
JOURNALS_MAX = 100  # an agent has two
SEQ_MAX = 2**62  # beyond it the sums of what was lost would outgrow 64 bits

Commit = Callable[[Pulled], Awaitable[Recorded | Conflict]]
_log = logging.getLogger("flipwatch.pull")


class PullError(Exception):
    """One answer that can't be used: the agent's new state and the sentence that says why."""

    def __init__(self, state: str, sentence: str) -> None:
        super().__init__(sentence)
        self.state = state


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer of /v1/faults."""

    header: AgentHeader
    faults: tuple[Fault, ...]


@dataclass(slots=True)
class Agent:
    """One agent as the collector sees it."""

    host: Host
    cursor: str | None = None
    state: str = "silent"
    sentence: str = NOT_ASKED
    faults_max: int = 0  # how many faults to ask for; halved while its answers are too long
    is_in_flight: bool = False
    watching: frozenset[str] = frozenset()  # the streams it watched in its last answer
    complete_until_ns: int = 0  # all it saw before this time has been told
    _url: URL | None = None
    _url_is_of: tuple[object, ...] = ()

    def url(self, usual_scheme: str) -> URL:
        """What to ask. Kept, since an agent without news is asked the same again, and it takes a tenth of a pull."""
        scheme = self.host.labels.get("__scheme__", usual_scheme)
        asked = (scheme, self.host.target, self.cursor, self.faults_max)
        if self._url is None or asked != self._url_is_of:
            query = {"limit": str(self.faults_max)} | ({"after": self.cursor} if self.cursor else {})
            self._url = URL(f"{scheme}://{self.host.target}/v1/faults").with_query(query)
            self._url_is_of = asked
        return self._url


def parse(body: bytes) -> Answer:
    """The answer these bytes hold.

    Raises:
        PullError: it isn't whole or not sound; nothing of it may be used.
    """
    if not body.endswith(b"\n"):
        raise PullError("garbage", "its answer stops in the middle of a line")
    lines = body[:-1].split(b"\n")
    header = _decode(lines[0], 1)
    if not isinstance(header, AgentHeader):
        raise PullError("garbage", "the first line of its answer is not of kind 'agent'")
    if len(header.journals) > JOURNALS_MAX:
        raise PullError("garbage", f"it names {len(header.journals)} journals; more than {JOURNALS_MAX} is no host")
    if any(span.last_seq > SEQ_MAX or span.first_seq > SEQ_MAX for span in header.journals):
        raise PullError("garbage", f"its journals count beyond {SEQ_MAX}")
    faults = tuple(_fault(line, number) for number, line in enumerate(lines[1:], start=2))
    reached: dict[str, int] = {}
    for number, fault in enumerate(faults, start=2):
        assert fault.journal is not None and fault.seq is not None
        if fault.seq > SEQ_MAX:
            raise PullError("garbage", f"line {number} of its answer: seq {fault.seq} is beyond {SEQ_MAX}")
        if fault.seq <= reached.get(fault.journal, -1):
            raise PullError("garbage", f"line {number} of its answer: seq {fault.seq} does not ascend")
        reached[fault.journal] = fault.seq
    return Answer(header, faults)


def _fault(line: bytes, number: int) -> Fault:
    fault = _decode(line, number)
    if not isinstance(fault, MemoryFault | RecordFault):
        raise PullError("garbage", f"line {number} of its answer is no fault")
    if fault.journal is None or fault.seq is None:
        raise PullError("garbage", f"line {number} of its answer lacks journal or seq")
    return fault


def _decode(line: bytes, number: int) -> Line:
    try:
        return decode(line)
    except ReportError as error:
        raise PullError("garbage", f"line {number} of its answer: {error}") from error


class Puller:
    """Asks every agent once per interval, spread evenly over it.

    Raises:
        SettingsError: the files for https can't be used.
    """

    def __init__(
        self, config: CollectorConfig, session: aiohttp.ClientSession, clock_ns: Callable[[], int], commit: Commit
    ) -> None:
        self.agents: dict[str, Agent] = {}  # by host name
        self._config = config
        self._session = session
        self._clock_ns = clock_ns
        self._commit = commit
        self._timeout = aiohttp.ClientTimeout(total=config.pull_timeout_s)
        self._tls = tls.of_agents(config)
        self._slots = asyncio.Semaphore(config.pull_concurrency)
        self._changed: Counter[str] = Counter()  # agents whose state became this one, in this pull interval
        self._buckets: list[list[Agent]] = [[]]
        self._tasks: set[asyncio.Task[None]] = set()

    def set_config(self, config: CollectorConfig) -> None:
        """Takes over other settings, in force from the next `set_hosts` on."""
        self._config = config
        self._timeout = aiohttp.ClientTimeout(total=config.pull_timeout_s)

    def set_hosts(self, hosts: Sequence[Host], cursors: dict[str, str]) -> None:
        """Takes over another inventory; an agent that stays keeps its state, one with a new target is asked there."""
        known, faults_max = self.agents, self._config.pull_faults_max
        self.agents = {
            host.name: known.get(host.name) or Agent(host, cursors.get(host.name), faults_max=faults_max)
            for host in hosts
        }
        self._buckets = [[] for _ in range(max(round(self._config.pull_interval_s / TICK_S), 1))]
        for host in hosts:
            agent = self.agents[host.name]
            agent.host = host
            self._buckets[zlib.crc32(host.name.encode()) % len(self._buckets)].append(agent)

    async def run(self) -> None:
        """Pulls until cancelled; requests in flight are then given up, which loses nothing."""
        loop = asyncio.get_running_loop()
        tick, due_s = 0, loop.time()
        try:
            while True:
                if tick % len(self._buckets) == 0:
                    self._tls.follow()
                    self._end_round()
                for agent in self._buckets[tick % len(self._buckets)]:
                    self._start(agent)
                tick += 1
                due_s += self._config.pull_interval_s / len(self._buckets)
                await asyncio.sleep(max(due_s - loop.time(), 0))
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, agent: Agent) -> None:
        if not agent.is_in_flight:
            agent.is_in_flight = True
            task = asyncio.create_task(self._pull(agent))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pull(self, agent: Agent) -> None:
        try:
            async with self._slots:
                while await self._pull_once(agent):  # what waits is fetched at once
                    pass
        except PullError as error:
            self._note(agent, error.state, str(error))
        except StoreError:
            pass  # the server has said so; nothing was acknowledged, and the agent is asked again
        finally:
            agent.is_in_flight = False

    async def _pull_once(self, agent: Agent) -> bool:
        """One request, made durable; true if the agent has more."""
        answer = parse(await self._fetch(agent))
        now_ns = self._clock_ns()
        host = agent.host
        pulled = Pulled(host.name, host.cluster, answer.header, answer.faults, now_ns, host.labels)
        outcome = await self._commit(pulled)
        if isinstance(outcome, Conflict):
            raise PullError("conflict", outcome.sentence)
        agent.cursor = answer.header.cursor
        agent.watching = frozenset(answer.header.watching)
        agent.complete_until_ns = answer.header.complete_until_ns
        agent.faults_max = min(2 * agent.faults_max, self._config.pull_faults_max)
        for loss in outcome.losses:
            _log.warning("%s lost %d faults of journal %s before they were read", loss.host, loss.faults, loss.journal)
        odd = _times_sentence(answer.faults, now_ns, self._config.history_days)
        if odd:
            _log.warning("%s: %s", host.name, odd)
        self._note(agent, "ok", _clock_sentence(answer.header.time_ns, now_ns) or odd)
        return outcome.is_behind and outcome.faults > 0

    async def _fetch(self, agent: Agent) -> bytes:
        """The body of one answer.

        Raises:
            PullError: no whole answer came, or it isn't one of /v1/faults.
        """
        target, timeout_s = agent.host.target, self._config.pull_timeout_s
        try:
            url = agent.url(self._config.agent_scheme)
            request = self._session.get(url, timeout=self._timeout, allow_redirects=False, ssl=self._tls.context)
            async with request as response:
                _check_head(response, agent)
                return await self._body(response, agent)
        except TimeoutError as error:
            raise PullError("slow", f"gave no whole answer at {target} within {timeout_s:g} s") from error
        except aiohttp.ClientPayloadError as error:
            raise PullError("silent", f"went away at {target} in the middle of its answer") from error
        except aiohttp.ClientSSLError as error:
            raise PullError("refused", f"no trust by TLS at {target}: {_tls_reason(error)}") from error
        except aiohttp.ClientConnectorError as error:
            raise PullError("silent", f"does not answer at {target}: {reason(error.os_error)}") from error
        except (aiohttp.ClientResponseError, aiohttp.InvalidURL) as error:
            raise PullError("garbage", f"does not speak HTTP at {target}: {_one_line(error)}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise PullError("silent", f"went away at {target}: {_one_line(error)}") from error

    async def _body(self, response: aiohttp.ClientResponse, agent: Agent) -> bytes:
        length_max = self._config.answer_mib_max << 20
        if response.content_length is not None and response.content_length <= length_max:
            return await response.read()  # the quick way of nearly every answer
        body = bytearray()
        async for chunk in response.content.iter_chunked(CHUNK_BYTES):
            body += chunk
            if len(body) > length_max:
                agent.faults_max = max(agent.faults_max // 2, 1)  # its faults may be long: ask for fewer
                raise PullError("garbage", f"its answer is longer than answer_mib_max = {self._config.answer_mib_max}")
        return bytes(body)

    def _note(self, agent: Agent, state: str, sentence: str) -> None:
        is_first, is_other = agent.sentence == NOT_ASKED, agent.state != state
        agent.state, agent.sentence = state, sentence
        if is_first and state == "ok":  # at the start of a large fleet this is no news
            return
        if is_first or is_other:
            self._changed[state] += 1
            if self._changed.total() <= NAMED_MAX:
                level = logging.WARNING if state != "ok" else logging.INFO
                _log.log(level, "agent %s is %s%s", agent.host.name, state, f": {sentence}" if sentence else "")

    def _end_round(self) -> None:
        """Sums up a pull interval in which too much changed to be named: a whole site, say, went away."""
        if self._changed.total() > NAMED_MAX:
            numbers = ", ".join(f"{number} are {state}" for state, number in self._changed.most_common())
            _log.warning("agents that changed within %g s: %s", self._config.pull_interval_s, numbers)
        self._changed.clear()


def _check_head(response: aiohttp.ClientResponse, agent: Agent) -> None:
    target = agent.host.target
    if response.status == 400 and agent.cursor:
        agent.cursor = None  # it doesn't know our cursor: from the oldest; what is known is recognised by its seq
    if response.status != 200:
        raise PullError("refused", f"answers with status {response.status} at {target}")
    if response.content_type != CONTENT_TYPE:
        raise PullError("garbage", f"answers with {response.content_type} at {target}, not {CONTENT_TYPE}")
    if response.content_length is None and "chunked" not in response.headers.get("Transfer-Encoding", "").lower():
        # only a closing connection would mark the end, and a cut between two lines would look whole
        raise PullError("garbage", f"answers without a length at {target}")


def _clock_sentence(agent_ns: int, now_ns: int) -> str:
    off_s = (agent_ns - now_ns) / 1e9
    if abs(off_s) <= CLOCK_OFF_S:
        return ""
    return f"its clock is {abs(off_s):.0f} s {'ahead of' if off_s > 0 else 'behind'} the collector's"


def _times_sentence(faults: Sequence[Fault], now_ns: int, history_days: int) -> str:
    """What becomes of faults whose times can't be right; empty if there are none."""
    ahead = sum(fault.time_ns > now_ns + MINUTE_NS for fault in faults)
    past = sum(fault.time_ns < now_ns - history_days * DAY_NS for fault in faults)
    parts = [f"{ahead} of {len(faults)} new faults lie in the future and wait until then"] if ahead else []
    parts += [f"{past} of {len(faults)} new faults are older than history_days and only counted"] if past else []
    return ", ".join(parts)


def reason(error: OSError) -> str:
    """Why a connection failed, in the system's words."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else _one_line(error)


def _tls_reason(error: aiohttp.ClientSSLError) -> str:
    """Why a handshake failed: the certificate isn't believed, or something else."""
    cause = getattr(error, "certificate_error", error.__cause__) or error
    return getattr(cause, "verify_message", "") or getattr(cause, "reason", "") or _one_line(cause)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
