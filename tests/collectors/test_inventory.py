import json

import pytest

from collectors.inventory import InventoryError, load
from tests.collectors.fleets import CITIES

PLACE = {"cluster": "fra1", "latitude": "50.11", "longitude": "8.68"}


def write(tmp_path, *groups, name="inventory.json"):
    path = tmp_path / name
    path.write_text(json.dumps([{"targets": targets, "labels": labels} for targets, labels in groups]))
    return path


def test_clusters_are_sorted_and_hosts_keep_the_order_of_the_file(tmp_path):
    path = write(
        tmp_path,
        (["z2:9861", "z1:9861"], {**PLACE, "cluster": "zrh1", "latitude": "47.38", "rack": "r1"}),
        (["a1:9861"], {**PLACE, "altitude_m": "112", "facing_azimuth_deg": "180", "facing_elevation_deg": "0"}),
    )
    inventory = load(path)
    assert inventory.cluster_names == ("fra1", "zrh1")
    assert [host.name for host in inventory.hosts] == ["z2", "z1", "a1"]
    fra, zrh = inventory.clusters
    assert (fra.altitude_m, fra.facing_azimuth_deg, fra.facing_elevation_deg, fra.hosts) == (112.0, 180.0, 0.0, 1)
    assert (zrh.latitude_deg, zrh.longitude_deg, zrh.altitude_m, zrh.facing_elevation_deg) == (47.38, 8.68, 0.0, 90.0)
    assert zrh.hosts == 2 and zrh.labels["rack"] == "r1"


def test_a_cluster_has_only_the_labels_that_its_hosts_share(tmp_path):
    path = write(
        tmp_path, (["a:1"], {**PLACE, "rack": "r1", "row": "7"}), (["b:1"], {**PLACE, "rack": "r2", "row": "7"})
    )
    labels = load(path).clusters[0].labels
    assert labels["row"] == "7" and "rack" not in labels


@pytest.mark.parametrize(
    ("target", "label", "name"),
    [
        ("fra1-h1:9861", None, "fra1-h1"),
        ("[2001:db8::1]:9861", None, "[2001:db8::1]"),
        ("bare", None, "bare"),
        ("10.0.0.1:9861", "db-7", "db-7"),
    ],
)
def test_a_host_is_named_by_its_label_or_its_target_without_port(tmp_path, target, label, name):
    labels = PLACE if label is None else {**PLACE, "host": label}
    assert load(write(tmp_path, ([target], labels))).hosts[0].name == name


def test_the_hosts_label_gives_a_target_weight():
    inventory = load(CITIES)
    assert len(inventory.clusters) == 40
    assert sum(cluster.hosts for cluster in inventory.clusters) == 444939


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"latitude": "91"}, ["h1:1", "latitude = '91'", "from -90 to 90"]),
        ({"latitude": "nan"}, ["latitude = 'nan'"]),
        ({"latitude": "north"}, ["latitude = 'north'", "number"]),
        ({"longitude": "-181"}, ["longitude = '-181'", "from -180 to 180"]),
        ({"latitude": None}, ["h1:1", "no label 'latitude'"]),
        ({"cluster": None}, ["h1:1", "no label 'cluster'"]),
        ({"cluster": ""}, ["no label 'cluster'"]),
        ({"__scheme__": "ftp"}, ["h1:1", "__scheme__", "'ftp'"]),
        ({"altitude_m": "1e9"}, ["altitude_m = '1e9'"]),
        ({"facing_elevation_deg": "100"}, ["facing_elevation_deg = '100'"]),
        ({"hosts": "0"}, ["hosts = '0'", "whole number from 1"]),
        ({"hosts": "2.5"}, ["hosts = '2.5'"]),
        ({"latitude": 50.11}, ["latitude = 50.11", "must be a string"]),
    ],
)
def test_an_impossible_label_is_one_sentence_with_file_key_and_value(tmp_path, change, words):
    labels = {key: value for key, value in {**PLACE, **change}.items() if value is not None}
    path = write(tmp_path, (["h1:1"], labels))
    with pytest.raises(InventoryError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    assert all(word in message for word in words), message


def test_unequal_coordinates_name_both_hosts(tmp_path):
    path = write(tmp_path, (["a:1"], PLACE), (["b:1"], {**PLACE, "longitude": "9"}))
    with pytest.raises(InventoryError, match=r"cluster fra1: longitude is 8\.68 at a but 9 at b"):
        load(path)


def test_a_target_or_host_name_may_appear_once(tmp_path):
    with pytest.raises(InventoryError, match="target a:1 is listed twice"):
        load(write(tmp_path, (["a:1", "a:1"], PLACE)))
    with pytest.raises(InventoryError, match="targets a:1 and a:2 share the host name 'a'"):
        load(write(tmp_path, (["a:1", "a:2"], PLACE)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[{]", "not valid JSON: line 1"),
        ("{}", "must be a list of target groups"),
        ("[1]", "group 1: must be an object"),
        ('[{"labels": {}}]', "targets must be a list"),
        ('[{"targets": [7], "labels": {"cluster": "a"}}]', "targets: 7 must be a string"),
        ('[{"targets": ["a"], "labels": []}]', "labels must be an object"),
        ("[]", "holds no target"),
        ("[" * 100_000, "inventory"),
    ],
)
def test_anything_else_is_one_sentence_too(tmp_path, text, words):
    path = tmp_path / "inventory.json"
    path.write_text(text)
    with pytest.raises(InventoryError, match=words):
        load(path)


def test_a_file_that_is_not_there_or_not_text(tmp_path):
    with pytest.raises(InventoryError, match="No such file"):
        load(tmp_path / "none.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    with pytest.raises(InventoryError, match="not valid UTF-8"):
        load(tmp_path / "bytes.json")


def test_yaml_needs_no_quotes_as_prometheus_needs_none(tmp_path):
    path = tmp_path / "inventory.yml"
    path.write_text(
        "- targets: ['a:1', b:1]\n"
        "  labels: &place {cluster: fra1, latitude: 50.10, longitude: 8, row: 017, power: yes, region: }\n"
        "- targets: [c:1]\n"
        "  labels: *place\n"
    )
    inventory = load(path)
    assert [host.name for host in inventory.hosts] == ["a", "b", "c"]
    assert inventory.clusters[0].latitude_deg == 50.1
    labels = inventory.clusters[0].labels
    assert (labels["latitude"], labels["row"], labels["power"], labels["region"]) == ("50.10", "017", "yes", "")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- targets: [", "not valid YAML"),
        ("- targets: ['a:1']\n  labels: {cluster: c, latitude: 2026-99-99, longitude: 1}", "latitude = '2026-99-99'"),
        ("- targets: ['a:1']\n  labels: {cluster: {a: b}}", "label cluster = {'a': 'b'}: must be a string"),
        ("- targets: ['a:1']\n  labels: !!python/object:os.system {cluster: c}", "has no label 'latitude'"),
        ("- {[a]: b}", "not valid YAML"),
        ("\x01", "not valid YAML"),
        ("", "must be a list"),
    ],
)
def test_bad_yaml_is_one_sentence(tmp_path, text, words):
    path = tmp_path / "inventory.yaml"
    path.write_text(text)
    with pytest.raises(InventoryError) as trouble:
        load(path)
    assert words in str(trouble.value) and "\n" not in str(trouble.value)
