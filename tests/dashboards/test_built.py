"""What is committed is what the builders build; panels lie side by side, links lead somewhere."""

import json
import re

import pytest
import yaml

from dashboards.grafana import build
from dashboards.rules.table import alerts_table
from tests.dashboards.boards import BOARDS, FOLDER, PANELS

KINDS = ("timeseries", "state-timeline", "geomap")
PROVISIONING = FOLDER / "provisioning"


def test_the_json_is_up_to_date() -> None:
    built = build.documents()
    assert set(built) == set(BOARDS)
    for name, text in built.items():
        assert (FOLDER / f"{name}.json").read_text() == text, f"{name}.json is old: make dashboards"


def test_the_tables_in_the_readme_are_up_to_date() -> None:
    text = build.README.read_text()
    in_order = {name: BOARDS[name] for name in build.BOARDS}
    assert build.readme(text, "panels", build.panels_table(in_order)) == text, "the table is old: make dashboards"
    assert build.readme(text, "alerts", alerts_table()) == text, "the table is old: make dashboards"
    for _, panel in PANELS:
        assert f"| {panel['title']} |" in text


@pytest.mark.parametrize("name", BOARDS)
def test_panels_lie_side_by_side_within_the_grid(name: str) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in BOARDS[name]["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        for cell in (
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        ):
            assert cell not in taken, f"{panel['title']} lies on {taken[cell]}"
            taken[cell] = panel["title"]
    assert len({panel["id"] for panel in BOARDS[name]["panels"]}) == len(BOARDS[name]["panels"])


def test_links_lead_to_dashboards_that_have_the_variables() -> None:
    by_uid = {board["uid"]: board for board in BOARDS.values()}
    links = re.findall(r'"(/d/[^"]+)"', json.dumps(BOARDS))
    assert len(links) > 5
    for link in links:
        uid, _, query = link.removeprefix("/d/").partition("?")
        known = {variable["name"] for variable in by_uid[uid]["templating"]["list"]}
        for part in query.split("&"):
            named = re.fullmatch(r"var-(\w+)=\$\{__data\.fields\.\w+:percentencode\}|\$\{(\w+):queryparam\}", part)
            assert part == "${__url_time_range}" or (named and (named[1] or named[2]) in known), part


def test_all_link_to_all_and_are_found_by_tag() -> None:
    for board in BOARDS.values():
        assert board["tags"] == ["flipwatch"]
        (link,) = board["links"]
        assert (link["type"], link["tags"], link["includeVars"], link["keepTime"]) == (
            "dashboards",
            ["flipwatch"],
            True,
            True,
        )


def test_no_data_source_is_built_in() -> None:
    uids = set(re.findall(r'"uid": "([^"]+)"', json.dumps(BOARDS))) - {board["uid"] for board in BOARDS.values()}
    assert uids == {"$datasource", "-- Grafana --"}


def test_provisioning_files_say_what_grafana_expects() -> None:
    """Keys as in https://grafana.com/docs/grafana/latest/administration/provisioning/."""
    found = yaml.safe_load((PROVISIONING / "dashboards" / "flipwatch.yaml").read_text())
    (provider,) = found["providers"]
    assert found["apiVersion"] == 1 and provider["type"] == "file" and provider["options"]["path"].startswith("/")
    assert set(provider) <= {
        "name",
        "orgId",
        "folder",
        "folderUid",
        "type",
        "disableDeletion",
        "updateIntervalSeconds",
        "allowUiUpdates",
        "options",
    }
    found = yaml.safe_load((PROVISIONING / "datasources" / "flipwatch.yaml").read_text())
    (source,) = found["datasources"]
    assert found["apiVersion"] == 1 and source["type"] == "prometheus" and source["access"] == "proxy"
    assert set(source) <= {"name", "type", "access", "url", "uid", "isDefault", "jsonData", "editable"}


def test_lines_have_a_legend_and_clusters_on_a_map_a_name() -> None:
    options = {kind: [panel["options"] for _, panel in PANELS if panel["type"] == kind] for kind in KINDS}
    assert all(options.values())
    for one in (*options["timeseries"], *options["state-timeline"]):
        assert one["legend"]["showLegend"] and one["tooltip"]["mode"] != "none"
    for one in options["geomap"]:
        assert one["tooltip"]["mode"] == "details" and all(layer["tooltip"] for layer in one["layers"])
        assert one["controls"] == {"mouseWheelZoom": True, "showAttribution": True, "showZoom": True}


def test_what_is_drawn_over_time_costs_the_same_however_many_hosts_there_are() -> None:
    """A Prometheus refuses a query over more than 50 million samples: of 50,000 hosts that is a single series each."""
    of_few = "flipwatch_(cluster|agents|bursts?|scan|device_action)"  # what collectors say, and the parts in trouble
    drawn = [
        (name, selector)
        for name, panel in PANELS
        if name != "host"  # which looks at one, or at those that somebody chose
        for target in panel["targets"]
        if target.get("range")
        for selector in re.findall(r"[\w:]+(?=\{)", target["expr"])
    ]
    assert len(drawn) > 10
    assert [(name, selector) for name, selector in drawn if not re.match(f"cluster:|{of_few}", selector)] == []


def test_a_death_of_the_host_is_no_uncorrected_error() -> None:
    """As in the alerts, where it is a ticket of its own."""
    expressions = [target["expr"] for _, panel in PANELS for target in panel["targets"]]
    uncorrected = [text for text in expressions if "open_faults" in text and 'severity!="corrected"' in text]
    assert len(uncorrected) == 2 and all('stream!="host"' in text for text in uncorrected)
