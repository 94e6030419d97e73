"""A mistake in the configuration is one sentence that names file, key and value, and exit status 2."""

import subprocess
import sys
from pathlib import Path

import pytest

from agent.config import load
from checksum.settings import SettingsError

MISTAKES = {
    "unknown key": ("[agent]\npol_interval_s = 5", ["[agent]", "'pol_interval_s'", "poll_interval_s"]),
    "unknown table": ("[agnet]", ["[agnet]", "[agent]"]),
    "not TOML": ("[agent\n", ["TOML"]),
    "a text for a number": ('[agent]\npoll_interval_s = "5"', ["poll_interval_s", "'5'", "a number"]),
    "a truth for a number": ("[agent]\nheartbeat_s = true", ["heartbeat_s", "True", "a number"]),
    "not a number": ("[agent]\npoll_interval_s = nan", ["poll_interval_s", "nan"]),
    "too small": ("[agent]\njournal_max_mib = 0", ["journal_max_mib", "0", "at least 1"]),
    "too large": ("[agent]\npoll_interval_s = 1e9", ["poll_interval_s", "at most 3600"]),
    "no port": ('[agent]\nlisten = "localhost"', ["listen", "'localhost'", "port"]),
    "port too high": ('[agent]\nlisten = "127.0.0.1:70000"', ["listen", "70000"]),
    "one bracket": ("[store]\npath = '/x'", ["[[store]]"]),
    "no path": ("[[store]]\n", ["[[store]]", "'path'", "missing"]),
    "relative path": ('[[store]]\npath = "records"', ["'records'", "absolute"]),
    "one path twice": ('[[store]]\npath = "/r"\n[[store]]\npath = "/r"', ["'/r'", "two stores"]),
    "a string for a list": ('[[store]]\npath = "/r"\ninclude = "*.log"', ["include", "'*.log'", "list"]),
    "unknown format": ('[[store]]\npath = "/r"\nformat = "xml"', ["format", "'xml'", "leveldb-log"]),
    "unknown kernel": ('[agent]\nchecksum_kernel = "abacus"', ["checksum_kernel", "'abacus'", "auto"]),
    "agent is no table": ("agent = 5", ["[agent]", "5"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence(mistake: str, tmp_path: Path) -> None:
    text, words = MISTAKES[mistake]
    file = tmp_path / "agent.toml"
    file.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load(file)
    message = str(caught.value)
    assert message.startswith(str(file)) and "\n" not in message.removeprefix(str(file))
    for word in words:
        assert word in message


def test_defaults_need_no_file_content(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text("")
    config = load(file)
    assert config.listen_address == ("127.0.0.1", 9861) and config.stores == ()
    file.write_text('[agent]\nlisten = "[::1]:0"')
    assert load(file).listen_address == ("::1", 0)


@pytest.mark.parametrize("command", ["agent", "scrubd"])
def test_on_the_command_line_it_ends_with_2_and_without_a_traceback(command: str, tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text("[agent]\npoll_interval_s = -1")
    for path in (file, tmp_path / "absent.toml", tmp_path):
        arguments = [sys.executable, "-m", "flipwatch", command, "--config", str(path)]
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2
        assert done.stdout == "" and str(path) in done.stderr and "Traceback" not in done.stderr
        assert len(done.stderr.splitlines()) == 1
