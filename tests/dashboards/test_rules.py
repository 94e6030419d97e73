"""The rules: Prometheus's own tool takes them, each alert fires and is silent when it should, and has its page."""

import subprocess
from pathlib import Path

import pytest

from dashboards.rules.table import RULES, TESTS, alerts, cases
from tests.conftest import require

EXAMPLES = RULES.parents[2] / "deploy" / "examples"
RUNBOOKS = RULES.parents[1] / "runbooks"
OF_THE_COLLECTOR = {"CorrelatedBurst", "BurstMember"}
NAMES = [rule["alert"] for rule in alerts()]


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run([require("promtool"), *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_the_rules_and_the_example(tmp_path):
    assert "SUCCESS" in promtool("check", "rules", "--lint-fatal", RULES)
    example = (EXAMPLES / "prometheus.yml").read_text()
    installed = "/etc/flipwatch/rules/flipwatch.rules.yml"
    assert installed in example
    (tmp_path / "prometheus.yml").write_text(example.replace(installed, str(RULES)))
    assert "SUCCESS" in promtool("check", "config", tmp_path / "prometheus.yml")


def test_promtools_own_tests_pass():
    assert "SUCCESS" in promtool("test", "rules", TESTS)


@pytest.mark.parametrize("name", NAMES)
def test_an_alert_is_shown_firing_and_silent(name):
    assert {fires for alert, _, fires in cases() if alert == name} == {True, False}


@pytest.mark.parametrize("rule", alerts(), ids=NAMES)
def test_an_alert_says_how_bad_what_and_where_to_read_on(rule):
    assert rule["labels"] == {"severity": rule["labels"]["severity"]}
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"http://flipwatch-collector:9862/runbooks/{rule['alert']}"


def test_each_alert_has_a_page_and_each_page_an_alert():
    pages = {path.stem: path.read_text() for path in RUNBOOKS.glob("*.md")}
    assert set(pages) == {*NAMES, *OF_THE_COLLECTOR}
    severities = {rule["alert"]: rule["labels"]["severity"] for rule in alerts()}
    for name, text in pages.items():
        assert text.startswith(f"# {name}\n\nSeverity: {severities.get(name, '')}")
