"""The house rules: who may import whom, what every module opens with, what is documented where."""

import ast
import dataclasses
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.config import AgentSettings, StoreSettings
from checksum.declaration import CrcSettings, FieldSettings, FramingSettings, MaskSettings
from checksum.formats import FORMATS
from collectors.config import CollectorConfig
from flipwatch import COMMANDS

ROOT = Path(__file__).parent.parent
FOLDERS = ("agent", "checksum", "collectors", "dashboards", "deploy")
MODULES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
CONDUCTORS = {"agent.daemon", "agent.scrubd", "collectors.server", "dashboards.push"}
MAY_IMPORT = {
    "checksum": set(),
    "agent": {"checksum"},
    "collectors": {"agent.report", "checksum"},
    "dashboards": {"checksum.printable"},  # what they show, they show as everybody does
    "deploy": {"checksum.leveldb_log"},  # the demonstration writes records as any user of the library would
}
PURE = [
    "agent/actions.py",
    "agent/doctor.py",
    "agent/evidence.py",
    "agent/attribution.py",
    "agent/dram_place.py",
    "agent/error_record.py",
    "agent/hardware_error.py",
    "agent/machine_check.py",
    "agent/novelty.py",
    "agent/observation.py",
    "agent/reconcile.py",
    "agent/report.py",
    "agent/ringbuffer.py",
    "agent/trace_events.py",
    "agent/smbios.py",
    "dashboards/annotations.py",
    "checksum/chain.py",
    "checksum/finding.py",
    "checksum/framing.py",
    "checksum/gzip_members.py",
    "checksum/leveldb_log.py",
    "checksum/tfrecord.py",
    "checksum/walk.py",
    "checksum/warc.py",
    "checksum/window.py",
    "collectors/baseline.py",
    "collectors/causes.py",
    "collectors/changes.py",
    "collectors/correlator.py",
    "collectors/evaluation/document.py",
    "collectors/evaluation/null.py",
    "collectors/evaluation/summary.py",
    "collectors/factors.py",
    "collectors/false_alarms.py",
    "collectors/incidents.py",
    "collectors/lifecycle.py",
    "collectors/minutes.py",
    "collectors/peers.py",
    "collectors/population.py",
    "collectors/revision.py",
    "collectors/scan.py",
    "collectors/sky.py",
    "collectors/staging.py",
    "collectors/world.py",
    "collectors/windows.py",
]
IMPURE = {"asyncio", "io", "logging", "os", "pathlib", "random", "socket", "sqlite3", "subprocess", "threading", "time"}
AGENT_MAY_NOT_LOAD = ("numpy", "aiohttp", "jinja2", "pydantic", "sqlite3", "asyncio", "pynvml")


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    """Every module that the file imports, anywhere in it; `from a import b` counts as a.b if that is a module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                inner = ROOT.joinpath(*node.module.split("."), alias.name)
                is_module = inner.with_suffix(".py").exists() or inner.is_dir()
                yield f"{node.module}.{alias.name}" if is_module else node.module


def is_within(module: str, allowed: set[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in allowed)


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_arrows(path: Path) -> None:
    folder = path.relative_to(ROOT).parts[0]
    own = [name for name in imports(path) if name.split(".")[0] in FOLDERS]
    for name in own:
        assert is_within(name, {folder} | MAY_IMPORT[folder]), f"{module_name(path)} imports {name}"
        if name in CONDUCTORS:
            assert path.name == "commands.py", f"{module_name(path)} imports the conductor {name}"
        if module_name(path).startswith("agent.sources.") and path.name != "table.py":
            assert not name.startswith("agent.sources"), f"{module_name(path)} imports another source"


@pytest.mark.parametrize("name", PURE)
def test_pure_files_own_nothing(name: str) -> None:
    assert not {module.split(".")[0] for module in imports(ROOT / name)} & IMPURE


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_every_module_opens_with_its_contract(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path} has no docstring"
    if path.name == "__init__.py":
        assert len(tree.body) == 1, f"{path} holds more than a docstring"


def test_modules_are_reached() -> None:
    """A module that no other imports, and no command loads, is dead."""
    entries = {target.split(":")[0] for target, _ in COMMANDS.values()}
    imported = {name for path in [*MODULES, ROOT / "flipwatch.py"] for name in imports(path)}
    for path in MODULES:
        if path.name not in ("__init__.py", "__main__.py"):  # the latter is run by name: make dashboards
            assert module_name(path) in imported | entries, f"nobody uses {module_name(path)}"


@pytest.mark.parametrize("conductor", ["agent.daemon", "agent.scrubd"])
def test_the_agent_stays_small(conductor: str) -> None:
    program = f"import sys, agent.commands, {conductor}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    modules = set(loaded.stdout.split())
    assert "agent.journal" in modules
    assert not modules & set(AGENT_MAY_NOT_LOAD)
    assert ("checksum.formats" in modules) == (conductor == "agent.scrubd"), "the agent verifies no stores"


def test_help_needs_no_package_of_the_collector() -> None:
    program = "import sys; from flipwatch import main; main(['--help'], standalone_mode=False); print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(command in shown for command in COMMANDS)
    assert "click" in shown.split() and not set(shown.split()) & set(AGENT_MAY_NOT_LOAD)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_loads(command: str) -> None:
    module_name, attribute = COMMANDS[command][0].split(":")
    module = __import__(module_name, fromlist=[attribute])
    assert getattr(module, attribute).help


@pytest.mark.parametrize(
    ("file", "table", "settings"),
    [
        ("agent.toml", "agent", AgentSettings),
        ("agent.toml", "store", StoreSettings),
        ("collector.toml", "collector", CollectorConfig),
    ],
)
def test_every_key_stands_in_the_examples(file: str, table: str, settings: type) -> None:
    text = (ROOT / "deploy/examples" / file).read_text()
    assert table in tomllib.loads(text)
    section = re.split(r"^\[+", text, flags=re.M)
    (section,) = [part for part in section if part.startswith(f"{table}]")]
    keys = re.findall(r"^#? ?(\w+) = ", section, re.M)
    assert sorted(keys) == sorted(field.name for field in dataclasses.fields(settings))


def test_every_format_stands_in_the_example_of_a_store() -> None:
    (line,) = re.findall(r"^format = .*", (ROOT / "deploy/examples/agent.toml").read_text(), re.M)
    assert re.findall(r"[\w-]+", line.partition("one of ")[2]) == list(FORMATS)


def test_every_key_of_a_framing_stands_in_its_example() -> None:
    given = tomllib.loads((ROOT / "deploy/examples/framing.toml").read_text())["framing"]
    for table, settings in (
        (given, FramingSettings),
        (given["header"][0], FieldSettings),
        (given["crc"], CrcSettings),
        (given["mask"], MaskSettings),
    ):
        assert sorted(table) == sorted(field.name for field in dataclasses.fields(settings))


def test_example_inventory_is_json() -> None:
    assert json.loads((ROOT / "deploy/examples/inventory.json").read_text())


def test_the_road_in_the_readme_exists() -> None:
    readme = (ROOT / "README.md").read_text()
    files = re.findall(r"`((?:agent|collectors)/[\w/]+\.py)`", readme)
    assert len(files) > 10
    for file in files:
        assert (ROOT / file).is_file(), f"README names {file}, which does not exist"
