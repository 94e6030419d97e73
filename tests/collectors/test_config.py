"""The [collector] table: what is taken, and one sentence for each mistake."""

import re
from pathlib import Path

import pytest

from checksum.settings import SettingsError
from collectors.causes import PRIORS
from collectors.config import load
from collectors.minutes import SCANNED_STREAMS


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "flipwatch.toml"
    path.write_text(text)
    return path


def test_defaults(tmp_path):
    config = load(written(tmp_path, '[collector]\ninventory = "/etc/inventory.json"\n'))
    assert config.address == ("127.0.0.1", 9862)
    assert config.pull_interval_s == 15
    assert config.alertmanager_url == ""
    assert config.store_path == Path("/var/lib/flipwatch-collector/collector.sqlite3")


def test_the_agents_tables_may_stand_in_the_same_file(tmp_path):
    text = '[agent]\n[[store]]\npath = "/srv"\n[collector]\ninventory = "i.json"\nlisten = "[::1]:0"\n'
    assert load(written(tmp_path, text)).address == ("::1", 0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "[collector] is missing"),
        ("[collector]\n", "'inventory' is missing"),
        ('[collector]\ninventory = "i"\nlisten = "9862"\n', "listen = '9862'"),
        ('[collector]\ninventory = "i"\nlisten = "127.0.0.1:70000"\n', "listen = '127.0.0.1:70000'"),
        ('[collector]\ninventory = "i"\nalertmanager_url = "localhost:9093"\n', "alertmanager_url = 'localhost:9093'"),
        ('[collector]\ninventory = "i"\nalertmanager_url = "http://a:b"\n', "alertmanager_url = 'http://a:b'"),
        ('[collector]\ninventory = "i"\npage_url = "http:///x"\n', "page_url = 'http:///x'"),
        ('[collector]\ninventory = "i"\npull_interval_s = nan\n', "pull_interval_s = nan: must be at least 0.2"),
        ('[collector]\ninventory = "i"\nhistory_days = 1.5\n', "history_days = 1.5: must be a whole number"),
        ('[collector]\ninventory = "i"\nfalse_alarms_per_year = 0\n', "false_alarms_per_year = 0: must be at least"),
        ('[collector]\ninventory = "i"\ninterval = 5\n', "unknown key 'interval'"),
        ('[colector]\ninventory = "i"\n', "unknown table [colector]"),
        ('[collector]\ninventory = "i"\nagent_scheme = "ftp"\n', "agent_scheme = 'ftp'"),
        (
            '[collector]\ninventory = "i"\nagent_key_file = "k"\n',
            "agent_cert_file and agent_key_file are given",
        ),
        ('[collector]\ninventory = "i"\ntls_cert_file = "c"\n', "tls_cert_file and tls_key_file are given together"),
        ("[collector\n", "not valid TOML"),
    ],
)
def test_each_mistake_is_one_sentence_that_names_it(tmp_path, text, words):
    path = written(tmp_path, text)
    with pytest.raises(SettingsError, match=re.escape(words)) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_the_example_states_the_priors_and_streams_that_are_the_defaults():
    config = load(Path(__file__).parents[2] / "deploy/examples/collector.toml")
    assert config.priors.by_cause() == dict(PRIORS) and config.streams == SCANNED_STREAMS


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('streams = ["dram", "tape"]', "tape"),
        ("streams = []", "streams"),
        ("priors = { celestial = 0 }", "celestial"),
        ("priors = { supernova = 1 }", "supernova"),
    ],
)
def test_streams_and_priors_that_make_no_sense(tmp_path, line, named):
    path = tmp_path / "c.toml"
    path.write_text(f'[collector]\ninventory = "x.json"\n{line}\n')
    with pytest.raises(SettingsError, match=named):
        load(path)
