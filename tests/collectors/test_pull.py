"""Pulling: only a whole and sound answer counts, and one bad agent never holds up the others."""

import asyncio
import contextlib
import json
import socket
import ssl
import time
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from agent.report import encode
from collectors.config import CollectorConfig
from collectors.inventory import Host
from collectors.pull import NAMED_MAX, SEQ_MAX, Puller, PullError, parse
from collectors.recording import Conflict, Pulled, Recorded
from collectors.store import Store, StoreError
from tests.certificates import Authority, Pair
from tests.collectors import scripted_agent
from tests.collectors.scripted_agent import Agents, ScriptedAgent

DEADLINE_S = 15


def answer(number: int = 2) -> bytes:
    agent = ScriptedAgent()
    agent.add(number)
    return agent.answer(None, 1000).encode()


def test_a_whole_answer_is_taken():
    taken = parse(answer(3))
    assert [fault.seq for fault in taken.faults] == [1, 2, 3]
    assert taken.header.host == "what an agent calls itself"


def test_an_answer_cut_inside_a_line_is_not():
    body = answer(3)
    for cut in range(len(body)):
        with contextlib.suppress(PullError):
            assert len(parse(body[:cut]).faults) == body[:cut].count(b"\n") - 1
            assert body[cut - 1 : cut] == b"\n"  # only the length that HTTP gives can tell such a cut


SPAN = {"journal": "j", "first_seq": 1, "last_seq": 0}


def changed(body: bytes, line: int, **changes) -> bytes:
    lines = body.splitlines()
    document = json.loads(lines[line]) | changes
    lines[line] = json.dumps({key: value for key, value in document.items() if value is not None}).encode()
    return b"\n".join(lines) + b"\n"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "middle of a line"),
        (b"\n", "line 1 of its answer: not JSON"),
        (answer(1).splitlines(keepends=True)[1], "not of kind 'agent'"),
        (answer(1) + answer(0), "line 3 of its answer is no fault"),
        (changed(answer(2), 1, seq=2), "line 3 of its answer: seq 2 does not ascend"),
        (changed(answer(2), 2, journal=None), "line 3 of its answer lacks journal or seq"),
        (changed(answer(2), 2, seq=SEQ_MAX + 1), "is beyond"),
        (changed(answer(2), 0, journals=[{"journal": "j", "first_seq": 1, "last_seq": 2**63 - 1}]), "count beyond"),
        (changed(answer(2), 0, journals=[SPAN | {"journal": str(n)} for n in range(101)]), "names 101 journals"),
        (changed(answer(2), 1, detail={"x": float("nan")}), "line 2 of its answer: not JSON"),
        (changed(answer(2), 1, detail={"x": "\ud800"}), "line 2 of its answer: memory: detail"),
        (changed(answer(2), 1, time_ns=None), "lacks the key 'time_ns'"),
        (changed(answer(2), 1, device="\ud800"), "not valid Unicode"),
    ],
)
def test_what_is_not_sound_is_garbage_and_says_why(body, words):
    with pytest.raises(PullError, match=words) as caught:
        parse(body)
    assert caught.value.state == "garbage"


def config(tmp_path, **changes) -> CollectorConfig:
    values = {"pull_interval_s": 0.2, "pull_timeout_s": 0.5, "pull_faults_max": 10, "answer_mib_max": 2}
    return CollectorConfig(inventory=tmp_path / "i", state_dir=tmp_path, **(values | changes))


def inventory_of(*agents: ScriptedAgent) -> list[Host]:
    return [Host(agent.target, agent.host, "fra", {"__scheme__": "https"} if agent.tls else {}) for agent in agents]


def pull_until(done, store: Store, settings: CollectorConfig, hosts: list[Host], commit=None) -> Puller:
    """Pulls into the store until `done(puller)` holds; fails after a generous time."""

    async def into_store(answer: Pulled) -> Recorded | Conflict:
        (outcome,) = store.record([answer], {host.name for host in hosts})
        return outcome

    async def run() -> Puller:
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            puller = Puller(settings, session, time.time_ns, commit or into_store)
            puller.set_hosts(hosts, store.cursors())
            task = asyncio.create_task(puller.run())
            end_s = time.monotonic() + DEADLINE_S
            while not done(puller) and time.monotonic() < end_s:
                await asyncio.sleep(0.02)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert done(puller), {name: (agent.state, agent.sentence) for name, agent in puller.agents.items()}
            return puller

    return asyncio.run(run())


@pytest.fixture
def store(tmp_path):
    with contextlib.closing(Store(tmp_path / "collector.sqlite3")) as opened:
        yield opened


def stored(store: Store, host: str) -> list[int | None]:
    return sorted(found.fault.seq for found in store.latest_faults(10**6) if found.fault.host == host)


def over_tls(host: str, pair: Pair, client_ca: Path | None = None) -> ScriptedAgent:
    agent = ScriptedAgent(host)
    agent.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=client_ca)
    agent.tls.load_cert_chain(pair.cert, pair.key)
    agent.tls.verify_mode = ssl.CERT_REQUIRED if client_ca else ssl.CERT_NONE
    agent.add(3)
    return agent


def test_agents_are_pulled_by_tls_where_the_inventory_says_so(store, tmp_path):
    ours, stranger = Authority(tmp_path / "ours"), Authority(tmp_path / "stranger")
    pair, client = ours.sign("agent"), ours.sign("collector")
    plain, bad = ScriptedAgent("plain"), over_tls("stranger", stranger.sign("agent"))
    plain.add(3)
    late, choosy = over_tls("late", ours.sign("late", days=0)), over_tls("choosy", pair, stranger.cert)
    good = over_tls("tls", pair), over_tls("mutual", pair, ours.cert)
    settings = config(
        tmp_path,
        agent_ca_file=ours.cert,
        agent_cert_file=client.cert,
        agent_key_file=client.key,
        pull_timeout_s=5,  # a handshake on a busy machine
    )
    words = {"stranger": "local issuer certificate", "late": "certificate has expired", "choosy": ""}

    def done(puller: Puller) -> bool:
        taken = all(len(stored(store, agent.host)) == 3 for agent in (plain, *good))
        agents = puller.agents
        return taken and all(agents[h].state != "ok" and words[h] in agents[h].sentence for h in words)

    with Agents(plain, bad, late, choosy, *good):
        puller = pull_until(done, store, settings, inventory_of(plain, bad, late, choosy, *good))
    assert puller.agents["late"].state == puller.agents["stranger"].state == "refused"
    assert not any("\n" in agent.sentence for agent in puller.agents.values())
    assert not any(stored(store, host) for host in words), "nothing was taken from those that aren't believed"


def test_agent_scheme_holds_for_targets_without_a_label(store, tmp_path):
    authority = Authority(tmp_path / "ca")
    agent = over_tls("tls", authority.sign("agent"))
    with Agents(agent):
        settings = config(tmp_path, agent_scheme="https", agent_ca_file=authority.cert, pull_timeout_s=5)
        pull_until(lambda _: len(stored(store, "tls")) == 3, store, settings, [Host(agent.target, "tls", "fra")])


MISBEHAVIOURS = [
    (scripted_agent.garbage, "garbage", "not JSON"),
    (scripted_agent.wrong_type, "garbage", "text/html"),
    (scripted_agent.error_500, "refused", "status 500"),
    (scripted_agent.huge, "garbage", "answer_mib_max = 2"),
    (scripted_agent.slow, "slow", "within 0.5 s"),
    (scripted_agent.cut, "silent", "in the middle of its answer"),
    (scripted_agent.without_length, "garbage", "without a length"),
]


def test_bad_agents_are_named_and_the_others_flow_and_nothing_is_lost(store, tmp_path):
    bad = [ScriptedAgent(f"bad-{manners.__name__}") for manners, *_ in MISBEHAVIOURS]
    for agent, (manners, *_) in zip(bad, MISBEHAVIOURS, strict=True):
        agent.manners = manners
        agent.add(25)
    good = ScriptedAgent("good")
    good.add(35)
    settings = config(tmp_path, pull_concurrency=3)
    with Agents(good, *bad):
        hosts = inventory_of(good, *bad)

        def all_judged(puller: Puller) -> bool:
            states = [puller.agents[agent.host].state for agent in bad]
            judged = states == [state for _, state, _ in MISBEHAVIOURS]
            return judged and all(agent.requests for agent in bad) and len(stored(store, "good")) == 35

        puller = pull_until(all_judged, store, settings, hosts)
        for agent, (_, _, words) in zip(bad, MISBEHAVIOURS, strict=True):
            assert words in puller.agents[agent.host].sentence
            assert stored(store, agent.host) == []
        for agent in bad:
            agent.manners = None
        pull_until(lambda _: all(len(stored(store, agent.host)) == 25 for agent in bad), store, settings, hosts)
    assert store.losses() == []


def test_nobody_there_is_silent(store, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        hosts = [Host(f"127.0.0.1:{taken.getsockname()[1]}", "h1", "fra")]
        puller = pull_until(lambda p: p.agents["h1"].sentence != "not asked yet", store, config(tmp_path), hosts)
    assert puller.agents["h1"].state == "silent"
    assert "refused" in puller.agents["h1"].sentence.lower()


def test_what_waits_is_fetched_at_once(store, tmp_path):
    agent = ScriptedAgent("h1")
    agent.add(95)
    with Agents(agent):
        settings = config(tmp_path, pull_interval_s=3600.0)
        # an hour's interval: all of it must come in the first visit, which the spread may put anywhere in it
        hosts = inventory_of(agent)
        puller_hosts = [hosts[0]]

        async def run() -> None:
            async with aiohttp.ClientSession() as session:

                async def commit(answer: Pulled) -> Recorded | Conflict:
                    return store.record([answer], {"h1"})[0]

                puller = Puller(settings, session, time.time_ns, commit)
                puller.set_hosts(puller_hosts, {})
                await puller._pull(puller.agents["h1"])

        asyncio.run(run())
    assert stored(store, "h1") == list(range(1, 96))
    assert agent.requests == 10


def test_too_long_answers_are_asked_for_in_smaller_ones(store, tmp_path):
    agent = ScriptedAgent("h1")
    agent.add(40, detail={"long": "x" * 200_000})
    with Agents(agent):
        settings = config(tmp_path, pull_faults_max=40, answer_mib_max=1)
        pull_until(lambda _: len(stored(store, "h1")) == 40, store, settings, inventory_of(agent))


def test_an_agent_that_forgot_our_cursor_is_asked_from_its_oldest(store, tmp_path):
    agent = ScriptedAgent("h1")
    agent.add(4)

    with Agents(agent):
        hosts = inventory_of(agent)
        header = replace(parse(answer(0)).header, cursor="stale", journals=())
        store.record([Pulled("h1", "fra", header, (), 1)], {"h1"})
        pull_until(lambda _: len(stored(store, "h1")) == 4, store, config(tmp_path), hosts)


def test_an_answer_that_could_not_be_stored_is_asked_for_again(store, tmp_path):
    agent = ScriptedAgent("h1")
    agent.add(4)
    refusals = iter(range(3))

    async def commit(answer: Pulled) -> Recorded | Conflict:
        if next(refusals, None) is not None:
            raise StoreError("disk full")
        return store.record([answer], {"h1"})[0]

    with Agents(agent):
        hosts = inventory_of(agent)
        pull_until(lambda _: len(stored(store, "h1")) == 4, store, config(tmp_path), hosts, commit)
    assert store.losses() == []


def test_a_journal_at_two_hosts_is_a_conflict_that_names_both(store, tmp_path):
    one, two = ScriptedAgent("h1"), ScriptedAgent("h2")
    two.journals = {"journal-of-h1": []}
    one.add(3)
    two.add(3)
    with Agents(one, two):
        store.record([Pulled("h1", "fra", parse(one.answer(None, 1000).encode()).header, (), 1)], {"h1"})
        hosts = inventory_of(one, two)
        puller = pull_until(lambda p: p.agents["h2"].state == "conflict", store, config(tmp_path), hosts)
    assert "h1" in puller.agents["h2"].sentence and "h2" in puller.agents["h2"].sentence
    assert stored(store, "h2") == []


def test_a_clock_that_is_off_is_said(store, tmp_path):
    agent = ScriptedAgent("h1")

    def an_hour_ahead(_agent, request, text):
        lines = text.splitlines()
        header = json.loads(lines[0])
        header["time_ns"] += 3600 * 10**9
        return scripted_agent.web.Response(text=json.dumps(header) + "\n", content_type=scripted_agent.NDJSON)

    agent.manners = an_hour_ahead
    with Agents(agent):
        puller = pull_until(lambda p: "clock" in p.agents["h1"].sentence, store, config(tmp_path), inventory_of(agent))
    assert "3600 s ahead" in puller.agents["h1"].sentence and puller.agents["h1"].state == "ok"


def test_hosts_that_stay_keep_their_state_and_the_visits_are_spread(store, tmp_path):
    async def run() -> None:
        async with aiohttp.ClientSession() as session:
            puller = Puller(config(tmp_path, pull_interval_s=10.0), session, time.time_ns, None)  # type: ignore[arg-type]
            hosts = [Host(f"h{n}:1", f"h{n}", "fra") for n in range(2000)]
            puller.set_hosts(hosts, {"h1": "c1"})
            sizes = [len(bucket) for bucket in puller._buckets]
            assert sum(sizes) == 2000 and max(sizes) < 40  # ten a bucket on average
            kept = puller.agents["h1"]
            puller.set_hosts([Host("elsewhere:1", "h1", "nyc"), hosts[2]], {})
            assert puller.agents["h1"] is kept and kept.host.target == "elsewhere:1" and kept.cursor == "c1"
            assert puller.agents.keys() == {"h1", "h2"}

    asyncio.run(run())


def test_the_scripted_agent_speaks_as_the_report_says():
    agent = ScriptedAgent()
    agent.add(3)
    agent.first_seq = {"journal-of-h1": 2}
    parsed = parse(agent.answer(None, 2).encode())
    assert [encode(fault) for fault in parsed.faults] and [fault.seq for fault in parsed.faults] == [2, 3]


def test_a_site_that_goes_away_is_named_in_part_and_counted_whole(store, tmp_path, caplog):
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))  # nobody listens there
        port = unheard.getsockname()[1]
        hosts = [Host(f"127.0.0.1:{port}", f"h{number}", "fra", {}) for number in range(3 * NAMED_MAX)]

        def told() -> list[str]:
            return [record.getMessage() for record in caplog.records]

        settings = config(tmp_path, pull_interval_s=2)
        pull_until(lambda puller: any("that changed" in line for line in told()), store, settings, hosts)
    named = [line for line in told() if line.startswith("agent h")]
    (counted,) = [line for line in told() if "that changed" in line]
    assert NAMED_MAX <= len(named) < len(hosts) and all("does not answer" in line for line in named)
    assert counted.startswith("agents that changed within 2 s: ") and counted.endswith(" are silent")
