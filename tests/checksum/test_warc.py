"""WARC: files by warcio, digests as in the wild, every flip and cut of small files, and the traps of searching."""

import base64
import gzip
import hashlib
import http.client
import http.server
import io
import json
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from warcio.archiveiterator import ArchiveIterator
from warcio.capture_http import capture_http
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from checksum import gzip_members, warc
from checksum.commands import locate, repair, salvage, verify
from checksum.finding import Finding, Record, Unreadable, Verdict, merge
from checksum.formats import recognise
from checksum.warc import scan
from tests.checksum.faults import (
    Item,
    assert_tiles,
    counted,
    cut,
    findings,
    flip,
    flips,
    garble,
    random_flip,
    records,
    warc_record,
    with_a_hole,
)

DATE = "2026-11-23T12:00:00Z"


def http_headers(*fields: tuple[str, str]) -> StatusAndHeaders:
    return StatusAndHeaders("200 OK", [("Content-Type", "text/html"), *fields], protocol="HTTP/1.1")


def crawl(count: int, *, compressed: bool, version: str = "1.0", words: int = 60) -> bytes:
    """What warcio writes: warcinfo, then requests, responses, revisits and resources."""
    rng = random.Random(count)
    file = io.BytesIO()
    writer = WARCWriter(file, gzip=compressed, warc_version=version)

    def write(kind: str, number: int, payload: bytes, **options: object) -> None:
        fixed = {"WARC-Record-ID": f"<urn:uuid:{kind}-{number}>", "WARC-Date": DATE}
        url = f"http://example.org/{number}"
        options |= {"payload": io.BytesIO(payload), "length": len(payload), "warc_headers_dict": fixed}
        writer.write_record(writer.create_warc_record(url, kind, **options))

    write("warcinfo", 0, b"software: crawler\r\nformat: WARC\r\n")
    for number in range(count):
        text = b" ".join(rng.choices((b"the", b"crawled", b"page", b"<p>"), k=words))
        request = StatusAndHeaders("GET / HTTP/1.1", [("Host", "example.org")], is_http_request=True)
        write("request", number, b"", http_headers=request)
        write("response", number, text, http_headers=http_headers())
        write("resource", number, text, warc_content_type="text/plain")
        fixed = {"WARC-Record-ID": f"<urn:uuid:revisit-{number}>", "WARC-Date": DATE}
        digest = "sha1:" + base64.b32encode(hashlib.sha1(text).digest()).decode()
        writer.write_record(
            writer.create_revisit_record(
                "http://example.org/again", digest, "http://example.org", DATE, http_headers(), fixed
            )
        )
    return file.getvalue()


def block(data: bytes | None) -> bytes:
    """What a digest covers of a record."""
    assert data is not None
    return data.partition(b"\r\n\r\n")[2]


def blocks(data: bytes) -> list[bytes]:
    return [block(item.data) for item in records(scan([data]))]


def assert_blocks(items: Iterable[Item], written: Iterable[bytes]) -> None:
    """No record that was checked holds what was never written."""
    known = set(written)
    assert [item for item in records(items) if item.is_checked and block(item.data) not in known] == []


def recognised(data: bytes) -> object:
    return recognise(lambda offset, length: data[offset : offset + length], len(data))


def normal(items: Iterable[Item]) -> list[object]:
    items = list(items)
    return [*records(items), *merge(findings(items))]


def chunks(data: bytes, size: int = 2**16) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def plain(*contents: bytes) -> bytes:
    return b"".join(map(warc_record, contents))


# by the real implementation


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("compressed", [False, True])
def test_files_of_warcio(compressed: bool, version: str) -> None:
    data = crawl(5, compressed=compressed, version=version)
    expected = [record.raw_stream.read() for record in ArchiveIterator(io.BytesIO(data), no_record_parse=True)]
    assert len(expected) == 21
    items = list(scan(cut(data, random.Random(1))))
    assert_tiles(items, 0, len(data))
    assert [block(item.data).removesuffix(b"\r\n\r\n") for item in records(items)] == expected
    assert all(item.is_checked and not item.by_search for item in records(items))
    without = list(scan(chunks(data), with_data=False))
    assert without == [Record(item.begin, item.end, None) for item in items]
    assert counted(warc.verify(chunks(data))) == counted(items)
    assert recognised(data) is warc


class _Chunked(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for part in (b"the crawled ", b"page"):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


def test_a_captured_page() -> None:
    """The payload digest of warcio covers a chunked body as it came."""
    server = http.server.HTTPServer(("127.0.0.1", 0), _Chunked)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        file = io.BytesIO()
        writer = WARCWriter(file, gzip=False)
        with capture_http(writer):
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
            connection.request("GET", "/")
            assert connection.getresponse().read() == b"the crawled page"
            connection.close()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    data = file.getvalue()
    assert len(records(scan([data]))) == 2
    without_block_digest = data.replace(b"WARC-Block-Digest", b"WARC-Other-Digest")
    items = list(scan([without_block_digest]))
    assert [(isinstance(item, Record), item.is_checked) for item in items] == [(True, True)] * 2
    damaged = without_block_digest.replace(b"crawled", b"crewled")
    assert [finding.verdict for finding in findings(scan([damaged]))] == [Verdict.skipped]


# digests as they are in the wild

BODY = b"the crawled page"
HTTP = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + BODY
AS_IT_CAME = b"4\r\nthe \r\nc;x=y\r\ncrawled page\r\n0\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + AS_IT_CAME


def base32(name: str, data: bytes) -> str:
    return base64.b32encode(hashlib.new(name, data).digest()).decode()


def response(*fields: str) -> tuple[str, ...]:
    return ("WARC-Type: response", "Content-Type: application/http; msgtype=response", *fields)


@pytest.mark.parametrize(
    ("content", "fields"),
    [
        (BODY, [f"WARC-Block-Digest: sha1:{hashlib.sha1(BODY).hexdigest()}"]),
        (BODY, [f"WARC-Block-Digest: SHA-1:{base32('sha1', BODY).lower()}"]),
        (BODY, [f"warc-block-digest:sha-256:{base32('sha256', BODY)}"]),
        (BODY, [f"WARC-Block-Digest: sha256:{base32('sha256', BODY).rstrip('=')}"]),
        (BODY, [f"WARC-Block-Digest: sha512:{hashlib.sha512(BODY).hexdigest().upper()}"]),
        (BODY, [f"WARC-Block-Digest: md5:{hashlib.md5(BODY).hexdigest()}"]),
        (BODY, [f"WARC-Block-Digest: md5:{base32('md5', BODY)}"]),
        (BODY, [f"WARC-Payload-Digest: sha1:{base32('sha1', BODY)}"]),
        (HTTP, response(f"WARC-Payload-Digest: sha1:{base32('sha1', BODY)}")),
        (CHUNKED, response(f"WARC-Payload-Digest: sha1:{base32('sha1', BODY)}")),
        (CHUNKED, response(f"WARC-Payload-Digest: sha1:{base32('sha1', AS_IT_CAME)}")),
        (
            HTTP,
            response(f"WARC-Block-Digest: sha1:{base32('sha1', HTTP)}", "WARC-Payload-Digest: sha1:" + "A" * 32),
        ),
    ],
)
def test_digests_that_hold_and_that_dont(content: bytes, fields: list[str]) -> None:
    data = warc_record(content, *fields)
    assert list(scan([data])) == [Record(0, len(data), data)]
    damaged = data.replace(b"crawled", b"crewled")
    assert list(scan([damaged])) == [Finding(0, len(data), Verdict.skipped)]
    assert list(scan([gzip.compress(data)])) == [Record(0, len(gzip.compress(data)), data)]
    assert not records(scan([gzip.compress(damaged)]))  # damaged before it was compressed


@pytest.mark.parametrize(
    "fields",
    [
        ["WARC-Date: 2026-11-23T12:00:00Z"],
        ["WARC-Block-Digest: sha1:TOOSHORT"],
        ["WARC-Block-Digest: crc32:12345678"],
        ["WARC-Type: revisit", "WARC-Payload-Digest: sha1:" + "A" * 32],
        ["WARC-Type: revisit", "WARC-Block-Digest: sha1:" + "A" * 32],
        response("WARC-Payload-Digest: sha1:" + "A" * 32, "WARC-Truncated: length"),
        response("WARC-Payload-Digest: sha1:" + "A" * 32, "WARC-Segment-Number: 1"),
        ["WARC-Type: continuation", "WARC-Payload-Digest: sha1:" + "A" * 32, "WARC-Segment-Number: 2"],
    ],
)
def test_what_cannot_be_checked_is_not_called_corrupt(fields: list[str]) -> None:
    record = warc_record(HTTP, *fields)
    data = record + plain(b"another")
    assert list(scan([data])) == [
        Record(0, len(record), record, is_checked=False),
        Record(len(record), len(data), data[len(record) :]),
    ]
    assert [(item.records, item.unchecked) for item in warc.verify([data])] == [(2, 1)]
    assert all(item.is_checked for item in scan([gzip.compress(record)]))  # by the member's CRC-32


# one flipped bit, one cut


@pytest.mark.parametrize("compressed", [False, True])
def test_every_flipped_bit_costs_one_record_at_most(compressed: bool) -> None:
    contents = [b"", b"hello, world", HTTP, bytes(range(256)), b"the last one"]
    data = b"".join(gzip.compress(warc_record(each), mtime=0) if compressed else warc_record(each) for each in contents)
    ends = [item.end for item in scan([data])]
    written = blocks(data)
    for offset_bytes in range(len(data)):
        for bit in range(8):
            damaged, truth = flip(data, offset_bytes, bit)
            items = list(scan([damaged]))
            assert_tiles(items, 0, len(damaged))
            assert_blocks(items, written)
            found = records(items)
            assert len(found) >= len(contents) - 1, truth
            assert flips(items) in ([], [truth])
            assert not any(item.by_search for item in found) or compressed, truth
            if not compressed and data[offset_bytes] in b"\r\n" and bit < 7:
                number = sum(end <= offset_bytes for end in ends)
                is_block = offset_bytes < ends[number] - 4 and contents[number] in (HTTP, bytes(range(256)))
                assert is_block or flips(items) == [truth] or len(found) == len(contents), truth
            if len(found) == len(contents):  # in a field that no digest covers, or in unused bits of a gzip header
                assert [block(item.data) for item in found] == written
                assert len({item.is_checked for item in found}) <= 2


def test_every_cut_is_torn_and_costs_only_what_was_cut() -> None:
    data = plain(b"", b"hello, world", HTTP, b"the last one")
    ends = [item.end for item in scan([data])]
    for size in range(len(data)):
        items = list(scan([data[:size]]))
        assert_tiles(items, 0, size)
        assert len(records(items)) == sum(end <= size for end in ends)
        assert {finding.verdict for finding in findings(items)} == ({Verdict.torn} if size not in (0, *ends) else set())


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(("count", "words"), [(10, 60), (5, 3000)])
def test_a_random_flip_costs_one_record(
    count: int, words: int, compressed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    data = crawl(count, compressed=compressed, words=words)
    written = blocks(data)
    rng = random.Random(words)
    lost = 0
    for _ in range(200):
        damaged, truth = random_flip(data, rng)
        items = list(scan([damaged]))
        assert_tiles(items, 0, len(damaged))
        assert_blocks(items, written)
        assert flips(items) in ([], [truth])
        lost += len(written) - len(records(items))
    with capsys.disabled():
        print(f"\n{len(data) // len(written)} B records: {lost / 200:.2f} lost per flip", end="")
    assert lost <= 206


def test_flips_in_the_frame_are_named() -> None:
    """Each in a place where it changes where the record ends, or what its digest should be."""
    data = plain(b"first", HTTP, b"last")
    begin = len(plain(b"first"))
    end = len(plain(b"first", HTTP))
    length, digest = data.index(b"Content-Length", begin), data.index(b"sha1:", begin)
    for at, bit in (
        *((begin + at, bit) for at in range(8) for bit in range(8) if at != 7),  # WARC/1.
        *((length + at, 0) for at in range(16)),  # the name of the field
        *((length + 16, bit) for bit in range(8)),  # its first digit
        *((digest + 5 + at, bit) for at in range(32) for bit in range(5)),
        *((end - 4 + at, bit) for at in range(4) for bit in range(8)),
    ):
        damaged, truth = flip(data, at, bit)
        items = list(scan([damaged]))
        assert flips(items) == [truth], (damaged[begin:end], truth)
        assert len(records(items)) == 2


# where nothing says where a record ends


def test_records_within_a_record_are_no_records() -> None:
    inner = plain(*(b"inner %d" % number for number in range(5)))
    data = plain(b"first", inner, b"last", inner, b"end")
    written = blocks(data)
    begin, end = (item.begin for item in list(scan([data]))[1:3])
    for at in range(begin, begin + 150):
        for bit in range(8):
            items = list(scan([flip(data, at, bit)[0]]))
            assert_blocks(items, written)
            assert len(records(items)) >= 4
    for garbage in (b"\xff" * 200, bytes(200)):
        items = list(scan([data[:begin] + garbage + data[begin + 200 :]]))
        assert_blocks(items, written)
        assert [item.by_search for item in records(items)] == [False, True, True, True]
    without = data[: begin + 200] + data[begin + 300 : end] + data[end:]  # bytes are missing
    assert_blocks(scan([without]), written)


def test_the_rest_of_an_inner_header_does_not_complete_an_outer_one() -> None:
    """Garbage from within the header of a record to within that of an inner one, whose digest holds."""
    inner = plain(b"inner 0", b"inner 1", b"inner 2")
    data = plain(b"first", inner, b"last")
    begin, inner_begin = len(plain(b"first")), data.index(inner)
    for end in range(inner_begin, inner_begin + 30):
        garbage = random.Random(end).randbytes(end - begin - 14)
        items = list(scan([data[: begin + 14] + garbage + data[end:]]))
        assert_blocks([item for item in items if not (isinstance(item, Record) and item.by_search)], blocks(data))


def test_a_header_longer_than_what_is_tried() -> None:
    """Its Content-Length stands behind the 2 KiB in which a flipped bit is sought."""
    long = warc_record(BODY, f"WARC-Block-Digest: sha1:{base32('sha1', BODY)}", "X: " + "y" * 3000)
    data = plain(b"first") + long + plain(b"last")
    assert len(records(scan([data]))) == 3
    damaged = data.replace(b"crawled", b"crewled")
    assert [finding.verdict for finding in findings(scan([damaged]))] == [Verdict.skipped]


def test_records_that_may_be_nested_are_marked() -> None:
    """Damaged, and cut exactly where an inner record ended: nothing tells them from records of the file itself."""
    inner = plain(*(b"inner %d" % number for number in range(5)))
    data = plain(b"first", inner)
    begin, last = len(plain(b"first")), data.rindex(b"WARC/1.0")
    damaged = data[:begin] + b"\xff" * 20 + data[begin + 20 : last]
    items = records(scan([damaged]))
    assert [item.by_search for item in items] == [False, True, True, True, True]


def test_holes_cost_the_records_they_touch() -> None:
    data = plain(b"first", bytes(3000), HTTP, b"last")
    begins = [item.begin for item in scan([data])]
    for begin, end, lost in ((begins[1] + 500, begins[1] + 1000, 1), (begins[2] - 9, begins[2] + 5, 2), (0, 9, 1)):
        pieces: list[bytes | Unreadable] = [data[:begin], Unreadable(end - begin), data[end:]]
        items = list(scan(pieces))
        assert_tiles(items, 0, len(data))
        assert len(records(items)) == 4 - lost
        assert Verdict.unreadable in {finding.verdict for finding in findings(items)}


def test_zeros_are_said_to_be_zeros() -> None:
    data = plain(b"first", HTTP, b"last")
    for tail in (b"\0" * 9, bytes(100_000), bytes(3 * 2**20)):
        items = list(scan(cut(data + tail, random.Random(1))))
        assert [finding.verdict for finding in merge(findings(items))] == [Verdict.zeros]
        assert len(records(items)) == 3


def test_a_member_of_many_records_is_lost_as_one() -> None:
    whole, other = gzip.compress(plain(b"first", HTTP, b"last")), gzip.compress(plain(b"another"))
    assert len(records(scan([whole + other]))) == 2
    damaged = gzip.compress(plain(b"first", HTTP, b"last").replace(b"crawled", b"crewled"))
    assert [isinstance(item, Record) for item in scan([damaged + other])] == [False, True]
    cut_short = gzip.compress(plain(HTTP)[:-20])
    assert [isinstance(item, Record) for item in scan([cut_short + other])] == [False, True]


# bounds


def test_long_records_are_verified_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warc, "RECORD_BYTES_MAX", 1000)
    monkeypatch.setattr(warc, "_STEP_BYTES", 300)
    body = random.Random(1).randbytes(5000)
    data = plain(b"first", body, b"last")
    assert all(isinstance(item, Record) and item.is_checked for item in scan(chunks(data, 700), with_data=False))
    begin, end = (item.begin for item in list(scan(chunks(data, 700), with_data=False))[1:])
    assert findings(scan(chunks(data, 700))) == [Finding(begin, end, Verdict.skipped)]
    damaged, _ = flip(data, begin + 3000, 2)
    assert findings(scan(chunks(damaged, 700), with_data=False)) == [Finding(begin, end, Verdict.skipped)]
    torn = list(scan(chunks(data[: end - 2], 700), with_data=False))
    assert torn[1] == Finding(begin, end - 2, Verdict.torn)
    unchecked = warc_record(body, "WARC-Type: resource")
    assert list(scan(chunks(unchecked), with_data=False)) == [Record(0, len(unchecked), None, is_checked=False)]
    longer, truth = flip(plain(b"x" * 700, b"last"), plain(b"x" * 700).index(b": 700") + 2, 3)  # 700 becomes ?00
    assert flips(scan([longer])) in ([truth], [])


def test_a_search_ends_though_every_line_begins_a_record() -> None:
    data = b"\xff" * 20 + b"WARC/1.0\r\nContent-Length: 90000\r\n\r\n" * 20_000
    items = list(scan(chunks(data)))
    assert_tiles(items, 0, len(data))
    assert records(items) == []


# any bytes


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=200), st.integers(0, 2**32))
def test_any_bytes_tile(data: bytes, seed: int) -> None:
    for start in (b"", b"WARC/1.0\r\n", b"WARC/1.1\r\nContent-Length: 20\r\n\r\n"):
        items = list(scan(cut(start + data, random.Random(seed))))
        assert_tiles(items, 0, len(start + data))
        recognised(start + data)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32), st.booleans())
def test_garbled_files_say_the_same_whatever_the_cuts(seed: int, compressed: bool) -> None:
    rng = random.Random(seed)
    contents = [rng.choice((HTTP, plain(HTTP, b"x"), rng.randbytes(300))) for _ in range(rng.randrange(1, 8))]
    written = [gzip.compress(warc_record(each)) if compressed else warc_record(each) for each in contents]
    damaged = garble(garble(b"".join(written), rng) or b"x", rng)
    whole = list(scan([damaged]))
    assert_tiles(whole, 0, len(damaged))
    assert normal(scan(cut(damaged, rng))) == normal(whole)
    assert counted(warc.verify(cut(damaged, rng))) == counted(whole)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32), st.booleans())
def test_holes_give_no_phantoms(seed: int, compressed: bool) -> None:
    rng = random.Random(seed)
    contents = [rng.choice((HTTP, plain(HTTP, b"x"), rng.randbytes(300))) for _ in range(6)]
    written = [gzip.compress(warc_record(each)) if compressed else warc_record(each) for each in contents]
    items = list(scan(with_a_hole(b"".join(written), rng)))
    assert_tiles(items, 0, len(b"".join(written)))
    assert_blocks([item for item in items if not (isinstance(item, Record) and item.by_search)], map(end_of, contents))


def end_of(content: bytes) -> bytes:
    return content + b"\r\n\r\n"


# telling the format


def test_files_are_recognised_where_their_start_is_damaged() -> None:
    rng = random.Random(16)
    for compressed in (False, True):
        data = crawl(20, compressed=compressed)
        for garbage in (bytes(2000), rng.randbytes(2000)):
            assert recognised(garbage + data[len(garbage) :]) is warc
        for bit in range(80):
            assert recognised(flip(data, bit // 8, bit % 8)[0]) is warc


def test_what_holds_records_is_no_warc_file() -> None:
    data = plain(b"first", HTTP, b"last")
    for other in (b"tar".ljust(512, b"\0") + data + bytes(1024), b"text " * 9 + data + b"text", b"WARC", b""):
        assert recognised(other) is not warc
    assert recognised(gzip.compress(b"text of no crawl")) is gzip_members


# the commands


@pytest.mark.parametrize("compressed", [False, True])
def test_salvage_leaves_a_file_that_warcio_reads(tmp_path: Path, compressed: bool) -> None:
    path, out = tmp_path / "in.warc", tmp_path / "out.warc"
    data = crawl(10, compressed=compressed)
    victim = list(scan([data]))[6]
    path.write_bytes(flip(data, victim.end - 20, 2)[0])
    result = CliRunner().invoke(salvage, [str(path), str(out), "--max-lost", "10%"])
    assert (result.exit_code, "40 records intact" in result.output) == (0, True)
    left = [record.rec_headers.get_header("WARC-Record-ID") for record in ArchiveIterator(io.BytesIO(out.read_bytes()))]
    written = [record.rec_headers.get_header("WARC-Record-ID") for record in ArchiveIterator(io.BytesIO(data))]
    assert left == written[:6] + written[7:]


def test_verify_a_directory_of_mixed_files(tmp_path: Path) -> None:
    contents: dict[str, bytes] = {
        "a.warc": crawl(3, compressed=False),
        "b.warc.gz": crawl(3, compressed=True),
        "c.log.gz": gzip.compress(b"a line of a log\n" * 999),
        "d.warc": warc_record(HTTP, "WARC-Type: resource"),
    }
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    result = CliRunner().invoke(verify, [str(tmp_path)])
    assert result.exit_code == 0
    assert "1 with records without a checksum" in result.stderr
    files = json.loads(CliRunner().invoke(verify, [str(tmp_path), "--json"]).stdout)["files"]
    assert [(file["format"], file["records"], file.get("unchecked")) for file in files] == [
        ("warc", 13, None),
        ("warc", 13, None),
        ("gzip", 1, None),
        ("warc", 1, 1),
    ]
    (tmp_path / "b.warc.gz").write_bytes(flip(contents["b.warc.gz"], 300, 1)[0])
    assert CliRunner().invoke(verify, [str(tmp_path)]).exit_code == 1


def test_repair_puts_frames_right(tmp_path: Path) -> None:
    path, out = tmp_path / "in.warc", tmp_path / "out.warc"
    data = crawl(5, compressed=False)
    begins = [item.begin for item in scan([data])]
    damaged = data
    places: Callable[[bytes, int], int] = data.index
    for at, bit in ((begins[3], 5), (places(b"Content-Length: ", begins[7]) + 16, 0), (begins[9] - 2, 2)):
        damaged, _ = flip(damaged, at, bit)
    path.write_bytes(damaged)
    assert CliRunner().invoke(locate, [str(path)]).stdout.count("it flipped from") == 3
    result = CliRunner().invoke(repair, [str(path), str(out)])
    assert (result.exit_code, out.read_bytes() == data) == (0, True)
