"""Every expression of every panel, variable and annotation finds something in a real Prometheus over a real fleet."""

import re
from typing import Any

import pytest

from tests.dashboards.boards import BOARDS, PANELS, TARGETS, substituted
from tests.dashboards.world import World

# A reset is advised for GPUs only, and there's none in the world.
EMPTY = {("parts", "Reset")}
OR_ZERO = " or vector(0)"
TABLES = [(name, panel) for name, panel in PANELS if panel["type"] == "table"]


def ask(world: World, expression: str) -> list[dict[str, Any]]:
    return world.prometheus.query(substituted(expression))


def value(world: World, board: str, title: str, target: int = 0) -> float:
    (panel,) = [panel for name, panel in PANELS if (name, panel["title"]) == (board, title)]
    (series,) = ask(world, panel["targets"][target]["expr"])
    return float(series["value"][1])


@pytest.mark.parametrize(("board", "title", "expression"), TARGETS)
def test_every_expression_finds_something(world: World, board: str, title: str, expression: str) -> None:
    found = ask(world, expression.removesuffix(OR_ZERO))
    assert bool(found) == ((board, title) not in EMPTY)
    assert all(series["value"][1] != "NaN" for series in found)
    assert ask(world, expression)


def test_what_the_numbers_say_is_so(world: World) -> None:
    said = {
        ("fleet", "Agents that answer"): 3,
        ("fleet", "ECC-blind hosts"): 1,
        ("fleet", "Uncorrected faults, open"): 3,
        ("fleet", "Parts worth a ticket"): 3,
        ("fleet", "Corrupt records, open"): 1,
        ("fleet", "Bursts that go on"): 1,
        ("fleet", "Faults lost"): 0,
        ("host", "Memory errors seen?"): 2,
        ("host", "Corrected, open"): 1,
        ("parts", "Replace"): 1,
        ("parts", "Drain"): 2,
        ("parts", "Reset"): 0,
        ("stored", "Can't be verified"): len("no checksum here\n" * 100),
    }
    assert {place: value(world, *place) for place in said} == said


def test_a_blind_machine_is_told_from_a_virtual_one(world: World) -> None:
    (panel,) = [panel for name, panel in PANELS if (name, panel["title"]) == ("fleet", "Which hosts are ECC-blind")]
    (nyc,) = merged(world, panel)
    assert (nyc["cluster"], nyc["reason"]) == ("nyc", "no-driver")


def test_a_witness_that_was_never_there_is_not_down(world: World) -> None:
    (panel,) = [panel for name, panel in PANELS if (name, panel["title"]) == ("host", "Witnesses")]
    fra = world.agents["fra"].removeprefix("http://")
    series = [one for one in ask(world, panel["targets"][0]["expr"]) if one["metric"]["instance"] == fra]
    told = {one["metric"]["source"]: float(one["value"][1]) for one in series}
    assert (told["edac"], told["rasdaemon"], told["canary"]) == (1, 1, 2)
    nyc = world.agents["nyc"].removeprefix("http://")
    (blind,) = [one for one in ask(world, panel["targets"][0]["expr"]) if of(one) == (nyc, "edac")]
    assert float(blind["value"][1]) == 3


def of(series: dict[str, Any]) -> tuple[str, str]:
    return series["metric"]["instance"], series["metric"]["source"]


def test_a_part_is_named_with_slot_serial_rule_and_evidence(world: World) -> None:
    (panel,) = [panel for name, panel in PANELS if (name, panel["title"]) == ("parts", "Parts worth a ticket")]
    rows = merged(world, panel)
    (dimm,) = [row for row in rows if row["action"] == "replace"]
    assert (dimm["Value #A"], dimm["slot"], dimm["serial"], dimm["part"]) == (3, "label of dimm1", "S-dimm1", "P1")
    assert (dimm["rule"], dimm["Value #C"], dimm["Value #D"], dimm["state"]) == ("uncorrected", 1, 0, "open")
    others = {row["device"]: row for row in rows if row["action"] == "drain"}
    assert {device: row["rule"] for device, row in others.items()} == dict.fromkeys(
        ("mc0/unknown", "socket0/cpu0/bank9"), "uncorrected-elsewhere"
    )
    assert others["socket0/cpu0/bank9"]["mode"] == "transient"


def test_a_part_that_was_replaced_is_another_part(world: World) -> None:
    (panel,) = [panel for name, panel in PANELS if (name, panel["title"]) == ("host", "Devices")]
    (part,) = [row for row in merged(world, panel) if row.get("slot") == "label of dimm3"]
    assert (part["serial"], part["Value #C"], part["Value #D"]) == ("S-new", 0, 0) and "action" not in part


def merged(world: World, panel: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows as Grafana's `merge` makes them: by the labels that all queries share, which name one row of each."""
    frames = []
    for target in panel["targets"]:
        name = f"Value #{target['refId']}" if len(panel["targets"]) > 1 else "Value"
        frames.append([{**series["metric"], name: float(series["value"][1])} for series in ask(world, target["expr"])])
    shared = sorted(set.intersection(*(set(frame[0]) for frame in frames)) if len(frames) > 1 else set(frames[0][0]))
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for frame in frames:
        keys = [tuple(row[label] for label in shared) for row in frame]
        assert len(set(keys)) == len(keys), f"{panel['title']}: several rows for one {shared}"
        for key, row in zip(keys, frame, strict=True):
            rows.setdefault(key, {}).update(row)
    return list(rows.values())


@pytest.mark.parametrize(("board", "panel"), TABLES, ids=[f"{name}-{panel['title']}" for name, panel in TABLES])
def test_every_column_of_a_table_exists(world: World, board: str, panel: dict[str, Any]) -> None:
    (organize,) = [t["options"] for t in panel["transformations"] if t["id"] == "organize"]
    columns = {name for row in merged(world, panel) for name in row} | {"Time"}
    assert set(organize["renameByName"]) | set(organize["excludeByName"]) == columns
    titles = set(organize["renameByName"].values())
    assert {override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]} <= titles
    assert {entry["displayName"] for entry in panel["options"].get("sortBy", [])} <= titles


@pytest.mark.parametrize("title", ["Where the faults are", "Where the bursts were seen"])
def test_a_map_knows_where_every_cluster_is(world: World, title: str) -> None:
    (panel,) = [panel for _, panel in PANELS if panel["title"] == title]
    placed = {s["metric"]["cluster"]: s["metric"] for s in ask(world, panel["targets"][0]["expr"])}
    assert (placed["fra"]["latitude"], placed["fra"]["longitude"]) == ("50.1", "8.7")
    (location,) = [layer["location"] for layer in panel["options"]["layers"]]
    assert (location["mode"], location["latitude"], location["longitude"]) == ("coords", "latitude", "longitude")


@pytest.mark.parametrize("name", BOARDS)
def test_every_variable_has_choices(world: World, name: str) -> None:
    for variable in BOARDS[name]["templating"]["list"]:
        if variable["type"] == "query":
            call = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            assert call and any(series["metric"].get(call[2]) for series in ask(world, call[1])), variable["query"]


def test_the_burst_of_the_metrics_is_an_annotation(world: World) -> None:
    for board in BOARDS.values():
        pushed, from_metrics = board["annotations"]["list"]
        assert pushed["target"]["tags"] == ["flipwatch-burst"]
        (series,) = ask(world, from_metrics["target"]["expr"])
        wanted = set(re.findall(r"\{\{(\w+)\}\}", from_metrics["textFormat"]))
        assert wanted == {"cause", "burst_id"} <= set(series["metric"])


def test_a_burst_of_the_whole_fleet_is_seen_everywhere(world: World) -> None:
    (panel,) = [panel for name, panel in PANELS if (name, panel["title"]) == ("bursts", "Bursts in the selected time")]
    (row,) = merged(world, panel)
    assert row["Value #C"] > 10 * row["Value #D"] and row["Value #E"] > 6
    assert row["Value #F"] == 1 and row["Value #G"] > row["Value #A"], "it still goes on"
