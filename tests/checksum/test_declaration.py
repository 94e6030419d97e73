"""What is wrong with a declared framing is one sentence that names file and key."""

from pathlib import Path

import pytest

from checksum.declaration import load
from checksum.settings import SettingsError

RIGHT = {
    "name": '"mine"',
    "byte_order": '"little"',
    "header": """[
        { name = "magic", bytes = 2, value = "fa11" }, { name = "size", bytes = 4 }, { name = "crc", bytes = 4 }
    ]""",
    "length": '"size"',
    "sum": '"crc"',
    "crc": '"crc-32c"',
}
WRONG = {
    'name = ""': "a name of its own",
    'name = "tfrecord"': "none of leveldb-log, tfrecord",
    'name = "auto"': "a name of its own",
    "colour = 1": "unknown key 'colour'",
    'byte_order = "middle"': "must be one of little, big",
    "header = 3": "must be a list of tables",
    "header = [3]": "header 1: must be a table",
    "header = []": "length = 'size': is no field; known are none",
    'header = [{ name = "size" }]': "header 1: the key 'bytes' is missing",
    'header = [{ name = "size", bytes = 0 }]': "bytes = 0: must be at least 1",
    'header = [{ name = "size", bytes = 4 }, { name = "size", bytes = 4 }]': "'size': stands for two parts",
    'header = [{ name = "payload", bytes = 4 }]': "'payload': stands for two parts",
    'header = [{ name = "size", bytes = 9 }, { name = "crc", bytes = 4 }]': "must have at most 8 bytes",
    'header = [{ name = "size", bytes = 4 }, { name = "crc", bytes = 2 }]': "has 32 bits, but the field 'crc' has 16",
    'header = [{ name = "size", bytes = 1, value = "xy" }]': "value = 'xy': must be hexadecimal",
    'header = [{ name = "size", bytes = 1, value = "0102" }]': "as many bytes as the field",
    'trailer = [{ name = "crc", bytes = 4 }]': "'crc': stands for two parts",
    'length = "crc"': "sum = 'crc': can't be the field of the length too",
    'length = "magic"': "is a field that always holds the same",
    'length = "extent"': "length = 'extent': is no field; known are magic, size, crc",
    'length_counts = ["crc"]': "length_counts: must name 'payload'",
    'length_counts = ["payload", "payload"]': "'payload' stands there twice",
    "length_add = -99999999999": "then no length stands for a payload",
    "length_add = 99999999999": "then no length stands for a payload",
    "length_max_bytes = 0": "at least 1",
    "length_max_bytes = 99999999999": "at most",
    'sum = "magic"': "is a field that always holds the same",
    'covers = ["size"]': "covers: must name 'payload'",
    'covers = ["kind", "payload"]': "covers: 'kind' is no part of the record; known are magic, size, crc, payload",
    'covers = ["crc", "payload"]': "covers: 'crc' holds the sum",
    'crc = "crc-31"': "crc = 'crc-31': crcmod knows none of that name",
    "crc = 32": "must be a string",
    "crc = { polynomial = 0x1edc6f41 }": "has 28 bits behind its highest",
    "crc = { polynomial = 0x11edc6f40 }": "lowest bit must be set",
    "crc = { polynomial = 0x11edc6f41, initial = 0x100000000 }": "initial = 0x100000000: has more bits",
    "crc = { polynomial = 0x11edc6f41, colour = 1 }": "crc: unknown key 'colour'",
    "check = 1": "check = 0x1: these parameters give 0xe3069283",
    'mask = "riegeli"': "must be one of none, leveldb",
    "mask = { rotate_right = 32 }": "mask: rotates by or adds more than the 32 bits",
    "mask = { add = 0x100000000 }": "mask: rotates by or adds more than the 32 bits",
    "align_bytes = 0": "at least 1",
    "[other]": "unknown table [other]",
}


def written(path: Path, line: str = "") -> Path:
    """The right declaration with one line in another's place, or with a table behind it."""
    is_key = " = " in line
    keys = RIGHT | (dict([line.split(" = ", 1)]) if is_key else {})
    lines = ["[framing]", *(f"{key} = {value}" for key, value in keys.items()), "" if is_key else line]
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("line", WRONG)
def test_what_is_wrong_is_one_sentence(tmp_path: Path, line: str) -> None:
    path = written(tmp_path / "framing.toml", line)
    with pytest.raises(SettingsError) as raised:
        load(path)
    sentence = str(raised.value)
    assert "\n" not in sentence and sentence.startswith(f"{path}: ")
    assert WRONG[line] in sentence


def test_what_is_right_is_taken(tmp_path: Path) -> None:
    framing = load(written(tmp_path / "framing.toml"))
    assert framing.NAME == "mine"
    assert framing.encode is not None and framing.encode(b"abc", 0)[:6] == b"\xfa\x11\3\0\0\0"
