"""The command `change`: a running collector is told that a roll-out begins or ends.

Enters: the command line. Leaves: one POST to the collector, its answer in a sentence on stdout, a warning on stderr.
"""

import json
import urllib.error
import urllib.request
from typing import Any

import click

from checksum.printable import printable
from collectors.command_line import Moment, Trouble

TIMEOUT_S = 20.0
ANSWER_BYTES_MAX = 1 << 20


@click.group()
def change() -> None:
    """Tell the collector that a roll-out is going on, so that it knows what faults of its hosts may come from."""


_COLLECTOR = click.option(
    "--collector", "url", default="http://127.0.0.1:9862", show_default=True, help="Where the collector listens."
)
_AT = click.option("--at", "time_ns", type=Moment(), help="When; default: now, by the collector's clock.")


@change.command(name="open")
@click.argument("change_id", metavar="ID")
@click.option("--cohort", required=True, help="The value of the label `cohort` that its hosts have in the inventory.")
@_AT
@_COLLECTOR
def open_(change_id: str, cohort: str, time_ns: int | None, url: str) -> None:
    """A roll-out begins. To say it again changes nothing."""
    _tell(url, {"id": change_id, "action": "open", "cohort": cohort}, time_ns)


@change.command()
@click.argument("change_id", metavar="ID")
@_AT
@_COLLECTOR
def close(change_id: str, time_ns: int | None, url: str) -> None:
    """A roll-out ends. To say it again changes nothing."""
    _tell(url, {"id": change_id, "action": "close"}, time_ns)


def _tell(url: str, body: dict[str, Any], time_ns: int | None) -> None:
    document = body if time_ns is None else body | {"time_ns": time_ns}
    try:
        answer = json.loads(_post(url.rstrip("/") + "/api/changes", json.dumps(document).encode()))
        told = answer["change"]
        sentence = f"change '{told['id']}' of cohort '{told['cohort']}': {told['action']} at {told['time']}"
    except (ValueError, KeyError, TypeError) as error:
        raise Trouble(f"{url} doesn't answer like a flipwatch collector") from error
    click.echo(printable(sentence))
    if answer.get("warning"):
        click.echo(printable(f"warning: {answer['warning']}"), err=True)


def _post(url: str, body: bytes) -> bytes:
    try:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    except ValueError as error:
        raise Trouble(f"--collector {url}: not a URL") from error
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            return bytes(response.read(ANSWER_BYTES_MAX))
    except urllib.error.HTTPError as error:
        with error:
            raise Trouble(_reason(error)) from error
    except OSError as error:
        why = getattr(error, "reason", error)
        raise Trouble(f"{url} can't be reached: {getattr(why, 'strerror', None) or why}") from error


def _reason(error: urllib.error.HTTPError) -> str:
    """The collector's own sentence, or the status of somebody else."""
    try:
        return str(json.loads(error.read(ANSWER_BYTES_MAX))["error"])
    except (ValueError, KeyError, TypeError):
        return f"{error.url} answers with status {error.code}"
