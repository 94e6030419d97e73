"""An agent that says what a test tells it to, and misbehaves on demand.

It speaks GET /v1/faults on 127.0.0.1 and a free port, in a thread with an event loop of its own, so that tests may
block. Its journals are lists of faults that the test appends to; a seq is a fault's place, counted from 1.
"""

import asyncio
import base64
import json
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from aiohttp import web

from agent.report import AgentHeader, Fault, JournalSpan, MemoryFault, encode

NDJSON = "application/x-ndjson"
Manners = Callable[["ScriptedAgent", web.Request, str], object]  # -> response, or an awaitable of one


class ScriptedAgent:
    """One host's agent. `manners` replaces how the right answer is sent."""

    def __init__(self, host: str = "h1", watching_since_ns: int | None = None) -> None:
        self.host = host
        self.journals: dict[str, list[Fault]] = {f"journal-of-{host}": []}
        self.first_seq: dict[str, int] = {}  # what was trimmed: seqs below are gone
        self.watching = {"dram": time.time_ns() - 60 * 10**9 if watching_since_ns is None else watching_since_ns}
        self.complete_until_ns: int | None = None  # None: now
        self.facts: dict[str, object] = {}
        self.manners: Manners | None = None
        self.tls: ssl.SSLContext | None = None  # None: plain HTTP
        self.requests = 0
        self.port = 0

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def add(self, number: int = 1, journal: str | None = None, **changes: object) -> None:
        """Appends faults to a journal."""
        kept = self.journals.setdefault(journal or next(iter(self.journals)), [])
        for _ in range(number):
            kept.append(replace(fault(len(kept) + 1), **changes))

    def answer(self, after: str | None, limit: int) -> str:
        """The right answer to one request."""
        position = json.loads(base64.urlsafe_b64decode(after)) if after else {}
        now_ns = time.time_ns()
        lines: list[Fault] = []
        spans = []
        for journal, kept in self.journals.items():
            first = self.first_seq.get(journal, 1)
            start = max(position.get(journal, 1), first)
            taken = kept[start - 1 : start - 1 + limit - len(lines)]
            lines += [replace(f, journal=journal, seq=start + n) for n, f in enumerate(taken)]
            position[journal] = start + len(taken)
            spans.append(JournalSpan(journal=journal, first_seq=first, last_seq=len(kept)))
        header = AgentHeader(
            time_ns=now_ns,
            complete_until_ns=now_ns if self.complete_until_ns is None else self.complete_until_ns,
            boot_id="boot",
            host="what an agent calls itself",
            cursor=base64.urlsafe_b64encode(json.dumps(position).encode()).decode(),
            journals=tuple(spans),
            watching=self.watching,
            facts=self.facts,
        )
        return "".join(encode(line) + "\n" for line in (header, *lines))

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        try:
            text = self.answer(request.query.get("after"), int(request.query.get("limit", "1000")))
        except ValueError:
            return web.Response(status=400, text="malformed cursor")
        if self.manners is None:
            return web.Response(text=text, content_type=NDJSON)
        outcome = self.manners(self, request, text)
        return await outcome if asyncio.iscoroutine(outcome) else outcome  # type: ignore[return-value]


class Agents:
    """A context manager that serves several scripted agents."""

    def __init__(self, *agents: ScriptedAgent) -> None:
        self.agents = agents
        self._loop = asyncio.new_event_loop()
        self._runners: list[web.AppRunner] = []
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> "Agents":
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _start(self) -> None:
        for agent in self.agents:
            app = web.Application()
            app.router.add_get("/v1/faults", agent.handle)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=agent.tls).start()
            agent.port = runner.addresses[0][1]
            self._runners.append(runner)

    async def _stop(self) -> None:
        for runner in self._runners:
            await runner.cleanup()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)


def fault(number: int = 1) -> MemoryFault:
    """A corrected memory error, now."""
    return MemoryFault(
        time_ns=time.time_ns(),
        time_error_s=1.0,
        host="advisory",
        device=f"mc0/channel{number % 4}/slot0",
        stream="dram",
        severity="corrected",
        count=1,
        novel=True,
        detail={"label": "CPU0_DIMM_A1"},
    )


# -- manners


def garbage(agent: ScriptedAgent, request: web.Request, text: str) -> object:
    return web.Response(body=b"\xff\xfe{not json\n", content_type=NDJSON)


def wrong_type(agent: ScriptedAgent, request: web.Request, text: str) -> object:
    return web.Response(text=text, content_type="text/html")


def error_500(agent: ScriptedAgent, request: web.Request, text: str) -> object:
    return web.Response(status=500, text="broken")


def huge(agent: ScriptedAgent, request: web.Request, text: str) -> object:
    return web.Response(body=text.encode() + b" " * (3 << 20) + b"\n", content_type=NDJSON)


async def slow(agent: ScriptedAgent, request: web.Request, text: str) -> web.StreamResponse:
    await asyncio.sleep(3600)
    raise AssertionError("cancelled before")


async def cut(agent: ScriptedAgent, request: web.Request, text: str) -> web.StreamResponse:
    """Goes away on a line's end, with most of the answer unsent."""
    response = web.StreamResponse(headers={"Content-Type": NDJSON, "Content-Length": str(len(text))})
    await response.prepare(request)
    await response.write(text[: text.index("\n") + 1].encode())
    assert request.transport is not None
    request.transport.close()
    return response


async def without_length(agent: ScriptedAgent, request: web.Request, text: str) -> web.StreamResponse:
    """The end of the connection is the only mark of the answer's end, and it comes too early, on a line's end."""
    assert request.transport is not None
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {NDJSON}\r\nConnection: close\r\n\r\n"
    request.transport.write((head + text[: text.index("\n") + 1]).encode())
    request.transport.close()
    return web.Response()
