"""Settings: what is wrong is one sentence that names file, key and value."""

import subprocess
import sys
from pathlib import Path

import pytest

from agent import config, scrub
from checksum.settings import SettingsError, address

WRONG = {
    "[agent]\ncolour = 1": ["[agent]", "colour", "poll_interval_s"],
    "[agnet]\n": ["[agnet]", "[agent]"],
    "agent = 3": ["[agent]", "3", "table"],
    "[agent]\npoll_interval_s = '5'": ["poll_interval_s", "'5'", "number"],
    "[agent]\npoll_interval_s = true": ["poll_interval_s", "True"],
    "[agent]\npoll_interval_s = 0": ["poll_interval_s", "0", "at least"],
    "[agent]\npoll_interval_s = nan": ["poll_interval_s", "nan"],
    "[agent]\npoll_interval_s = 1e9": ["poll_interval_s", "at most"],
    "[agent]\njournal_max_mib = 1.5": ["journal_max_mib", "1.5", "whole"],
    "[agent]\njournal_max_mib = 99999999999": ["journal_max_mib", "at most"],
    "[agent]\nstate_dir = 3": ["state_dir", "3", "path"],
    '[agent]\nstate_dir = "a\\u0000b"': ["state_dir"],
    "[agent]\nlisten = '127.0.0.1'": ["listen", "127.0.0.1", "port"],
    "[agent]\nlisten = ':80'": ["listen", ":80"],
    "[agent]\nlisten = 'x:99999'": ["listen", "99999"],
    "[[store]]\n": ["[[store]]", "path", "missing"],
    "[[store]]\npath = 'relative/path'": ["path", "relative/path", "absolute"],
    "[[store]]\npath = '/srv'\nframing = 'relative.toml'": ["framing", "relative.toml", "absolute"],
    "[store]\npath = '/srv'": ["[[store]]", "brackets"],
    "[[store]]\npath = '/srv'\ninclude = '*.log'": ["include", "'*.log'", "list"],
    "[[store]]\npath = '/srv'\ninclude = [1]": ["include", "list"],
    "[[store]]\npath = '/srv'\nrate_mib_s = inf": ["rate_mib_s", "inf"],
    "[[store]]\npath = '/srv'\nsettle_s = -1": ["settle_s", "-1"],
    "[[store]]\npath = '/srv'\n[[store]]\npath = '/srv/'": ["/srv", "two stores"],
    "[agent]\nchecksum_kernel = 'abacus'": ["checksum_kernel", "'abacus'", "auto"],
    "[agent]\ntls_cert_file = '/a'": ["tls_cert_file", "tls_key_file", "together"],
    "[agent]\ntls_key_file = '/a'": ["tls_cert_file", "tls_key_file", "together"],
    "[agent]\ntls_client_ca_file = '/a'": ["tls_client_ca_file", "needs tls_cert_file"],
    "[agent\n": ["TOML"],
    "\ufffe\udcff": ["TOML"],
}


@pytest.mark.parametrize("document", WRONG)
def test_what_is_wrong_is_one_sentence(tmp_path: Path, document: str) -> None:
    path = tmp_path / "agent.toml"
    path.write_bytes(document.encode("utf-8", "surrogateescape"))
    with pytest.raises(SettingsError) as raised:
        config.load(path)
    sentence = str(raised.value)
    assert "\n" not in sentence and str(path) in sentence
    assert all(word in sentence for word in WRONG[document]), sentence


def test_an_empty_file_gives_the_defaults_and_a_collector_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text("[collector]\nanything = 1\n")
    loaded = config.load(path)
    assert loaded.listen_address == ("127.0.0.1", 9861) and loaded.stores == ()
    assert loaded.scrub_journal_dir != loaded.memory_journal_dir


def test_a_store_with_all_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text("[[store]]\npath = '/srv'\ninclude = ['*.log']\nrate_mib_s = 3\nperiod_days = 1\n")
    (store,) = config.load(path).stores
    assert (store.path, store.include, store.rate_mib_s, store.period_days) == (Path("/srv"), ("*.log",), 3.0, 1.0)


def test_a_store_with_a_framing(tmp_path: Path) -> None:
    framing, path = tmp_path / "framing.toml", tmp_path / "agent.toml"
    store = f"[[store]]\npath = '/srv'\nframing = '{framing}'\n"
    framing.write_text(Path("deploy/examples/framing.toml").read_text())
    path.write_text(store + "format = 'pagestore'\n[[store]]\npath = '/other'\n")
    loaded = config.load(path)
    assert [next(iter(scrub.formats_of(store))) for store in loaded.stores] == ["pagestore", "leveldb-log"]
    path.write_text("[[store]]\npath = '/srv'\nformat = 'pagestore'\n")
    with pytest.raises(SettingsError, match="/srv: format = 'pagestore': must be one of auto, leveldb-log"):
        scrub.formats_of(config.load(path).stores[0])
    path.write_text(store)
    for text, message in (("[framing]\nname = 3\n", "name = 3: must be a string"), (None, "can't read")):
        framing.write_text(text) if text else framing.unlink()
        with pytest.raises(SettingsError, match=message) as raised:
            scrub.formats_of(config.load(path).stores[0])
        assert str(framing) in str(raised.value)


def test_addresses() -> None:
    assert address("[::1]:80", "x") == ("::1", 80) and address("host:0", "x") == ("host", 0)


@pytest.mark.parametrize("command", ["agent", "scrubd"])
@pytest.mark.parametrize("document", [None, "[agent]\ncolour = 'blue'\n"])
def test_through_the_command_line(tmp_path: Path, command: str, document: str | None) -> None:
    path = tmp_path / "agent.toml"
    if document is not None:
        path.write_text(document)
    done = subprocess.run(
        [sys.executable, "-m", "flipwatch", command, "--config", str(path)], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert str(path) in done.stderr and (document is None or "colour" in done.stderr)
