"""The rules of grafana/dashboard-linter (4d0844b), applied to every panel, with the exclusions of its own .lint file.

Rules: https://github.com/grafana/dashboard-linter/blob/main/docs/index.md. The linter applies some rules to certain
kinds of panel only; here all must keep them.
"""

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import promql_parser as promql
import pytest
import yaml

from tests.dashboards.boards import BOARDS, FOLDER

EXCLUSIONS = yaml.safe_load((FOLDER / ".lint").read_text())["exclusions"]
RATE_INTERVAL = timedelta(minutes=17)  # no query means these by themselves
RANGE = timedelta(minutes=23)
UNITS = {
    "short",
    "none",
    "s",
    "bytes",
    "binBps",
    "percentunit",
    "sci",
    "dateTimeFromNow",
    "dateTimeAsIso",
}  # of Grafana's list
LABEL_FUNCTIONS = {"label_names", "label_values", "metrics", "query_result"}

Board = dict[str, Any]
Broken = Iterator[tuple[str, str]]  # (panel's title or nothing, what is wrong)


def parse(expression: str) -> Any:
    text = expression.replace("$__rate_interval", "17m").replace("$__range", "23m")
    return promql.parse(text)


def walk(node: Any, parents: tuple[Any, ...] = ()) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Every node of an expression with those above it, outermost first."""
    yield node, parents
    inner = [getattr(node, name, None) for name in ("expr", "lhs", "rhs", "param", "vector_selector")]
    for child in [*inner, *(getattr(node, "args", None) or [])]:
        if child is not None:
            yield from walk(child, (*parents, node))


def targets(board: Board) -> Iterator[tuple[str, Any]]:
    for panel in board["panels"]:
        for target in panel["targets"]:
            yield panel["title"], parse(target["expr"])


def selectors(board: Board) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    for title, expression in targets(board):
        for node, parents in walk(expression):
            if isinstance(node, promql.VectorSelector):
                yield title, node, parents


def variables(board: Board) -> dict[str, dict[str, Any]]:
    return {variable["name"]: variable for variable in board["templating"]["list"]}


def template_datasource(board: Board) -> Broken:
    sources = [v for v in variables(board).values() if v["type"] == "datasource"]
    if [(v["name"], v["label"], v["query"]) for v in sources] != [("datasource", "Data source", "prometheus")]:
        yield "", "not one variable 'datasource'"


def template(name: str) -> Callable[[Board], Broken]:
    def rule(board: Board) -> Broken:
        found = variables(board).get(name)
        if found is None:
            yield "", f"no variable {name}"
        elif (found["type"], found["label"], found["datasource"]["uid"], found["multi"], found["allValue"]) != (
            ("query", name.capitalize(), "$datasource", True, ".+")
        ):
            yield "", f"{name} isn't as it should be: {found}"

    return rule


def template_label_promql(board: Board) -> Broken:
    for variable in variables(board).values():
        if variable["type"] == "query":
            call = re.fullmatch(r"(\w+)\((.+), \w+\)", variable["query"]["query"])
            if not call or call[1] not in LABEL_FUNCTIONS or not parse(call[2]):
                yield "", f"{variable['name']}: {variable['query']}"


def template_reload(board: Board) -> Broken:
    for variable in variables(board).values():
        if variable["type"] == "query" and variable["refresh"] != 2:
            yield "", variable["name"]


def panel_datasource(board: Board) -> Broken:
    for panel in board["panels"]:
        for where in (panel, *panel["targets"]):
            if where["datasource"] != {"type": "prometheus", "uid": "$datasource"}:
                yield panel["title"], str(where["datasource"])


def panel_title_description(board: Board) -> Broken:
    for panel in board["panels"]:
        if not panel.get("title") or not panel.get("description"):
            yield panel.get("title", "?"), "no title or no description"


def panel_units(board: Board) -> Broken:
    for panel in board["panels"]:
        overrides = [p for o in panel["fieldConfig"]["overrides"] for p in o["properties"] if p["id"] == "unit"]
        units = {panel["fieldConfig"]["defaults"].get("unit"), *(p["value"] for p in overrides)}
        if not units <= UNITS:
            yield panel["title"], str(units - UNITS)


def panel_no_targets(board: Board) -> Broken:
    yield from ((panel["title"], "no targets") for panel in board["panels"] if not panel["targets"])


def target_promql(board: Board) -> Broken:
    for panel in board["panels"]:
        for target in panel["targets"]:
            try:
                parse(target["expr"])
            except ValueError as error:
                yield panel["title"], str(error)


def target_matcher(name: str) -> Callable[[Board], Broken]:
    def rule(board: Board) -> Broken:
        for title, selector, _ in selectors(board):
            wanted = (name, promql.MatchOp.Re, f"${name}")
            if wanted not in [(m.name, m.op, m.value) for m in selector.matchers.matchers]:
                yield title, selector.prettify()

    return rule


def target_rate_interval(board: Board) -> Broken:
    for title, expression in targets(board):
        for node, parents in walk(expression):
            if isinstance(node, promql.MatrixSelector):
                function = parents[-1].func.name
                if function in ("rate", "irate", "avg_over_time") and node.range != RATE_INTERVAL:
                    yield title, "not over $__rate_interval"
                elif function not in ("rate", "irate", "avg_over_time") and node.range != RANGE:
                    yield title, f"{function} over a time that nobody chose"


def target_counter_agg(board: Board) -> Broken:
    for title, selector, parents in selectors(board):
        if selector.name.endswith("_total") and not (
            len(parents) > 1
            and isinstance(parents[-1], promql.MatrixSelector)
            and parents[-2].func.name in ("rate", "irate", "increase")
        ):
            yield title, selector.prettify()


def uneditable(board: Board) -> Broken:
    if board["editable"]:
        yield "", "editable"


RULES: dict[str, Callable[[Board], Broken]] = {
    "template-datasource-rule": template_datasource,
    "template-job-rule": template("job"),
    "template-instance-rule": template("instance"),
    "template-label-promql-rule": template_label_promql,
    "template-on-time-change-reload-rule": template_reload,
    "panel-datasource-rule": panel_datasource,
    "panel-title-description-rule": panel_title_description,
    "panel-units-rule": panel_units,
    "panel-no-targets-rule": panel_no_targets,
    "target-promql-rule": target_promql,
    "target-rate-interval-rule": target_rate_interval,
    "target-job-rule": target_matcher("job"),
    "target-instance-rule": target_matcher("instance"),
    "target-counter-agg-rule": target_counter_agg,
    "uneditable-dashboard": uneditable,
}


def is_excluded(rule: str, board: Board, panel: str) -> bool:
    entries = EXCLUSIONS.get(rule, {}).get("entries", [])
    return any(e["dashboard"] == board["title"] and e.get("panel", panel) == panel for e in entries)


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
@pytest.mark.parametrize("rule", RULES)
def test_rule(rule: str, board: Board) -> None:
    broken = [(panel, what) for panel, what in RULES[rule](board) if not is_excluded(rule, board, panel)]
    assert broken == []


def test_exclusions_have_reasons_and_are_needed() -> None:
    for rule, exclusion in EXCLUSIONS.items():
        assert exclusion["reason"]
        for entry in exclusion["entries"]:
            (board,) = [b for b in BOARDS.values() if b["title"] == entry["dashboard"]]
            broken = {panel for panel, _ in RULES[rule](board)}
            assert entry["panel"] in broken if "panel" in entry else broken
