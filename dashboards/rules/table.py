"""The table of alerts in dashboards/README.md.

Enters: the rules and promtool's tests of them. Leaves: Markdown. PyYAML is a development dependency, and only
`make dashboards` and the tests come here.
"""

from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
RULES, TESTS = HERE / "flipwatch.rules.yml", HERE / "flipwatch.test.yml"


def alerts() -> list[dict[str, Any]]:
    """The alerting rules, in the order of the file."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def cases() -> list[tuple[str, str, bool]]:
    """(alert, name of the test, does it fire there) of each question that promtool's tests ask about an alert."""
    tests = yaml.safe_load(TESTS.read_text())["tests"]
    return [
        (case["alertname"], test["name"], bool(case.get("exp_alerts")))
        for test in tests
        for case in test.get("alert_rule_test", [])
    ]


def alerts_table() -> str:
    """Each alert with its severity, how long it must last, and the tests that show it firing."""
    lines = ["| alert | severity | after | shown firing, and silent, by |", "|---|---|---|---|"]
    for rule in alerts():
        name = rule["alert"]
        tests = dict.fromkeys(test for alert, test, fires in cases() if alert == name and fires)
        page = f"[{name}](runbooks/{name}.md)"
        lines.append(f"| {page} | {rule['labels']['severity']} | {rule.get('for', 'at once')} | {'; '.join(tests)} |")
    return "\n".join(lines)
