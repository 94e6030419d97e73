import gzip
import json
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from agent.report import AgentHeader, Alive, Change, MemoryFault, decode, encode
from collectors.commands_history import _text, simulate
from collectors.commands_history import replay as replay_command
from collectors.commands_plot import plot
from collectors.correlator import Correlator
from collectors.history import TROUBLES_KEPT, read, replay, watching
from collectors.inventory import load
from collectors.minutes import MINUTE_NS
from collectors.revision import Revision
from tests.collectors.bursts import revision
from tests.collectors.fleets import CITIES, fault, off_deg, twelve

NAMES = ("a", "b")
FIRST = 29_000_000


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    """An inventory of twelve clusters with two hosts each, and 15 days of its history that end with a burst."""
    folder = tmp_path_factory.mktemp("replay")
    groups = [
        {
            "targets": [f"{cluster.name}-h{number}:9861" for number in (1, 2)],
            "labels": {
                "cluster": cluster.name,
                "latitude": str(cluster.latitude_deg),
                "longitude": str(cluster.longitude_deg),
            },
        }
        for cluster in twelve()
    ]
    (folder / "inventory.json").write_text(json.dumps(groups))
    options = ["--fleet", folder / "inventory.json", "--out", folder / "history.ndjson", "--seed", 3]
    options += ["--end", "2026-11-23T18:00:00Z", "--novel-per-host-hour", 0.05, "--burst-at", "2026-11-23T17:00:00Z"]
    options += ["--burst-latitude", 50, "--burst-longitude", 30, "--burst-amplitude", 800]
    result = CliRunner().invoke(simulate, [str(option) for option in options])
    assert result.exit_code == 0, result.output
    return folder


def run(folder, *options, history="history.ndjson"):
    arguments = [str(folder / history), "--inventory", str(folder / "inventory.json"), *options]
    return CliRunner().invoke(replay_command, arguments)


def test_replay_finds_the_simulated_burst(fleet):
    result = run(fleet, "--json")
    assert result.exit_code == 0, result.output
    bursts = json.loads(result.stdout)["bursts"]
    last = Revision.from_document(bursts[-1])
    assert bursts[0]["kind"] == "new" and len({burst["burst_id"] for burst in bursts}) == 1
    assert last.label == "celestial" and off_deg(last, 50, 30) < 30
    assert bursts[-1]["t_start"].startswith("2026-11-23T1") and last.far_per_year < 0.01


def test_replay_tells_it_to_people_too(fleet):
    result = run(fleet)
    assert result.exit_code == 0 and "celestial" in result.stdout and "false alarms a year" in result.stdout
    assert "extrapolated from 14 days" in result.stdout
    assert "coherent with RA" in result.stdout


def test_replay_tells_of_a_likelier_cause_that_is_not_named():
    told = _text(revision(label="region", posterior={"region": 0.08, "celestial": 0.92}))
    assert ": region (8%; celestial, 92%, isn't sure enough to be named), " in told
    assert "named" not in _text(revision())


def test_a_burst_of_a_history_is_drawn(fleet):
    burst_id = json.loads(run(fleet, "--json").stdout)["bursts"][-1]["burst_id"]
    arguments = [burst_id, "--history", fleet / "history.ndjson", "--inventory", fleet / "inventory.json"]
    result = CliRunner().invoke(plot, [str(argument) for argument in [*arguments, "--out", fleet / "burst.svg"]])
    assert result.exit_code == 0, result.output
    assert burst_id in (fleet / "burst.svg").read_text()


def test_any_order_of_lines_gives_the_same_revisions(fleet):
    lines = (fleet / "history.ndjson").read_text().splitlines()
    random.Random(1).shuffle(lines)
    (fleet / "shuffled.ndjson").write_text("\n".join(lines))
    assert run(fleet, "--json", history="shuffled.ndjson").stdout == run(fleet, "--json").stdout


def test_stepping_over_quiet_minutes_changes_nothing(fleet):
    inventory = load(fleet / "inventory.json")
    history = read(fleet / "history.ndjson", inventory.cluster_names)
    sparse = list(replay(history, Correlator(inventory.clusters)))
    live = Correlator(inventory.clusters)
    days = list(watching(history, "dram", inventory.cluster_names))
    for first, hosts in days:
        live.minutes.set_watching("dram", first, hosts)
    for one in history.faults:
        live.minutes.observe(one)
    minutes = range(days[0][0], days[-1][0] + len(days[-1][1]))
    every = [r for minute in minutes for r in live.step((minute + 1) * MINUTE_NS - 1)]
    assert every == sparse and every


def test_garbage_is_counted_and_named_and_never_fatal(fleet):
    good = (fleet / "history.ndjson").read_bytes()
    cut = good.index(b"\n", len(good) // 2) + 1
    stranger = encode(Alive(time_ns=1, cluster="nowhere", hosts_up=1, hosts=1)).encode()
    garbage = b"\n".join([b'{"kind":"memory","time', b"\xff\xfe\x00", b"[]", b"", stranger, b""])
    (fleet / "damaged.ndjson").write_bytes(good[:cut] + garbage + good[cut:] + b'{"kind":"memo')
    result = run(fleet, "--json", history="damaged.ndjson")
    number = good[:cut].count(b"\n")
    assert result.exit_code == 0 and result.stdout == run(fleet, "--json").stdout
    assert "5 lines couldn't be used" in result.stderr
    for offset in (1, 2, 3, 5):
        assert f"line {number + offset}: " in result.stderr
    assert "cluster 'nowhere' isn't in the inventory" in result.stderr


def numbered(fleet):
    """The history's lines, its faults as an agent's journals hold them."""
    lines = [decode(line) for line in (fleet / "history.ndjson").read_bytes().splitlines()]
    return [
        replace(line, journal="j", seq=number) if isinstance(line, MemoryFault) else line
        for number, line in enumerate(lines)
    ]


def test_a_fault_that_comes_twice_under_its_journal_and_seq_counts_once(fleet):
    once = numbered(fleet)
    faults = [line for line in once if isinstance(line, MemoryFault)]
    (fleet / "twice.ndjson").write_text("\n".join(map(encode, [*faults, *once])))
    result = run(fleet, "--json", history="twice.ndjson")
    assert result.exit_code == 0 and result.stdout == run(fleet, "--json").stdout
    assert f"{len(faults)} faults came again under their journal and seq; each counts once" in result.stderr


def test_a_journal_at_two_hosts_is_named_and_counts_once(fleet):
    twin = next(line for line in numbered(fleet) if isinstance(line, MemoryFault))
    lines = [*numbered(fleet), replace(twin, host="twin", time_ns=twin.time_ns + 1)]
    (fleet / "twin.ndjson").write_text("\n".join(map(encode, lines)))
    result = run(fleet, "--json", history="twin.ndjson")
    assert result.exit_code == 0 and result.stdout == run(fleet, "--json").stdout
    assert (
        f"line {len(lines)}: fault {twin.seq} of journal j is seen at two hosts, {twin.host} and twin" in result.stderr
    )


def test_what_is_odd_about_the_inventory_is_said(fleet):
    groups = json.loads((fleet / "inventory.json").read_text())
    groups[1]["labels"] |= {key: groups[0]["labels"][key] for key in ("latitude", "longitude")}
    (fleet / "odd.json").write_text(json.dumps(groups))
    arguments = [str(fleet / "history.ndjson"), "--inventory", str(fleet / "odd.json")]
    result = CliRunner().invoke(replay_command, arguments)
    assert result.exit_code == 0 and "stand at one place, so no direction can tell them apart" in result.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no usable line"),
        ("junk\n", "holds no usable line"),
        (encode(fault(FIRST, "ams1")), "no 'alive' line"),
    ],
)
def test_a_history_that_says_nothing_is_trouble(fleet, text, words):
    (fleet / "poor.ndjson").write_text(text)
    result = run(fleet, history="poor.ndjson")
    assert result.exit_code == 2 and words in result.stderr and "Traceback" not in result.output


def test_a_file_that_is_not_there_is_trouble(fleet):
    result = run(fleet, history="none.ndjson")
    assert result.exit_code == 2 and "can't read the history: No such file" in result.stderr


def test_a_short_history_raises_nothing_and_says_why(tmp_path):
    alive = [Alive(time_ns=minute * MINUTE_NS, cluster="ams1", hosts_up=5, hosts=5) for minute in (FIRST, FIRST + 2880)]
    lines = [*alive, fault(FIRST + 7, "ams1", novel=False)]
    (tmp_path / "history.ndjson").write_text("\n".join(encode(line) for line in lines))
    (tmp_path / "inventory.json").write_bytes(CITIES.read_bytes())
    result = run(tmp_path)
    assert result.exit_code == 0 and result.stdout == "no burst\n"
    assert "2.0 days of history; nothing is raised before 14 days" in result.stderr


def history_of(tmp_path, *lines):
    path = tmp_path / "history.ndjson"
    path.write_text("\n".join(line if isinstance(line, str) else encode(line) for line in lines))
    return read(path, NAMES)


def alive(minute, cluster, hosts_up, **other):
    return Alive(time_ns=minute * MINUTE_NS, cluster=cluster, hosts_up=hosts_up, hosts=9, **other)


def test_the_lines_that_the_readme_shows_are_a_history(tmp_path):
    readme = (Path(__file__).parents[2] / "collectors/README.md").read_text()
    shown = readme.partition("## Histories")[2].partition("(Here")[0]
    objects = re.findall(r"^    (\{.*?\})$(?=\n(?:    \{|\n))", shown, re.DOTALL | re.MULTILINE)
    (tmp_path / "shown.ndjson").write_text("\n".join(one.replace("\n", " ") for one in objects))
    history = read(tmp_path / "shown.ndjson", ["fra1"])
    assert [len(kind) for kind in (history.faults, history.alive, history.changes)] == [2, 1, 1]
    assert history.troubles == []


def test_alive_holds_until_the_cluster_s_next_and_before_its_first_nobody_watches(tmp_path):
    history = history_of(
        tmp_path,
        alive(FIRST + 4, "b", 7),
        alive(FIRST, "a", 5),
        alive(FIRST + 2, "a", 0),
        fault(FIRST + 5, "a"),
    )
    ((first, hosts),) = watching(history, "dram", NAMES)
    assert first == FIRST
    assert hosts.tolist() == [[5, 0], [5, 0], [0, 0], [0, 0], [0, 7], [0, 7]]


def test_alive_may_differ_by_stream(tmp_path):
    history = history_of(tmp_path, alive(FIRST, "a", 5, streams={"dram": 3}), alive(FIRST, "b", 4))
    assert history.streams == ("dram",)
    assert [hosts.tolist() for _, hosts in watching(history, "dram", NAMES)] == [[[3, 4]]]
    assert [hosts.tolist() for _, hosts in watching(history, "sram", NAMES)] == [[[0, 4]]]


def test_exposure_comes_a_day_at_a_time_however_many_lines_tell_it(tmp_path):
    every_hour = [alive(FIRST + hour * 60, "a", hour) for hour in range(60)]
    history = history_of(tmp_path, *every_hour, alive(FIRST + 1500, "b", 7))
    days = list(watching(history, "dram", NAMES))
    assert [(first, len(hosts)) for first, hosts in days] == [(FIRST, 1440), (FIRST + 1440, 1440), (FIRST + 2880, 661)]
    told = np.concatenate([hosts for _, hosts in days])
    assert told[:, 0].tolist() == [minute // 60 for minute in range(60 * 59 + 1)]
    assert told[:, 1].tolist() == [7 * (minute >= 1500) for minute in range(60 * 59 + 1)]


def test_changes_are_kept(tmp_path):
    change = Change(time_ns=FIRST * MINUTE_NS, id="c1", action="open", cohort="firmware-2026.10")
    assert history_of(tmp_path, change).changes == [change]


def test_a_broken_time_does_not_stretch_the_history(tmp_path):
    good = [fault(FIRST + minute, "a") for minute in range(5)]
    history = history_of(tmp_path, alive(0, "a", 5), *good, alive(10**8, "a", 5))
    assert history.faults == good and not history.alive
    assert history.last_time_ns == good[-1].time_ns and history.bad_lines == 2
    assert "line 1: " in history.troubles[0] and "400 days" in history.troubles[0]


def test_an_agent_s_header_or_a_fault_without_cluster_does_not_belong_in_a_history(tmp_path):
    header = AgentHeader(
        time_ns=1, complete_until_ns=1, boot_id="b", host="h", cursor="c", journals=(), watching={"dram": 1}
    )
    history = history_of(tmp_path, header, replace(fault(FIRST, "a"), cluster=None))
    assert history.bad_lines == 2 and not history.faults
    assert "doesn't belong" in history.troubles[0] and "lacks the key 'cluster'" in history.troubles[1]


def test_an_endless_line_is_one_bad_line_and_troubles_are_bounded(tmp_path):
    history = history_of(tmp_path, "x" * 5_000_000, *[f"junk {n}" for n in range(100)], fault(FIRST, "a"))
    assert history.bad_lines == 101 and len(history.troubles) == TROUBLES_KEPT and len(history.faults) == 1
    assert history.unnamed == 101 - TROUBLES_KEPT


def test_a_reason_is_told_once_however_many_lines_have_it(tmp_path):
    strangers = [fault(FIRST + n, "nowhere") for n in range(500)]
    history = history_of(tmp_path, fault(FIRST, "a"), *strangers, "junk")
    assert history.troubles == [
        "line 2 and 499 more: cluster 'nowhere' isn't in the inventory, or has no coordinates there",
        "line 502: not JSON: b'junk'",
    ]
    assert (history.bad_lines, history.unnamed) == (501, 0)


def test_a_file_that_is_no_history_is_one_sentence(fleet):
    compressed = gzip.compress((fleet / "history.ndjson").read_bytes())
    for content, words in (
        (compressed, "(line 1: compressed by gzip; unpack it first); is it a history file?"),
        (b"\0\xff" * 5000, "holds no usable line (line 1: not JSON: "),
        (b"", "holds no usable line; is it a history file?"),
    ):
        (fleet / "strange").write_bytes(content)
        result = run(fleet, history="strange")
        assert result.exit_code == 2 and words in result.stderr and result.stderr.count("\n") == 1


def test_a_history_without_faults_is_quiet_and_says_why(fleet):
    quiet = [alive(FIRST + day * 1440, twelve()[0].name, 2) for day in range(20)]
    (fleet / "quiet.ndjson").write_text("\n".join(map(encode, quiet)))
    result = run(fleet, "--json", history="quiet.ndjson")
    assert result.exit_code == 0 and json.loads(result.stdout) == {"bursts": []}
    assert "holds no fault and names no stream" in result.stderr and "days" not in result.stderr
