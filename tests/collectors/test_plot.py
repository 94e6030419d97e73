"""The picture of a burst: what it says, that it is the same each time, and the command as a person meets it."""

import html
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from collectors.commands import bursts
from collectors.factors import Factor
from collectors.inventory import Cluster
from collectors.mapping import Timeline, around, timeline
from collectors.minutes import MINUTE_NS, minute_of
from collectors.notify import WHAT
from collectors.plot import LABELS_MAX, headline, render
from collectors.revision import ClusterShare
from collectors.store import Store
from tests.collectors.bursts import CELESTIAL, START_NS, revision
from tests.collectors.fleets import cities, fault
from tests.collectors.running import write_config

PLACES = (Cluster("fra", 50.1, 8.7), Cluster("nyc", 40.7, -74.0), Cluster("syd", -33.9, 151.2))


def line(burst, minutes: int | None = None) -> Timeline:
    first, end = around(burst)
    return Timeline(first, np.ones(end - first, np.int64)[:minutes], 0.25)


def texts(burst, clusters=PLACES, minutes: int | None = None) -> list[str]:
    """Every text of the picture; matplotlib writes each as a comment beside its outline."""
    image = render(burst, clusters, line(burst, minutes), "svg").decode()
    ElementTree.fromstring(image)
    return [html.unescape(text) for text in re.findall(r"<!-- (.*?) -->", image, re.DOTALL)]


def has(found: list[str], *wanted: str) -> None:
    for words in wanted:
        assert any(words in text for text in found), f"{words!r} is missing in {found}"


def test_the_headline_is_modest_and_honest():
    found = texts(CELESTIAL)
    has(found, "coherent with direction RA 84°, Dec +22° (celestial, 96.0 %)")
    has(found, "Chance alone does this about 0.004 times a year (extrapolated from 15 days)")
    has(found, "2026-11-23 17:07 to 17:17 UTC", "9 novel faults in the best 10 minutes", "90 %: 900 deg²")
    has(found, "fra 6", "nyc 3", "observed / expected")
    assert "no data" not in found
    assert "supernova" not in " ".join(found) and not any(text.startswith("syd") for text in found)


def test_with_a_trusted_history_nothing_is_extrapolated():
    assert "extrapolated" not in headline(revision(extrapolated_from_days=None))[1]


@pytest.mark.parametrize("label", [label for label in WHAT if label != "celestial"])
def test_every_cause_has_its_words(label):
    title, below = headline(revision(label=label, posterior=dict.fromkeys(WHAT, 0.0) | {label: 1.0}, kind="update"))
    assert title == f"Burst 20261123T1707Z: {WHAT[label]} ({label}, > 99.9 %)" and below.endswith("revision 1")


def test_a_likelier_cause_that_was_held_back_is_told():
    title, _ = headline(revision(label="region", posterior={"region": 0.08, "celestial": 0.92}))
    assert title.endswith("in one region (region, 8.0 %; celestial, 92.0 %, isn't sure enough to be named)")


def test_a_burst_over_midnight_names_both_days():
    assert "2026-11-23 17:07 to 2026-11-24 01:07" in headline(revision(t_end_ns=START_NS + 480 * MINUTE_NS))[1]


def test_where_the_cutoff_is_the_cause_it_is_drawn():
    found = texts(revision(label="low-cutoff", posterior={"low-cutoff": 0.9, "celestial": 0.1}))
    has(found, "cutoff in GV", "were it one (10.0 %)")
    assert "night" not in found


def test_a_retracted_burst_says_so_in_both_places():
    found = texts(revision(kind="retract"), PLACES[:1])
    assert sum("RETRACTED" in text for text in found) == 2
    has(found, "not shown: 2 clusters that the inventory no longer has")


@pytest.mark.parametrize("image_format", ["png", "svg"])
def test_the_same_burst_gives_the_same_bytes(image_format):
    first, second = (render(CELESTIAL, PLACES, line(CELESTIAL), image_format) for _ in range(2))
    assert first == second and len(first) > 50_000
    if image_format == "png":
        assert first.startswith(b"\x89PNG") and b"tEXt" not in first
    else:
        assert b"dc:date" not in first


def test_names_are_only_drawn():
    names = ("$\\frac{$\n", "日本東京", "<script>&", "\u202eevil", "x" * 300, "--", "%s {0}", "]]>")
    clusters = tuple(replace(c, name=name) for c, name in zip(cities().clusters, names, strict=False))
    shares = tuple(ClusterShare(name, 9 - i, 0.01) for i, name in enumerate(names))
    factor = Factor("rack", "$r_$\n", 3, 4, 5, 6, 0.001, 0.01)
    found = texts(revision(burst_id="$\\x$", clusters=shares, factors=(factor,)), clusters)
    has(found, "Burst $\\x$:", "$\\frac{$□ 9", "rack=$r_$□ 3 of 4")
    assert max(len(text) for text in found) < 200


def test_minutes_without_data_are_marked():
    has(texts(CELESTIAL, minutes=35), "no data")


def test_a_burst_in_which_nobody_saw_more_than_expected_and_nothing_is_known():
    shares = tuple(replace(share, observed=0) for share in CELESTIAL.clusters)
    found = texts(revision(clusters=shares), minutes=0)
    has(found, "no data")
    assert "observed / expected" not in found


def test_thousands_of_clusters():
    random = np.random.default_rng(1)
    clusters = tuple(
        Cluster(f"c{n}", float(random.uniform(-60, 70)), float(random.uniform(-180, 180))) for n in range(1500)
    )
    shares = tuple(ClusterShare(c.name, int(random.poisson(0.3)), 0.1) for c in clusters)
    labels = [text for text in texts(revision(clusters=shares), clusters) if re.fullmatch(r"c\d+ \d+", text)]
    assert 3 < len(labels) <= LABELS_MAX


# -- the command


def run(*arguments: object) -> Result:
    return CliRunner().invoke(bursts, ["plot", *map(str, arguments)])


@pytest.fixture
def config(tmp_path) -> Path:
    groups = [
        {
            "targets": [f"{c.name}-h1:9861"],
            "labels": {"cluster": c.name, "latitude": str(c.latitude_deg), "longitude": str(c.longitude_deg)},
        }
        for c in PLACES
    ]
    inventory = tmp_path / "inventory.json"
    inventory.write_text(json.dumps(groups))
    path = write_config(tmp_path, inventory)
    store = Store(tmp_path / "state" / "collector.sqlite3")
    retracted = revision(rev=2, kind="retract")
    store.record_step([CELESTIAL, retracted], {}, {})
    store.close()
    return path


def test_a_stored_burst_is_drawn_in_both_formats(tmp_path, config):
    result = run(CELESTIAL.burst_id, "--config", config, "--out", tmp_path, "--format", "png,svg")
    assert result.exit_code == 0, result.output
    pictures = [tmp_path / f"burst-{CELESTIAL.burst_id}.{suffix}" for suffix in ("png", "svg")]
    assert result.output.split() == [str(picture) for picture in pictures]
    assert "RETRACTED" in pictures[1].read_text()  # the latest revision
    run(CELESTIAL.burst_id, "--config", config, "--out", tmp_path / "one.png")
    assert (tmp_path / "one.png").read_bytes() == pictures[0].read_bytes()


def test_the_time_line_comes_from_the_store(tmp_path, config):
    store = Store(tmp_path / "state" / "collector.sqlite3")
    try:
        minutes = (-500, -2, 1, 1, 39, 40)
        faults = [fault(minute_of(START_NS) + minute, "fra", host=f"h{n}") for n, minute in enumerate(minutes)]
        store.begin_import()
        store.import_faults([(one, ()) for one in faults])
        store.finish_import("x", "x", [("fra", "dram", minute_of(START_NS) - 600, minute_of(START_NS) + 30, 1)])
        first, end = around(CELESTIAL)
        found = timeline(CELESTIAL, store.novel_between(first * MINUTE_NS, end * MINUTE_NS), store.watched_until_ns())
    finally:
        store.close()
    assert found.observed.tolist() == [0] * 28 + [1, 0, 0, 2] + [0] * 29  # known to minute 30, which is included


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "there is no burst nothing; the latest are: 20261123T1707Z"),
        (["20261123T1707Z", "--format", "gif"], "'gif' is not one of png, svg"),
        (["20261123T1707Z", "--out", "{tmp}/absent"], "no such directory"),
        (["20261123T1707Z", "--out", "{tmp}/a.png", "--format", "svg"], "is one png file"),
        (["20261123T1707Z", "--out", "{tmp}/absent/a.png"], "can't write the picture"),
        (["20261123T1707Z", "--inventory", "{tmp}/absent.json"], "can't read the inventory"),
        (["20261123T1707Z", "--inventory", "{tmp}/other.json"], "has none of the 3 clusters"),
        (["20261123T1707Z", "--history", "{tmp}/h.ndjson"], "--history needs --inventory"),
        (["x", "--history", "{tmp}/h.ndjson", "--inventory", "{tmp}/inventory.json"], "can't read the history"),
    ],
)
def test_bad_input_is_a_sentence(tmp_path, config, arguments, words):
    other = [{"targets": ["a:1"], "labels": {"cluster": "x", "latitude": "0", "longitude": "0"}}]
    (tmp_path / "other.json").write_text(json.dumps(other))
    result = run(*(text.format(tmp=tmp_path) for text in arguments), "--config", config)
    assert result.exit_code == 2 and words in result.output, result.output
    assert not list(tmp_path.glob("*.png"))


def test_only_a_picture_loads_matplotlib():
    program = "import sys, collectors.commands; print(*sys.modules)"
    root = Path(__file__).parents[2]
    loaded = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert "matplotlib" not in loaded.stdout.split()
