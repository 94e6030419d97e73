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
from pathlib import Path
from typing import Any, NoReturn

import click

from checksum import crc32c, declaration
from checksum import seal as seal_of
from checksum.files import NotRegular, ReadsDiffer, open_regular, reader_at
from checksum.finding import Finding
from checksum.formats import FORMATS, Format, recognise
from checksum.reader import LostTooMuch, Records
from checksum.repair import repair_file, wrong_chance
from checksum.salvage import salvage_file
from checksum.settings import SettingsError
from checksum.verify import FileReport, as_json, finding_json, mismatches, verify_file, verify_sealed

CLEAN, CORRUPT, TROUBLE, INTERRUPTED = 0, 1, 2, 130  # exit statuses
MIB = 2**20
_AUTO = "auto"
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


def _formats() -> dict[str, Format]:
    """Those known to the command that runs, in the order in which they are tried."""
    declared: dict[str, Format] = click.get_current_context().meta.get(_DECLARED, {})
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

    Exit status: 0 if all is well, 1 if something is corrupt (other than the end of a file that is still growing), 2 if
    something could not be checked.
    """
    begun_s = time.monotonic()
    if kernel is not None:
        crc32c.use(kernel)
    _warn_if_slow()
    walk = _Walk()
    with _stopping_at_interrupt():
        files = [file for path in paths for file in walk.files(path)]
        reports = _verify_all(files, format_choice, rate_mib_s, walk)
    if wants_json:
        click.echo(json.dumps({"files": [as_json(r) for r in reports], "seconds": time.monotonic() - begun_s}))
    else:
        _print_reports(reports)
        _print_unchecked(reports)
    _print_passed_over(reports, walk.irregular)
    sys.exit(_exit_status(reports, walk.troubles))


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    size: int
    follow: bool  # a link that the user named is followed, one inside a directory is not


class _Walk:
    """Finds the regular files under the paths the user named, and keeps count of what could not be looked at."""

    def __init__(self) -> None:
        self.troubles = 0
        self.irregular: list[Path] = []

    def files(self, path: Path) -> Iterator[_File]:
        try:
            status = path.stat()
        except OSError as error:
            self.trouble(path, error)
            return
        if stat.S_ISDIR(status.st_mode):
            for directory, names, file_names in os.walk(path, onerror=self._unlisted):
                names.sort()
                links = [name for name in names if Path(directory, name).is_symlink()]  # not walked into
                yield from self._inside(Path(directory), sorted(file_names + links))
        else:
            yield _File(path, status.st_size, follow=True)

    def _inside(self, directory: Path, names: Iterable[str]) -> Iterator[_File]:
        for name in names:
            path = directory / name
            try:
                status = path.lstat()
            except OSError as error:
                self.trouble(path, error)
                continue
            if stat.S_ISREG(status.st_mode):
                yield _File(path, status.st_size, follow=False)
            else:
                self.irregular.append(path)

    def _unlisted(self, error: OSError) -> None:
        self.trouble(Path(os.fsdecode(error.filename)), error)

    def trouble(self, path: Path, what: OSError | str) -> None:
        self.troubles += 1
        _say(f"{_shown(path)}: {what if isinstance(what, str) else _reason(what)}")


def _verify_all(files: list[_File], format_choice: str, rate_mib_s: float | None, walk: _Walk) -> list[FileReport]:
    reports = []
    with _progress(sum(file.size for file in files)) as advance:
        pace = _pace(rate_mib_s, advance)
        for file in files:
            try:
                reports.append(_verify(file, format_choice, pace))
            except OSError as error:
                walk.trouble(file.path, error)
            except seal_of.SealDamaged:
                walk.trouble(file.path, "its seal is damaged, so nothing was compared; look at the seal with locate")
    return reports


def _verify(file: _File, format_choice: str, pace: Callable[[int], None]) -> FileReport:
    with _opened(file.path, follow=file.follow) as fd:
        if format_choice == _AUTO and seal_of.path_for(file.path).is_file():
            sealed = verify_sealed(fd, file.path, pace)
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


def _exit_status(reports: list[FileReport], troubles: int) -> int:
    if any(report.corrupt for report in reports):
        return CORRUPT
    return TROUBLE if troubles or not all(report.records for report in reports) else CLEAN


@contextlib.contextmanager
def _progress(total_bytes: int) -> Iterator[Callable[[int], None]]:
    """A function to call with the bytes done; it moves a bar on stderr if that is a terminal."""
    with click.progressbar(length=total_bytes, file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
        yield bar.update


def _pace(rate_mib_s: float | None, advance: Callable[[int], None]) -> Callable[[int], None]:
    """A function to call with the bytes read, which waits so that they don't exceed the rate."""
    due_s = time.monotonic()

    def pace(length: int) -> None:
        nonlocal due_s
        advance(length)
        if rate_mib_s is not None:
            due_s += length / (rate_mib_s * MIB)
            time.sleep(max(0.0, due_s - time.monotonic()))

    return pace


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


def _print_reports(reports: list[FileReport]) -> None:
    _print_table([("file", "format", "bytes", "records", "findings"), *map(_row, reports)])
    for report in reports:
        if report.findings:
            click.echo(f"\n{_shown(report.path)}{_SEALED[report.seal] if report.seal else ''}")
        for number, finding in enumerate(report.findings):
            mark = "  (the end of a file that may still be growing)" if report.is_settling(number) else ""
            click.echo(f"  {_described(finding)}{mark}")


def _row(report: FileReport) -> tuple[str, ...]:
    counts = (report.bytes, report.records, len(report.findings))
    return (_shown(report.path), report.format or "unknown", *map(str, counts))


def _print_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        name, format, *numbers = (
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        click.echo("  ".join((name, format, *numbers)))


def _print_passed_over(reports: list[FileReport], irregular: list[Path]) -> None:
    """Names, on stderr, what was not verified."""
    for what, passed in (
        ("of no known format", [report.path for report in reports if report.format is None]),
        ("changed since sealed, not verified", [r.path for r in reports if r.seal is seal_of.State.changed]),
        ("without one intact record", [r.path for r in reports if _is_without_record(r)]),
        ("no regular files, passed over", irregular),
    ):
        if passed:
            click.echo(f"{len(passed)} {what}: {', '.join(map(_shown, passed))}", err=True)


def _print_unchecked(reports: list[FileReport]) -> None:
    for report in reports:
        if report.unchecked:
            click.echo(
                f"{_shown(report.path)}: {report.unchecked} of the records carry no checksum; "
                "only where they begin and end was verified"
            )


def _is_without_record(report: FileReport) -> bool:
    return report.format is not None and not report.records and report.seal is not seal_of.State.changed


_SEALED = {
    seal_of.State.intact: "",
    seal_of.State.changed: "",
    seal_of.State.rotted: " has rotted: it differs from its seal, and nobody has written it",
    seal_of.State.suspect: " is suspect: it differs from its seal; its times don't say whether somebody changed it",
}


def _described(finding: Finding) -> str:
    text = f"bytes {finding.begin} to {finding.end}: {finding.verdict}"
    if finding.flip is None:
        return text
    flip = finding.flip
    return f"{text}: bit {flip.bit} of byte {flip.offset_bytes} is {flip.stored}, was {1 - flip.stored}"


def _shown(path: Path) -> str:
    """The path for a terminal, whatever bytes its name holds."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(path))


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
                format = _known_format_of(fd, path, format_choice)
                found = list(mismatches(fd, format))
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
                format = _known_format_of(fd, source, format_choice)
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
    walk = _Walk()
    sealed = kept = 0
    with _stopping_at_interrupt():
        _warn_if_slow()
        files = [file for path in paths for file in walk.files(path) if not file.path.name.endswith(seal_of.SUFFIX)]
        with _progress(sum(file.size for file in files)) as advance:
            for file in files:
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
