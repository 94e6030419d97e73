"""The datum: what is encoded is decoded, what is missing is named, and nothing hostile gets further."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.report import (
    COUNT_MAX,
    SEVERITIES,
    STREAMS,
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

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=30)
TIMES = st.integers(0, TIME_NS_MAX)
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS, lambda inner: st.dictionaries(TEXTS, inner), max_leaves=4
)
COMMON = {
    "time_ns": TIMES,
    "time_error_s": st.floats(0, 1e11),
    "host": TEXTS,
    "device": TEXTS,
    "count": st.integers(1, COUNT_MAX),
    "novel": st.booleans(),
    "stream": st.sampled_from(STREAMS),
    "cluster": st.none() | TEXTS,
    "journal": st.none() | TEXTS,
    "seq": st.none() | st.integers(0, COUNT_MAX),
    "detail": st.dictionaries(TEXTS, JSONS, max_size=3),
}
LINES = st.one_of(
    st.builds(MemoryFault, **COMMON, severity=st.sampled_from(SEVERITIES), witnesses=st.tuples(TEXTS), epoch=TEXTS),
    st.builds(RecordFault, **COMMON),
    st.builds(
        Alive,
        time_ns=TIMES,
        cluster=TEXTS,
        hosts_up=st.integers(0, 10**9),
        hosts=st.integers(0, 10**9),
        streams=st.none() | st.dictionaries(st.sampled_from(STREAMS), st.integers(0, 10**9)),
    ),
    st.builds(Change, time_ns=TIMES, id=TEXTS, action=st.sampled_from(["open", "close"]), cohort=TEXTS),
    st.builds(
        AgentHeader,
        time_ns=TIMES,
        complete_until_ns=TIMES,
        boot_id=TEXTS,
        host=TEXTS,
        cursor=TEXTS,
        journals=st.tuples(st.builds(JournalSpan, journal=TEXTS, first_seq=st.just(1), last_seq=st.integers(0, 99))),
        watching=st.dictionaries(st.sampled_from(STREAMS), TIMES),
        facts=st.dictionaries(TEXTS, TEXTS, max_size=2),
    ),
)
EXAMPLES = {
    "memory": MemoryFault(
        time_ns=1, time_error_s=5, host="h", device="mc0", stream="dram", severity="corrected", count=1, novel=True
    ),
    "record": RecordFault(time_ns=1, time_error_s=5, host="h", device="/dev/sda", count=1, novel=False),
    "alive": Alive(time_ns=1, cluster="fra", hosts_up=1, hosts=2),
    "change": Change(time_ns=1, id="c1", action="open", cohort="firmware"),
    "agent": AgentHeader(
        time_ns=1,
        complete_until_ns=1,
        boot_id="b",
        host="h",
        cursor="c",
        journals=(JournalSpan(journal="j", first_seq=1, last_seq=0),),
        watching={},
    ),
}


@given(LINES)
def test_what_is_encoded_is_decoded(line) -> None:
    text = encode(line)
    assert "\n" not in text
    assert decode(text) == line
    assert decode(text.encode()) == line


@pytest.mark.parametrize("kind", EXAMPLES)
def test_a_missing_key_is_named(kind: str) -> None:
    document = json.loads(encode(EXAMPLES[kind]))
    required = set(document) - {"kind"}
    assert required
    for name in required:
        with pytest.raises(ReportError, match=f"lacks the key '{name}'"):
            decode(json.dumps({key: value for key, value in document.items() if key != name}))


def test_unknown_keys_and_streams_are_ignored() -> None:
    header = json.loads(encode(EXAMPLES["agent"]))
    assert decode(json.dumps({**header, "new": 1, "watching": {"dram": 5, "quantum": 6}})).watching == {"dram": 5}


@pytest.mark.parametrize(
    "key", ["time_ns", "time_error_s", "host", "device", "stream", "severity", "count", "novel", "detail", "witnesses"]
)
@pytest.mark.parametrize(
    "value",
    [10**30, -1, True, "", "x\0y", "\ud800", "y" * 5000, [[]], {"a": {}}, [1], 0.5, "nonsense"],
    ids=lambda v: repr(v)[:12],
)
def test_senseless_values_are_errors_that_name_the_key(key: str, value) -> None:
    document = {**json.loads(encode(EXAMPLES["memory"])), key: value}
    try:
        line = decode(json.dumps(document))
    except ReportError as error:
        assert key in str(error) and len(str(error)) < 300
    else:
        assert decode(encode(line)) == line  # it was sensible after all, such as a host called "nonsense"


@given(st.binary(max_size=60) | st.text(max_size=60) | JSONS.map(json.dumps))
def test_any_bytes_are_a_line_or_a_report_error(text) -> None:
    try:
        decode(text)
    except ReportError as error:
        assert str(error)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_what_json_does_not_know_is_a_report_error(constant: str) -> None:
    with pytest.raises(ReportError):
        decode(encode(EXAMPLES["memory"]).replace('"time_error_s":5', f'"time_error_s":{constant}'))


def test_deep_nesting_is_a_report_error() -> None:
    with pytest.raises(ReportError):
        decode("[" * 200_000)
