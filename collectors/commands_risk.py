"""The command `risk`: how worried should one be?

Enters: arguments. Leaves: text or one JSON document on stdout, or exit status 2 with a sentence.
"""

import json
import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import click

from collectors.risk import SOURCES, UNKNOWN, Estimate, Place, Spread, estimates

UNITS = {
    **{f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGTP", 1)},
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("kMGTP", 1)},
}
MEMORY_BYTES_MAX = 1024**5


class Memory(click.ParamType):
    """A size like 64GiB, as bytes."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?) ?([A-Za-z]+)", value.strip(), re.ASCII)
        if match is None or match[2] not in UNITS:
            self.fail(f"'{value}' is not a size like 64GiB or 1.5TiB", param, ctx)
        size = round(float(match[1]) * UNITS[match[2]])
        if not 1024 <= size <= MEMORY_BYTES_MAX:
            self.fail(f"'{value}' lies outside 1 KiB to 1 PiB", param, ctx)
        return size


class Number(click.FloatRange):
    """A number within its range; what isn't a number is outside."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"'{value}' is not a number", param, ctx)
        return number


@click.command()
@click.option("--memory", "memory_bytes", type=Memory(), required=True, help="Of each host, such as 64GiB.")
@click.option("--hosts", type=click.IntRange(1, 10**9), default=1, show_default=True)
@click.option("--altitude-m", type=Number(-500, 9000), default=0.0, show_default=True)
@click.option("--latitude", type=Number(-90, 90), help="Degrees north; default: New York's magnetic field.")
@click.option("--longitude", type=Number(-180, 180), help="Degrees east; default: the mean of all.")
@click.option("--rigidity-gv", type=Number(0, 25), help="Cutoff rigidity; default: estimated from the place.")
@click.option("--ecc/--no-ecc", "ecc", default=None, help="Only hosts with, or without; default: both.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")
def risk(
    memory_bytes: int,
    hosts: int,
    altitude_m: float,
    latitude: float | None,
    longitude: float | None,
    rigidity_gv: float | None,
    ecc: bool | None,
    as_json: bool,
) -> None:
    """Say how many memory errors to expect a day, on whose word, and what nobody knows."""
    if longitude is not None and latitude is None:
        raise click.UsageError("--longitude needs --latitude")
    place = Place(altitude_m, latitude, longitude, rigidity_gv)
    chosen = [line for line in estimates(memory_bytes, hosts, place) if ecc is None or line.ecc is ecc]
    if as_json:
        click.echo(json.dumps(_document(memory_bytes, hosts, place, chosen), indent=1))
    else:
        click.echo("\n".join(_text(memory_bytes, hosts, place, chosen)))


def _document(memory_bytes: int, hosts: int, place: Place, chosen: Sequence[Estimate]) -> dict[str, Any]:
    return {
        "memory_bytes": memory_bytes,
        "hosts": hosts,
        "altitude_m": place.altitude_m,
        "latitude_deg": place.latitude_deg,
        "longitude_deg": place.longitude_deg,
        "rigidity_gv": place.rigidity_gv,
        "relative_flux": place.flux(),
        "estimates": [line.document() for line in chosen],
        "unknown": list(UNKNOWN),
        "sources": {
            key: {"title": source.title, "says": source.says, "read": source.read} for key, source in SOURCES.items()
        },
    }


def _text(memory_bytes: int, hosts: int, place: Place, chosen: Sequence[Estimate]) -> Iterator[str]:
    yield f"{_size(memory_bytes)} in each of {hosts} hosts at {place.altitude_m:g} m, {_where(place)}"
    yield f"cosmic-ray neutrons: {place.flux():.2g} times those of New York at sea level"
    for has_ecc in (False, True):
        lines = [line for line in chosen if line.ecc is has_ecc]
        if lines:
            yield ""
            yield f"{'With ECC' if has_ecc else 'Without ECC':<48}{'typical':>12}{'low':>12}{'high':>12}   sources"
            for line in lines:
                yield from _figures(line)
    yield ""
    yield "What isn't known"
    yield from (_wrapped(sentence, "  - ") for sentence in UNKNOWN)
    yield ""
    yield "Sources"
    for key, source in SOURCES.items():
        yield _wrapped(f"{key}: {source.title}: {source.says} (read: {source.read})", "  ")


def _where(place: Place) -> str:
    if place.rigidity_gv is not None:
        return f"cutoff rigidity {place.rigidity_gv:g} GV"
    if place.latitude_deg is None:
        return "New York's magnetic field"
    return f"latitude {place.latitude_deg:g}, " + (
        "mean of all longitudes" if place.longitude_deg is None else f"longitude {place.longitude_deg:g}"
    )


def _figures(line: Estimate) -> Iterator[str]:
    yield f"  {line.name}"
    yield _row("    a host, a day", line.host_per_day) + f"   {', '.join(line.sources)}"
    yield _row("    the fleet, a day", line.fleet_per_day)
    if line.host_per_year is not None:
        yield _row("    hosts hit within a year, %", line.host_per_year.map(lambda share: 100 * share))


def _row(title: str, spread: Spread) -> str:
    return f"{title:<48}{_figure(spread.typical):>12}{_figure(spread.low):>12}{_figure(spread.high):>12}"


def _figure(value: float) -> str:
    """Two digits are more than anybody knows."""
    rounded = float(f"{value:.2g}")
    return f"{rounded:,.0f}" if rounded >= 100 else f"{rounded:g}"


def _wrapped(text: str, indent: str) -> str:
    return textwrap.fill(text, 110, initial_indent=indent, subsequent_indent="    ")


def _size(memory_bytes: int) -> str:
    unit = max((name for name in UNITS if name.endswith("iB") and UNITS[name] <= memory_bytes), key=UNITS.__getitem__)
    return f"{memory_bytes / UNITS[unit]:g} {unit}"
