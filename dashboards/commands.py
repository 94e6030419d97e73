"""The command `grafana push`.

Enters: arguments, and a secret from a file or the environment. Leaves: a line for each thing that was pushed, exit
status 0, or 2 with one sentence for trouble.
"""

import json
import os
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import click

from dashboards.annotations import Annotation, wanted
from dashboards.push import Access, Trouble, fetch_bursts, parse_url, push

TOKEN, PASSWORD = "FLIPWATCH_GRAFANA_TOKEN", "FLIPWATCH_GRAFANA_PASSWORD"
_FILE = click.Path(path_type=Path)


class PushTrouble(click.ClickException):
    exit_code = 2


@click.group()
def grafana() -> None:
    """Grafana: bring flipwatch's dashboards and bursts there."""


@grafana.command(name="push")
@click.option("--url", required=True, help="Grafana's address, with its base path if it has one.")
@click.option("--token-file", type=_FILE, help=f"File with a service account token; or set {TOKEN}.")
@click.option("--user", help="Instead of a token: log in by this name.")
@click.option("--password-file", type=_FILE, help=f"File with that user's password; or set {PASSWORD}.")
@click.option("--ca", type=_FILE, help="File with the authority (PEM) that signed the certificates.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0.1, 600),
    default=10.0,
    show_default=True,
    help="Seconds to wait for each answer.",
)
@click.option("--prometheus", "prometheus_url", help="Make a data source for the Prometheus at this address.")
@click.option("--collector", "collector_url", help="Post the bursts of the collector at this address.")
def push_(
    url: str,
    token_file: Path | None,
    user: str | None,
    password_file: Path | None,
    ca: Path | None,
    timeout_s: float,
    prometheus_url: str | None,
    collector_url: str | None,
) -> None:
    """Bring dashboards, their folder, a data source and bursts to a Grafana.

    May be repeated: what stands there already is left alone. Run it every few minutes with --collector, and each burst
    stands in every dashboard from its start to its end. What people changed in these dashboards is replaced; Grafana
    keeps the versions.
    """
    done = 0
    try:
        if prometheus_url is not None:
            parse_url(prometheus_url)
        access = Access(url, _auth(token_file, user, password_file), _authority(ca), timeout_s)
        bursts = _bursts(collector_url, access) if collector_url else []
        for line in push(access, list(boards()), prometheus_url, bursts):
            click.echo(line)
            done += 1
    except Trouble as error:
        rest = f" ({done} of the things before it are done and stay; push again to go on)" if done else ""
        raise PushTrouble(f"{error}{rest}") from error


def boards() -> Iterator[dict[str, Any]]:
    """The dashboards, by name of their files."""
    folder = resources.files("dashboards") / "grafana"
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".json"):
            yield json.loads(file.read_text(encoding="utf-8"))


def _auth(token_file: Path | None, user: str | None, password_file: Path | None) -> str | tuple[str, str]:
    if user is not None and token_file is not None:
        raise Trouble("--user and --token-file are two ways to log in: give one")
    if user is not None:
        if not user.isascii() or not user.isprintable() or ":" in user:
            raise Trouble("--user: must be printable ASCII without a colon")
        return user, _secret(password_file, PASSWORD, "--password-file")
    return _secret(token_file, TOKEN, "--token-file")


def _secret(path: Path | None, variable: str, option: str) -> str:
    """From the file, else from the environment; never from an argument, which every user of the machine may see."""
    if path is None:
        text = os.environ.get(variable, "")
        if not text:
            raise Trouble(f"no way to log in: name a file with {option}, or set {variable}")
    else:
        text = _read(path).strip()
    if not text or not text.isascii() or not text.isprintable():
        raise Trouble(f"{path or variable}: must hold one line of printable ASCII")
    return text


def _authority(ca: Path | None) -> str | None:
    if ca is None:
        return None
    if "BEGIN CERTIFICATE" not in _read(ca):
        raise Trouble(f"{ca}: holds no certificate; a PEM file belongs there")
    return str(ca)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise Trouble(f"{path}: can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Trouble(f"{path}: not a text file") from error


def _bursts(collector_url: str, access: Access) -> list[Annotation]:
    """Asked for before anything is pushed."""
    document = fetch_bursts(collector_url, access.ca, access.timeout_s)
    try:
        return wanted(document)
    except ValueError as error:
        raise Trouble(f"{collector_url}: what it says of bursts isn't understood: {error}") from error
