"""The collector's commands: `collector`, `import` and `bursts`.

The others stand in commands_history, commands_change, commands_plot, commands_evaluate and commands_risk.

Enters: arguments. Leaves: text or JSON on stdout, logs on stderr, exit status 0, or 2 with one sentence for trouble.
"""

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import click

from checksum import log_lines
from checksum.printable import printable
from collectors import alertmanager, inventory, notify, server
from collectors import config as settings
from collectors.command_line import CONFIG, PATH, Trouble, sentences
from collectors.commands_change import change
from collectors.commands_history import replay, say_what_was_unusable, simulate
from collectors.commands_plot import plot
from collectors.config import CollectorConfig
from collectors.importing import Imported, exposure, import_history
from collectors.inventory import Inventory
from collectors.minutes import DAY_NS
from collectors.revision import Revision
from collectors.server import ServerError
from collectors.store import Store

__all__ = ["bursts", "change", "collector", "import_", "replay", "simulate"]


@click.command()
@CONFIG
@click.option("--test-alert", is_flag=True, help="Send one alert, marked as a test, through the real path, and end.")
def collector(config_path: Path, test_alert: bool) -> None:
    """Pull all agents, correlate their faults and alert. Ends cleanly on SIGTERM."""
    if test_alert:
        _drill(config_path)
        return
    log_lines.start("%(asctime)s %(levelname)s %(name)s: %(message)s")
    reread = partial(settings.load, config_path)
    with sentences():
        try:
            server.serve(reread(), reread)
        except ServerError as error:
            raise Trouble(str(error)) from error


def _drill(config_path: Path) -> None:
    """Needs no running collector: what is tried is the way from here to Alertmanager and on."""
    with sentences():
        config = settings.load(config_path)
    if not config.alertmanager_url:
        raise Trouble(f"{config_path}: [collector] alertmanager_url is not set, so nobody is alerted of anything")
    link = config.page_link or f"{'https' if config.tls_cert_file else 'http'}://{config.listen}/"
    trouble, fate = asyncio.run(alertmanager.post_drill(config.alertmanager_url, link, time.time_ns()))
    if trouble:
        raise Trouble(trouble)
    said = f"{config.alertmanager_url} took the drill: {fate}; it ends by itself in {notify.LASTS_NS // 10**9} s"
    click.echo(printable(said))


@click.command(name="import")
@click.argument("history_path", metavar="HISTORY", type=PATH)
@CONFIG
def import_(history_path: Path, config_path: Path) -> None:
    """Put the faults, alive lines and changes of HISTORY (NDJSON) into a collector's store, running or not.

    A line that is there already is not stored again, so an import may be repeated.
    """
    with sentences():
        config = settings.load(config_path)
        fleet = inventory.load(config.inventory)
        with contextlib.closing(Store(config.store_path)) as store:
            try:
                done = _import(history_path, fleet, config, store)
            except OSError as error:
                raise Trouble(f"{history_path}: can't be read: {error.strerror}") from error
    if done is None:
        click.echo(f"{printable(str(history_path))} was imported before: nothing to do")
        return
    changes = f" and {len(done.history.changes)} changes" if done.history.changes else ""
    click.echo(
        f"{done.new} faults and {len(done.history.alive)} alive lines{changes} imported; "
        f"{done.known} faults were there already, {done.old} are older than history_days, "
        f"{done.history.bad_lines} lines unusable"
    )


def _import(path: Path, fleet: Inventory, config: CollectorConfig, store: Store) -> Imported | None:
    """None if a file with this content was imported before."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if store.was_imported(sha256):
        return None
    now_ns = time.time_ns()
    oldest_ns = now_ns - config.history_days * DAY_NS
    done = import_history(path, fleet, store, now_ns, oldest_ns)
    say_what_was_unusable(done.history, path)
    store.finish_import(sha256, path.name, exposure(done, oldest_ns))
    return done


@click.group()
def bursts() -> None:
    """The catalogue of bursts that a collector has raised."""


bursts.add_command(plot)


@bursts.command(name="list")
@CONFIG
@click.option("--json", "as_json", is_flag=True, help="One JSON document: every revision, oldest first.")
def list_(config_path: Path, as_json: bool) -> None:
    """All bursts, the latest first."""
    with _catalogue(config_path) as store:
        if as_json:
            click.echo(json.dumps({"bursts": store.revision_documents()}, indent=1))
            return
        known = store.bursts()
    for burst in reversed(known):
        state = "retracted" if burst.kind == "retract" else burst.label
        clusters = f"{len(burst.members)}/{len(burst.clusters)} clusters"
        click.echo(f"{burst.burst_id}  rev {burst.rev}  {state:<11} {clusters:<16} {notify.false_alarms(burst)}")
    if not known:
        click.echo("no burst so far")


@bursts.command()
@click.argument("burst_id", metavar="ID")
@CONFIG
@click.option("--json", "as_json", is_flag=True, help="One JSON document: every revision of it, oldest first.")
def show(burst_id: str, config_path: Path, as_json: bool) -> None:
    """One burst: what was seen, where, and how sure that is."""
    with _catalogue(config_path) as store:
        revisions = [document for document in store.revision_documents() if document["burst_id"] == burst_id]
    if not revisions:
        raise Trouble(f"there is no burst {burst_id}; `flipwatch bursts list` names them all")
    if as_json:
        click.echo(json.dumps({"bursts": revisions}, indent=1))
        return
    for line in _words(Revision.from_document(revisions[-1])):
        click.echo(printable(line))


def _words(burst: Revision) -> Iterator[str]:
    yield f"burst {burst.burst_id}, revision {burst.rev} ({burst.kind})"
    yield f"{notify.rfc3339(burst.t_start_ns)} to {notify.rfc3339(burst.t_end_ns)}"
    yield notify.description(burst)
    yield f"streams: {', '.join(f'{stream} {number}' for stream, number in burst.streams.items()) or 'none'}"
    yield ""
    for cause, probability in sorted(burst.posterior.items(), key=lambda item: -item[1]):
        yield f"  {cause:<12} {100 * probability:6.2f} %"
    yield ""
    yield f"  {'cluster':<20} {'seen':>6} {'expected':>9}"
    for share in sorted(burst.clusters, key=lambda share: share.expected - share.observed):
        yield f"  {share.cluster:<20} {share.observed:>6} {share.expected:>9.3g}"


@contextlib.contextmanager
def _catalogue(config_path: Path) -> Iterator[Store]:
    with sentences(), contextlib.closing(Store(settings.load(config_path).store_path, create=False)) as store:
        yield store
