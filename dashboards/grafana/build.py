"""From the builders to the committed JSON and to the tables of panels and alerts in dashboards/README.md.

Enters: nothing but the builders. Leaves: five JSON documents, ready for Grafana's provisioning or its HTTP API, and a
Markdown table. Every run gives the same bytes; a test compares them with what is committed.
"""

import json
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards.grafana import bursts, fleet, host, parts, stored
from dashboards.rules.table import alerts_table

BOARDS = {"fleet": fleet, "host": host, "parts": parts, "stored": stored, "bursts": bursts}
HERE = Path(__file__).parent
README = HERE.parent / "README.md"


def documents() -> dict[str, str]:
    """The JSON of each dashboard by the name of its file, without the suffix."""
    return {
        name: json.dumps(_plain(module.build()), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        for name, module in BOARDS.items()
    }


def _plain(board: Any) -> dict[str, Any]:
    """As JSON, without what the SDK writes unasked and Grafana's types (13.2) don't know.

    Settings of `interval` variables in all variables, and a table's former footer.
    """
    document: dict[str, Any] = json.loads(json.dumps(board, cls=JSONEncoder))
    for variable in document["templating"]["list"]:
        for key in ("auto", "auto_count", "auto_min"):
            del variable[key]
    for panel in document["panels"]:
        panel["options"].pop("footer", None)
    return document


def panels_table(boards: dict[str, Any]) -> str:
    """Each panel with its expressions, as Markdown."""
    lines = ["| dashboard | panel | expression |", "|---|---|---|"]
    for board in boards.values():
        for panel in board["panels"]:
            # a bar would end the cell, even within a code span
            expressions = (target["expr"].replace("|", r"\|") for target in panel["targets"])
            shown = "<br>".join(f"`{expression}`" for expression in expressions)
            lines.append(f"| {board['title'].partition(' / ')[2]} | {panel['title']} | {shown} |")
    return "\n".join(lines)


def readme(text: str, name: str, table: str) -> str:
    """The README with the table between the marks of that name."""
    begin, end = f"<!-- {name}: made by make dashboards -->", f"<!-- end of {name} -->"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{table}\n{end}{after}"


def write() -> None:
    """Brings the JSON files and the README up to date."""
    built = documents()
    for name, text in built.items():
        (HERE / f"{name}.json").write_text(text)
    boards = {name: json.loads(text) for name, text in built.items()}
    text = readme(README.read_text(), "panels", panels_table(boards))
    README.write_text(readme(text, "alerts", alerts_table()))
