"""A page per alert, served beside the status page."""

import re
import urllib.request
from html.parser import HTMLParser
from pathlib import Path

import pytest

from collectors import runbooks
from collectors.notify import annotations
from tests.collectors.bursts import revision
from tests.collectors.running import RunningCollector, write_config, write_inventory
from tests.collectors.scripted_agent import Agents, ScriptedAgent

FILES = sorted((Path(__file__).parents[2] / "dashboards" / "runbooks").glob("*.md"))
NAMES = [file.stem for file in FILES]


def links(page: str) -> list[str]:
    found: list[str] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.extend(value or "" for name, value in attrs if tag == "a" and name == "href")

    Links().feed(page)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_runbook_is_a_page_that_says_all_of_it(name: str) -> None:
    page = (runbooks.page(name) or b"").decode()
    (text,) = re.findall(r"<pre class=\"runbook\">(.*)</pre>", page, re.S)
    plain = re.sub(r"<a href=\"\w+\">(\w+)</a>", r"[\1](\1)", text)
    plain = re.sub("</?b>", "**", re.sub("</?code>", "`", plain))
    for entity, character in {"&#39;": "'", "&#34;": '"', "&lt;": "<", "&gt;": ">", "&amp;": "&"}.items():
        plain = plain.replace(entity, character)
    source = (FILES[NAMES.index(name)]).read_text().removeprefix(f"# {name}\n\n")
    assert f"{plain}\n" == source
    assert set(links(page)) <= {*NAMES, "./", "../"}


def test_what_is_no_runbook_is_none() -> None:
    assert runbooks.names() == NAMES
    for name in ("", "NoSuchAlert", "../page/status.css", "CorrelatedBurst.md", "correlatedburst", ".."):
        assert runbooks.page(name) is None


def test_the_collector_serves_them(tmp_path: Path) -> None:
    agent = ScriptedAgent("fra-1")
    with Agents(agent):
        inventory = write_inventory(tmp_path / "inventory.json", [agent])
        with RunningCollector(write_config(tmp_path, inventory)) as collector:
            linked = annotations(revision(), f"{collector.url}/")["runbook_url"].removeprefix(collector.url)
            assert "<b>What do the victims share?</b>" in collector.get(linked)
            assert set(links(collector.get("/runbooks/"))) == {*NAMES, "../"}
            assert {"runbooks/", "runbooks/CorrelatedBurst"} <= set(links(collector.get("/")))
            said = collector.get("/runbooks/%3Cb%3E%1b%5B31m")
            assert said == "404 there is no runbook <b>\\x1b[31m; /runbooks/ names them all\n"
            assert collector.get("/runbooks/..%2fpage%2fstatus.css").startswith("404 there is no runbook")


def test_no_answer_can_run_or_load_anything(tmp_path: Path) -> None:
    agent = ScriptedAgent("fra-1")
    with Agents(agent):
        inventory = write_inventory(tmp_path / "inventory.json", [agent])
        with RunningCollector(write_config(tmp_path, inventory)) as collector:
            for path in ("/", "/runbooks/", "/runbooks/HostDied", "/metrics", "/api/status"):
                with urllib.request.urlopen(collector.url + path, timeout=20) as answer:
                    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none';")
                    assert answer.headers["X-Content-Type-Options"] == "nosniff"
