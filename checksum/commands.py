"""What a person asks of stored files: `flipwatch verify`, `salvage`, `locate`, `repair` and `seal`.

Enters: paths. Leaves: what is wrong with them, as a table or as JSON, and the exit status; or a copy of what is intact.
These commands are their own conductors: they read the clock, open files and print.
"""

import contextlib
import json
import os
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import click

from checksum import crc32c, declaration
from checksum import seal as seal_of
from checksum.files import NotRegular, ReadsDiffer, open_regular, reader_at
from checksum.finding import Finding, Layer
from checksum.formats import FORMATS, Format, ToldByContent, recognise
from checksum.printable import printable
from checksum.reader import LostTooMuch, Records
from checksum.repair import repair_file, wrong_chance
from checksum.salvage import salvage_file
from checksum.settings import SettingsError
from checksum.verify import FileReport, as_json, finding_json, mismatches, verify_file, verify_sealed

CLEAN, CORRUPT, TROUBLE, INTERRUPTED = 0, 1, 2, 130  # exit statuses
MIB = 2**20
_AUTO = "auto"
_FILES_LISTED_MAX = 50  # of more than these, only those with findings get a row
_DAMAGED_LISTED_MAX = 1000
_FINDINGS_LISTED_MAX = 20  # of one file
_PATHS_NAMED_MAX = 10
_SORTED_MAX = 10_000  # entries of a directory at a time
_DECLARED = "flipwatch.declared"  # where a command keeps the declared format, by name
_SLOW_CRCMOD = "crcmod has no C extension here, so the framing's CRC is computed up to 44 times slower: reinstall it"


class Fraction(click.ParamType[float]):
    """A part of the whole: `1%`, `0.01` or `0`."""

    name = "fraction"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value)
        try:
            fraction = float(text[:-1]) / 100 if text.endswith("%") else float(text)
        except ValueError:
            fraction = -1.0
        if not 0 <= fraction <= 1:  # nan fails this as well
            self.fail(f"'{text}' is no part of a whole; write 1%, 0.01 or 0", param, ctx)
        return fraction


class FormatName(click.ParamType[str]):
    """The name of a format, also of the one that --framing declares."""

    name = "format"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        names = [_AUTO, *_formats()]
        if value not in names:
            self.fail(f"'{value}' is no known format; known are {', '.join(names)}", param, ctx)
        return str(value)


def _formats() -> dict[str, ToldByContent]:
    """Those known to the command that runs, in the order in which they are tried."""
    declared: dict[str, ToldByContent] = click.get_current_context().meta.get(_DECLARED, {})
    return declared | FORMATS


def _declare(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    try:
        framing = declaration.load(path)
    except SettingsError as error:
        raise click.BadParameter(str(error), ctx, param) from error
    ctx.meta[_DECLARED] = {framing.NAME: framing}
    if framing.declaration.crc.is_slow:
        _say(_SLOW_CRCMOD)


_format_option = click.option(
    "--format", "format_choice", type=FormatName(), default=_AUTO, help="Its name; else told by the content."
)
_framing_option = click.option(
    "--framing",
    type=click.Path(path_type=Path),
    is_eager=True,  # the format that it declares may be named by --format
    expose_value=False,
    callback=_declare,
    help="A TOML file that declares one more format, which is tried first.",
)


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path))
@_format_option
@_framing_option
@click.option("--json", "wants_json", is_flag=True, help="One JSON document on stdout.")
@click.option("--kernel", type=click.Choice(crc32c.kernels()), help="How checksums are computed; else the fastest way.")
@click.option("--rate", "rate_mib_s", type=click.FloatRange(min=0, min_open=True), help="Read at most so many MiB/s.")
def verify(
    paths: tuple[Path, ...], format_choice: str, wants_json: bool, kernel: str | None, rate_mib_s: float | None
) -> None:
    """Check every record of the files; directories are walked, links inside them are not followed.

    Of the first 100 findings in a file it is said where the bytes went wrong, as far as that can be told: in a core, in
    memory, in the page cache, on the way, or on the disk. What was right in another reading is called transient.

    Exit status: 0 if all is well, 1 if something is corrupt (other than the end of a file that is still growing), 2 if
    something could not be checked.
    """
    begun_s = time.monotonic()
    if kernel is not None:
        crc32c.use(kernel)
    _warn_if_slow()
    walk, summary = _Walk(paths), _Summary()
    with _stopping_at_interrupt():
        reports = _verify_all(walk, format_choice, rate_mib_s)
        if wants_json:
            _print_json(summary.listening(reports), begun_s)
        else:
            for _ in summary.listening(reports):
                pass
            summary.print()
    summary.print_passed_over()
    walk.irregular.print()
    sys.exit(CORRUPT if summary.is_corrupt else TROUBLE if walk.troubles or summary.is_incomplete else CLEAN)


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    size: int
    follow: bool  # a link that the user named is followed, one inside a directory is not


class _Named:
    """Paths with something in common, of which a person is told the number and the first few."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._first: list[Path] = []
        self.count = 0

    def add(self, path: Path) -> None:
        self.count += 1
        if self.count <= _PATHS_NAMED_MAX:
            self._first.append(path)

    def print(self) -> None:
        """On stderr, as it is about what was not done."""
        if self.count:
            click.echo(f"{self.count} {self._what}:", err=True)
        for path in self._first:
            click.echo(f"  {_shown(path)}", err=True)
        if self.count > len(self._first):
            click.echo(f"  and {self.count - len(self._first)} more", err=True)


class _Walk:
    """Finds the regular files under the paths the user named, and keeps count of what could not be looked at."""

    def __init__(self, paths: Iterable[Path], *, is_silent: bool = False) -> None:
        self._paths = tuple(paths)
        self._is_silent = is_silent
        self.troubles = 0
        self.irregular = _Named("no regular files, passed over")

    def files(self) -> Iterator[_File]:
        """In order, as far as a directory has no more than _SORTED_MAX entries."""
        for path in self._paths:
            try:
                status = path.stat()
            except OSError as error:
                self.trouble(path, error)
                continue
            if stat.S_ISDIR(status.st_mode):
                yield from self._below(path)
            else:
                yield _File(path, status.st_size, follow=True)

    def total_bytes(self) -> int:
        """The size of all files by a walk ahead; 0 where nobody would see it."""
        return sum(file.size for file in _Walk(self._paths, is_silent=True).files()) if sys.stderr.isatty() else 0

    def _below(self, top: Path) -> Iterator[_File]:
        directories = [top]
        while directories:
            directory = directories.pop()
            inner: list[Path] = []
            try:
                with os.scandir(directory) as entries:
                    while some := list(islice(entries, _SORTED_MAX)):
                        yield from self._files_among(sorted(some, key=lambda entry: entry.name), inner)
            except OSError as error:
                self.trouble(directory, error)
            directories += sorted(inner, reverse=True)

    def _files_among(self, entries: Iterable[os.DirEntry[str]], directories: list[Path]) -> Iterator[_File]:
        for entry in entries:
            path = Path(entry.path)
            try:
                if entry.is_dir(follow_symlinks=False):
                    directories.append(path)
                elif entry.is_file(follow_symlinks=False):
                    yield _File(path, entry.stat(follow_symlinks=False).st_size, follow=False)
                else:
                    self.irregular.add(path)
            except OSError as error:
                self.trouble(path, error)

    def trouble(self, path: Path, what: OSError | str) -> None:
        self.troubles += 1
        if not self._is_silent:
            _say(f"{_shown(path)}: {what if isinstance(what, str) else _reason(what)}")


def _verify_all(walk: _Walk, format_choice: str, rate_mib_s: float | None) -> Iterator[FileReport]:
    with _progress(walk.total_bytes()) as advance:
        pacer = _Pacer(rate_mib_s, advance)
        for file in walk.files():
            try:
                yield _verify(file, format_choice, pacer.pace)
            except OSError as error:
                walk.trouble(file.path, error)
            except seal_of.SealDamaged:
                walk.trouble(file.path, "its seal is damaged, so nothing was compared; look at the seal with locate")
            pacer.end_file(file.size)


def _verify(file: _File, format_choice: str, pace: Callable[[int], None]) -> FileReport:
    with _opened(file.path, follow=file.follow) as fd:
        if format_choice == _AUTO and seal_of.path_for(file.path).is_file():
            sealed = verify_sealed(fd, file.path, time.time(), pace)
            if sealed.seal is not seal_of.State.changed:
                return sealed
            format = _format_of(fd, format_choice)  # the records of its own format can still be judged
            return sealed if format is None else verify_file(fd, file.path, format, time.time(), pace)
        format = _format_of(fd, format_choice)
        if format is None:
            return FileReport(file.path, None, os.fstat(fd).st_size)
        return verify_file(fd, file.path, format, time.time(), pace)


@contextlib.contextmanager
def _opened(path: Path, *, follow: bool) -> Iterator[int]:
    fd = open_regular(path, follow=follow)
    try:
        yield fd
    finally:
        os.close(fd)


def _format_of(fd: int, format_choice: str) -> Format | None:
    formats = _formats()
    return recognise(reader_at(fd), os.fstat(fd).st_size, formats) if format_choice == _AUTO else formats[format_choice]


@contextlib.contextmanager
def _progress(total_bytes: int) -> Iterator[Callable[[int], None]]:
    """A function to call with the bytes done; it moves a bar on stderr if that is a terminal."""
    with click.progressbar(length=total_bytes, file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
        yield bar.update


class _Pacer:
    """Waits so that what is read doesn't exceed the rate, and shows how far it is."""

    def __init__(self, rate_mib_s: float | None, advance: Callable[[int], None]) -> None:
        self._rate_mib_s = rate_mib_s
        self._advance = advance
        self._due_s = time.monotonic()
        self._read_bytes = 0  # of the present file

    def pace(self, length: int) -> None:
        self._advance(length)
        self._read_bytes += length
        if self._rate_mib_s is not None:
            self._due_s += length / (self._rate_mib_s * MIB)
            time.sleep(max(0.0, self._due_s - time.monotonic()))

    def end_file(self, size: int) -> None:
        """A file of `size` bytes is done with; its holes, or all of it, may not have been read."""
        self._advance(max(0, size - self._read_bytes))
        self._read_bytes = 0


@contextlib.contextmanager
def _stopping_at_interrupt() -> Iterator[None]:
    """Ends with the shell's own status at Ctrl-C: 1 would say that something is corrupt."""
    try:
        yield
    except KeyboardInterrupt:
        _say("interrupted; not everything was read")
        sys.exit(INTERRUPTED)


def _warn_if_slow() -> None:
    if crc32c.implementation() == "python":
        _say("checksums run in pure Python, a thousand times slower than in C: install with a C compiler")


def _print_json(reports: Iterable[FileReport], begun_s: float) -> None:
    """One JSON document, written while the files are read."""
    write = sys.stdout.write  # click.echo would write the entry of each file by itself
    write('{"files": [')
    for number, report in enumerate(reports):
        write((", " if number else "") + json.dumps(as_json(report)))
    click.echo(f'], "seconds": {time.monotonic() - begun_s}}}')


class _Summary:
    """What a person is told in the end about any number of files, and what the exit status follows from."""

    def __init__(self) -> None:
        self.is_corrupt = False
        self._files = self._damaged = 0
        self._totals: dict[str, list[int]] = {}  # by format: files, bytes, records, findings
        self._rows: list[tuple[str, ...]] = []  # of the first files
        self._damaged_rows: list[tuple[str, ...]] = []
        self._lines: list[str] = []  # about the files of these
        self._unknown = _Named("of no known format")
        self._changed = _Named("changed since sealed, not verified")
        self._empty = _Named("without one intact record")
        self._unchecked = _Named("with records without a checksum, of which only where they begin and end was verified")

    @property
    def is_incomplete(self) -> bool:
        """Whether there is a file of which nothing could be verified."""
        return bool(self._unknown.count or self._changed.count or self._empty.count)

    def listening(self, reports: Iterable[FileReport]) -> Iterator[FileReport]:
        for report in reports:
            self._add(report)
            yield report

    def _add(self, report: FileReport) -> None:
        self.is_corrupt |= bool(report.corrupt)
        self._files += 1
        total = self._totals.setdefault(report.format or "unknown", [0] * 4)
        for column, number in enumerate((1, report.bytes, report.records, len(report.findings))):
            total[column] += number
        if len(self._rows) < _FILES_LISTED_MAX:
            self._rows.append(_row(report))
        if report.format is None:
            self._unknown.add(report.path)
        elif not report.records:
            (self._changed if report.seal is seal_of.State.changed else self._empty).add(report.path)
        if report.unchecked:
            self._unchecked.add(report.path)
        if report.findings:
            self._damaged += 1
            if self._damaged <= _DAMAGED_LISTED_MAX:
                self._damaged_rows.append(_row(report))
                self._lines += _findings_listed(report)

    def print(self) -> None:
        if self._files > _FILES_LISTED_MAX:
            totals = [(name, *map(str, total)) for name, total in sorted(self._totals.items())]
            _print_table([("format", "files", "bytes", "records", "findings"), *totals], names=1)
            click.echo()
        rows = self._rows if self._files <= _FILES_LISTED_MAX else self._damaged_rows
        if rows or not self._files:
            _print_table([("file", "format", "bytes", "records", "findings"), *rows], names=2)
        for line in self._lines:
            click.echo(line)
        if self._damaged > _DAMAGED_LISTED_MAX:
            click.echo(f"\nand {self._damaged - _DAMAGED_LISTED_MAX} more files with findings: see --json")

    def print_passed_over(self) -> None:
        """Names, on stderr, what was not verified."""
        for named in (self._unknown, self._changed, self._empty, self._unchecked):
            named.print()


def _findings_listed(report: FileReport) -> Iterator[str]:
    yield f"\n{_shown(report.path)}{_SEALED[report.seal] if report.seal else ''}"
    for number, finding in enumerate(report.findings[:_FINDINGS_LISTED_MAX]):
        mark = "  (the end of a file that may still be growing)" if report.is_settling(number) else ""
        yield f"  {_described(finding)}{mark}"
    if len(report.findings) > _FINDINGS_LISTED_MAX:
        yield f"  and {len(report.findings) - _FINDINGS_LISTED_MAX} more: see --json"


def _row(report: FileReport) -> tuple[str, ...]:
    counts = (report.bytes, report.records, len(report.findings))
    return (_shown(report.path), report.format or "unknown", *map(str, counts))


def _print_table(rows: list[tuple[str, ...]], names: int) -> None:
    """The first so many columns are names, the others numbers."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = (
            cell.ljust(width) if column < names else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        click.echo("  ".join(cells))


_SEALED = {
    seal_of.State.intact: "",
    seal_of.State.changed: "",
    seal_of.State.rotted: " has rotted: it differs from its seal, and nobody has written it",
    seal_of.State.suspect: " is suspect: it differs from its seal; its times don't say whether somebody changed it",
}


_WHERE = {
    None: "",
    Layer.core: ", by a core that computes wrongly",
    Layer.buffer: ", in memory while it was read",
    Layer.page_cache: ", in the page cache; the disk is right",
    Layer.path: ", on the way: it reads differently each time",
    Layer.disk: ", on disk",
    Layer.unknown: ", in an unknown layer",
}


def _described(finding: Finding) -> str:
    text = f"bytes {finding.begin} to {finding.end}: {finding.verdict}{_WHERE[finding.layer]}"
    if finding.flip is None:
        return text
    flip = finding.flip
    return f"{text}: bit {flip.bit} of byte {flip.offset_bytes} is {flip.stored}, was {1 - flip.stored}"


def _shown(path: Path) -> str:
    """The path for a terminal, whatever bytes its name holds."""
    return printable(str(path))


def _reason(error: OSError) -> str:
    return "it is not a regular file" if isinstance(error, NotRegular) else error.strerror or str(error)


def _say(sentence: str) -> None:
    click.echo(f"flipwatch: {sentence}", err=True)


def _fail(sentence: str) -> NoReturn:
    _say(sentence)
    sys.exit(TROUBLE)


def _fail_unsteady(source: Path) -> NoReturn:
    _fail(f"{_shown(source)} reads differently each time: look at memory and disk first; nothing was written")


@click.command()
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@_format_option
@_framing_option
@click.option("--max-lost", "lost_max", type=Fraction(), default="1%", show_default=True, help="Part of the bytes.")
@click.option("--keep-found", is_flag=True, help="Copy also what only a search found behind damage.")
@click.option("--force", is_flag=True, help="Replace OUT if it is there.")
def salvage(source: Path, out: Path, format_choice: str, lost_max: float, keep_found: bool, force: bool) -> None:
    """Copy the intact records of IN to OUT and name what was left out.

    Exit status: 0 if OUT was written, 1 if more than --max-lost of the bytes would have been left out, 2 at trouble.
    Unless it is 0, OUT is as it was.
    """
    with _stopping_at_interrupt():
        _warn_if_slow()
        try:
            _refuse_out(source, out, force)
            with _opened(source, follow=True) as fd:
                format = _known_format_of(fd, source, format_choice)
                outcome = salvage_file(fd, format, out, lost_max, keep_found=keep_found)
        except LostTooMuch as beyond:
            _print_left_out(beyond.so_far)
            _say(
                f"{_shown(out)} was not written: more than {lost_max:.6g} of the bytes would be lost (see --max-lost); "
                "verify lists all the damage"
            )
            sys.exit(CORRUPT)
        except ReadsDiffer:
            _fail_unsteady(source)
        except OSError as error:
            _fail(f"{_shown(source)} can't be salvaged to {_shown(out)}: {_reason(error)}")
        _print_left_out(outcome)
        part = outcome.lost_bytes / outcome.size if outcome.size else 0.0
        click.echo(
            f"{outcome.count} records intact, {outcome.lost_bytes} of {outcome.size} bytes left out ({part:.4%})"
        )


def _known_format_of(fd: int, path: Path, format_choice: str) -> Format:
    format = _format_of(fd, format_choice)
    if format is None:
        _fail(f"{_shown(path)} has no known format; known are {', '.join(_formats())}")
    return format


def _judging_format_of(fd: int, path: Path, format_choice: str) -> Format:
    """What `verify` judges the file by: its seal, if it has one and wasn't changed since."""
    beside = seal_of.path_for(path)
    if format_choice == _AUTO and beside.is_file():
        try:
            seal = seal_of.read(beside)
        except seal_of.SealDamaged:
            _fail(f"{_shown(beside)} is damaged, so nothing can be compared with it; look at it with locate")
        if seal.state_of(os.fstat(fd)) is not seal_of.State.changed:
            return seal_of.Sealed(seal, is_whole=False)
    return _known_format_of(fd, path, format_choice)


def _refuse_out(source: Path, out: Path, force: bool) -> None:
    if not os.path.lexists(out):
        return
    if out.exists() and source.exists() and out.samefile(source):
        _fail(f"{_shown(out)} is the file to be read itself; give another name")
    if out.exists() and not out.is_file():  # --force would put a file in the place of a device
        _fail(f"{_shown(out)} is not a regular file; give the name of one")
    if not force:
        _fail(f"{_shown(out)} is already there; --force replaces it")


def _print_left_out(outcome: Records) -> None:
    for finding in outcome.findings:
        click.echo(f"left out {_described(finding)}")
    for span in outcome.found:
        click.echo(
            f"left out bytes {span.begin} to {span.end}: {span.records} records that only a search found "
            f"behind damage; they may have been part of a lost one (--keep-found copies them)"
        )


@click.command()
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@_format_option
@_framing_option
@click.option("--json", "wants_json", is_flag=True, help="One JSON document on stdout.")
def locate(path: Path, format_choice: str, wants_json: bool) -> None:
    """List each record of FILE whose checksum fails, with the single flipped bit that explains it.

    Exit status: 0 if there is none, 1 if there is one, 2 at trouble.
    """
    with _stopping_at_interrupt():
        _warn_if_slow()
        try:
            with _opened(path, follow=True) as fd:
                format = _judging_format_of(fd, path, format_choice)
                found = list(mismatches(fd, format, time.time()))
        except OSError as error:
            _fail(f"{_shown(path)}: {_reason(error)}")
    if wants_json:
        mismatches_json = [finding_json(finding) for finding in found]
        document = {"path": str(path), "format": format.NAME, "mismatches": mismatches_json}
        click.echo(json.dumps(document))
    else:
        for finding in found:
            click.echo(f"{_described(finding)}{_located(format, finding)}")
        click.echo(
            f"{len(found)} mismatches, {sum(finding.flip is not None for finding in found)} explained by one bit"
        )
    sys.exit(CORRUPT if found else CLEAN)


def _located(format: Format, finding: Finding) -> str:
    if finding.flip is None:
        return "; no single bit explains it"
    if finding.stored is None:
        return "; it stands among zeros"
    way = "0 to 1" if finding.flip.stored else "1 to 0"
    return f"; it flipped from {way}, in truth more bits with a chance of {wrong_chance(format, finding):.1e}"


@click.command()
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@_format_option
@_framing_option
@click.option("--force", is_flag=True, help="Replace OUT if it is there.")
def repair(source: Path, out: Path, format_choice: str, force: bool) -> None:
    """Copy IN to OUT with each flipped bit put right that a checksum names and that is there when read again.

    IN is never changed. Exit status: 0 if OUT was written and nothing is wrong with it, 1 if damage remains in it or
    nothing could be repaired (then OUT isn't written), 2 at trouble.
    """
    with _stopping_at_interrupt():
        _warn_if_slow()
        try:
            _refuse_out(source, out, force)
            with _opened(source, follow=True) as fd:
                format = _judging_format_of(fd, source, format_choice)
                outcome = repair_file(fd, format, out)
        except ReadsDiffer:
            _fail_unsteady(source)
        except OSError as error:
            _fail(f"{_shown(source)} can't be repaired to {_shown(out)}: {_reason(error)}")
    for finding in outcome.repaired:
        click.echo(f"repaired {_described(finding)}; wrong with a chance of {wrong_chance(format, finding):.1e}")
    for finding, reason in outcome.refused:
        click.echo(f"refused {_described(finding)}; {reason}")
    for finding in outcome.remaining:
        click.echo(f"remaining {_described(finding)}")
    if not outcome.repaired:
        _say(f"nothing in {_shown(source)} can be repaired; {_shown(out)} was not written")
        sys.exit(CORRUPT)
    click.echo(f"{len(outcome.repaired)} repaired; one of them is wrong with a chance of {outcome.chance:.1e} at most")
    sys.exit(CORRUPT if outcome.remaining else CLEAN)


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--append-only", is_flag=True, help="The files will only grow: what they hold now stays.")
@click.option("--again", is_flag=True, help="Replace seals that are there already.")
def seal(paths: tuple[Path, ...], append_only: bool, again: bool) -> None:
    """Write checksums beside each file, for files whose format has none; `verify` compares them.

    Directories are walked. A file that has a seal keeps it, whatever the file is by now, unless --again. Exit status: 0
    if all are sealed, 2 if one could not be.
    """
    walk = _Walk(paths)
    sealed = kept = 0
    with _stopping_at_interrupt():
        _warn_if_slow()
        with _progress(walk.total_bytes()) as advance:
            for file in walk.files():
                if file.path.name.endswith(seal_of.SUFFIX):
                    continue
                beside = seal_of.path_for(file.path)
                if not again and os.path.lexists(beside):
                    kept += 1
                else:
                    sealed += _seal(file, beside, append_only, walk)
                advance(file.size)
    click.echo(f"{sealed} sealed, {kept} kept the seal they had")
    sys.exit(TROUBLE if walk.troubles else CLEAN)


def _seal(file: _File, beside: Path, append_only: bool, walk: _Walk) -> bool:
    try:
        with _opened(file.path, follow=file.follow) as fd:
            seal_of.write(beside, seal_of.make(fd, append_only=append_only))
    except OSError as error:
        walk.trouble(file.path, error)
        return False
    except seal_of.ChangedMeanwhile:
        walk.trouble(file.path, "somebody wrote it while it was read; seal it when it is at rest")
        return False
    return True
