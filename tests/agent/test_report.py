"""The datum: what one side encodes the other decodes, and nothing else is let in."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.report import (
    CHANGE_ACTIONS,
    COUNT_MAX,
    SEVERITIES,
    STREAMS,
    TEXT_CHARACTERS_MAX,
    TIME_NS_MAX,
    AgentHeader,
    Alive,
    Change,
    JournalSpan,
    MemoryFault,
    RecordFault,
    ReportError,
    decode,
    encode,
)

text = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), min_size=1, max_size=40)
time_ns = st.integers(0, TIME_NS_MAX)
seq = st.integers(0, COUNT_MAX)
leaf = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text
detail = st.dictionaries(text, leaf | st.lists(leaf, max_size=3), max_size=3)
per_stream = st.dictionaries(st.sampled_from(STREAMS), st.integers(0, 10**9), max_size=3)
common = {
    "time_ns": time_ns,
    "time_error_s": st.floats(0, 1e11),
    "host": text,
    "device": text,
    "stream": st.sampled_from(STREAMS),
    "count": st.integers(1, COUNT_MAX),
    "novel": st.booleans(),
    "cluster": st.none() | text,
    "journal": st.none() | text,
    "seq": st.none() | seq,
    "detail": detail,
}
memory = st.builds(
    MemoryFault,
    **common,
    severity=st.sampled_from(SEVERITIES),
    witnesses=st.lists(text, max_size=3).map(tuple),
    epoch=st.none() | text,
)
lines = st.one_of(
    memory,
    st.builds(RecordFault, **common),
    st.builds(
        Alive,
        time_ns=time_ns,
        cluster=text,
        hosts_up=st.integers(0, 10**9),
        hosts=st.none() | st.integers(0, 10**9),
        streams=st.none() | per_stream,
    ),
    st.builds(Change, time_ns=time_ns, id=text, action=st.sampled_from(CHANGE_ACTIONS), cohort=text),
    st.builds(
        AgentHeader,
        time_ns=time_ns,
        complete_until_ns=time_ns,
        boot_id=text,
        host=text,
        cursor=text,
        journals=st.lists(st.builds(JournalSpan, journal=text, first_seq=seq, last_seq=seq), max_size=3).map(tuple),
        watching=per_stream,
        facts=detail,
    ),
)

REQUIRED = {
    "memory": ["time_ns", "time_error_s", "host", "device", "stream", "count", "novel", "severity"],
    "record": ["time_ns", "time_error_s", "host", "device", "stream", "count", "novel"],
    "alive": ["time_ns", "cluster", "hosts_up"],
    "change": ["time_ns", "id", "action", "cohort"],
    "agent": ["time_ns", "complete_until_ns", "boot_id", "host", "cursor", "journals", "watching"],
}
EXAMPLES = {
    "memory": {
        "time_ns": 1,
        "time_error_s": 5,
        "host": "h",
        "device": "mc0/unknown",
        "stream": "dram",
        "count": 1,
        "novel": True,
        "severity": "corrected",
        "witnesses": ["edac"],
        "detail": {"label": "A1"},
        "seq": 1,
        "journal": "j",
    },
    "record": {
        "time_ns": 1,
        "time_error_s": 5,
        "host": "h",
        "device": "/dev/sda",
        "stream": "record",
        "count": 1,
        "novel": False,
    },
    "alive": {"time_ns": 1, "cluster": "c", "hosts_up": 1, "hosts": 2, "streams": {"dram": 1}},
    "change": {"time_ns": 1, "id": "x", "action": "open", "cohort": "y"},
    "agent": {
        "time_ns": 1,
        "complete_until_ns": 1,
        "boot_id": "b",
        "host": "h",
        "cursor": "c",
        "journals": [{"journal": "j", "first_seq": 1, "last_seq": 0}],
        "watching": {"dram": 1},
    },
}
HOSTILE = [
    10**30,
    -1,
    0.5,
    1e308,
    float("nan"),
    float("inf"),
    "\ud800",
    "\0",
    "",
    "x" * (TEXT_CHARACTERS_MAX + 1),
    [],
    [[]],
    {},
    {"a": float("nan")},
    {"dram": -1},
    {"dram": "\udfff"},
    {"\ud800": 1},
    [{"journal": "j"}],
    ["\ud800"],
    True,
    10**4000,
]


@given(lines)
@settings(max_examples=300, deadline=None)
def test_round_trip(line) -> None:
    text = encode(line)
    assert "\n" not in text and text.isascii()
    assert decode(text) == line == decode(text.encode())


@pytest.mark.parametrize(("kind", "key"), [(kind, key) for kind, keys in REQUIRED.items() for key in keys])
def test_a_missing_key_is_named(kind: str, key: str) -> None:
    document = {"kind": kind, **EXAMPLES[kind]}
    decode(json.dumps(document))
    for broken in ({k: v for k, v in document.items() if k != key}, {**document, key: None}):
        with pytest.raises(ReportError, match=f"'{key}'"):
            decode(json.dumps(broken))


@pytest.mark.parametrize("kind", EXAMPLES)
def test_unknown_keys_are_ignored(kind: str) -> None:
    document = {"kind": kind, **EXAMPLES[kind]}
    assert decode(json.dumps({**document, "colour": "blue", "nested": {"a": [1]}})) == decode(json.dumps(document))


def test_a_stream_of_a_newer_version_is_ignored() -> None:
    document = {"kind": "alive", **EXAMPLES["alive"], "streams": {"dram": 1, "quantum": 2}}
    assert decode(json.dumps(document)).streams == {"dram": 1}


@pytest.mark.parametrize(("kind", "key"), [(kind, key) for kind, example in EXAMPLES.items() for key in example])
def test_a_hostile_value_is_a_report_error_or_harmless(kind: str, key: str) -> None:
    refused = 0
    for value in HOSTILE:
        try:
            line = decode(json.dumps({"kind": kind, **EXAMPLES[kind], key: value}))
        except ReportError as error:
            assert len(str(error)) < 300
            refused += 1
        else:
            encode(line).encode()
            str(line).encode()
    assert refused >= 10


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b'"memory"',
        b"{",
        b"[" * 100_000,
        b'{"kind":' + b"[" * 100_000,
        b'{"kind":null}',
        b'{"kind":["memory"]}',
        b'{"kind":"quantum"}',
        b"1" * 10_000,
        b'{"kind":"change","time_ns":' + b"1" * 10_000 + b"}",
        "\ud800",
    ],
)
def test_what_is_no_line_is_a_report_error(line: bytes | str) -> None:
    with pytest.raises(ReportError):
        decode(line)


@given(st.binary(max_size=60) | st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_a_report_error(line: bytes | str) -> None:
    with pytest.raises(ReportError):
        decode(line)


def test_what_nobody_needs_may_be_left_out() -> None:
    assert decode('{"kind":"alive","time_ns":1,"cluster":"c","hosts_up":2}') == Alive(
        time_ns=1, cluster="c", hosts_up=2
    )
    close = Change(time_ns=1, id="x", action="close")
    assert decode(encode(close)) == close and "cohort" not in encode(close)
