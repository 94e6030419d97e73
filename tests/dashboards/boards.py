"""The committed dashboards, read as Grafana would."""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "dashboards" / "grafana"
BOARDS: dict[str, dict[str, Any]] = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
PANELS = [(name, panel) for name, board in BOARDS.items() for panel in board["panels"]]
TARGETS = [(name, panel["title"], target["expr"]) for name, panel in PANELS for target in panel["targets"]]


def substituted(expression: str, range_: str = "1h", rate_interval: str = "30s") -> str:
    """As Grafana sends it with All chosen everywhere."""
    values = {
        "$__rate_interval": rate_interval,
        "$__range": range_,
        "$job": ".+",
        "$instance": ".+",
        "$cluster": ".*",
    }
    for variable, value in values.items():
        expression = expression.replace(variable, value)
    return expression
