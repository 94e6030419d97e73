"""The collector's certificates: what it listens with, what follows a renewal, and one sentence for each mistake."""

import json
import ssl
import urllib.request
from pathlib import Path

import pytest

from checksum.settings import SettingsError
from collectors import tls
from collectors.config import CollectorConfig
from tests.certificates import Authority, openssl
from tests.collectors.running import RunningCollector, wait_for, write_config, write_inventory
from tests.collectors.scripted_agent import ScriptedAgent


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ca")


def config(**files: Path) -> CollectorConfig:
    return CollectorConfig(inventory=Path("i"), **files)


def test_the_page_is_served_by_tls_and_a_renewed_certificate_is_taken_up(authority: Authority, tmp_path: Path) -> None:
    old, new = authority.sign("old"), authority.sign("new")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(old.cert.read_bytes())
    key.write_bytes(old.key.read_bytes())
    trusting = ssl.create_default_context(cafile=authority.cert)
    inventory = write_inventory(tmp_path / "inventory.json", [ScriptedAgent()])
    settings = write_config(tmp_path, inventory, tls_cert_file=str(cert), tls_key_file=str(key))
    with RunningCollector(settings) as collector:
        assert collector.url.startswith("https://")
        with urllib.request.urlopen(f"{collector.url}/api/status", timeout=20, context=trusting) as answer:
            assert json.load(answer)
        first = ssl.get_server_certificate(_address(collector.url))
        key.write_bytes(new.key.read_bytes())
        wait_for(lambda: any("stays in force" in line for line in collector.log))
        assert ssl.get_server_certificate(_address(collector.url)) == first
        cert.write_bytes(new.cert.read_bytes())
        wait_for(lambda: ssl.get_server_certificate(_address(collector.url)) != first)


def _address(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("https://").partition(":")
    return host, int(port)


def test_renewed_credentials_are_used_for_the_next_pull(authority: Authority, tmp_path: Path) -> None:
    pair = authority.sign("collector")
    followed = tls.of_agents(config(agent_ca_file=authority.cert, agent_cert_file=pair.cert, agent_key_file=pair.key))
    first = followed.context
    followed.follow()
    assert followed.context is first
    pair.key.write_text("half a key")
    followed.follow()
    assert followed.context is first, "what can't be used is not taken up"
    authority.sign("collector")
    followed.follow()
    assert followed.context is not first


def test_what_is_wrong_with_the_files_is_one_sentence(authority: Authority, tmp_path: Path) -> None:
    pair, other = authority.sign("a"), authority.sign("b")
    encrypted = tmp_path / "encrypted.key"
    openssl("pkcs8", "-topk8", "-in", pair.key, "-out", encrypted, "-passout", "pass:secret")
    for files, word in (
        ({"agent_ca_file": tmp_path / "none"}, "agent_ca_file"),
        ({"agent_ca_file": pair.key}, "agent_ca_file"),
        ({"agent_cert_file": pair.cert, "agent_key_file": other.key}, "KEY_VALUES_MISMATCH"),
        ({"agent_cert_file": pair.cert, "agent_key_file": encrypted}, "agent_cert_file"),
        ({"agent_cert_file": pair.cert, "agent_key_file": tmp_path}, f"agent_key_file = '{tmp_path}': can't be read"),
    ):
        with pytest.raises(SettingsError, match=word) as caught:
            tls.of_agents(config(**files))
        assert "\n" not in str(caught.value)
    with pytest.raises(SettingsError, match="tls_cert_file"):
        tls.of_listener(config(tls_cert_file=pair.cert, tls_key_file=other.key))
    assert tls.of_listener(config()) is None
