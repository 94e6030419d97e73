"""The agent's commands: `flipwatch agent`, `flipwatch scrubd`, `flipwatch doctor` and `flipwatch ack`."""

import json
import os
import platform
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent import config as agent_config
from checksum import log_lines
from checksum.printable import printable
from checksum.settings import SettingsError

if TYPE_CHECKING:
    from agent.doctor import Facts, JournalFacts, Software
    from agent.observation import Moment, Poll
    from agent.sources.table import Source

CONFIG = Path("/etc/flipwatch/agent.toml")
# glibc (mallopt(3)) gives each thread an arena of its own, and three scrapers so take a mebibyte more; Python keeps the
# column of every instruction for its tracebacks, a third of a mebibyte, which a log of the lines can do without.
LEAN = {"MALLOC_ARENA_MAX": "1", "PYTHONNODEBUGRANGES": "1"}
ALARM = 1  # exit status of the doctor: a physical host whose memory errors nobody sees


class ConfigTrouble(click.ClickException):
    exit_code = 2


_config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    help=f"The configuration file (TOML); else {CONFIG} if it is there, else every default.",
)


def _load(config_path: Path | None) -> agent_config.Config:
    is_default = config_path is None and not CONFIG.exists()
    return agent_config.default() if is_default else agent_config.load(config_path or CONFIG)


@click.command()
@_config_option
@click.option("--prepare", "is_prepare", is_flag=True, help="Only do what takes root, for an agent that has less.")
def agent(config_path: Path | None, is_prepare: bool) -> None:
    """Watch this machine's memory errors and serve them to Prometheus and the collector."""
    if not is_prepare:
        _start_lean()
        from agent.daemon import Agent

        _run(Agent, config_path)
        return
    from agent.daemon import prepare

    try:
        prepare(_load(config_path))
    except SettingsError as error:
        raise ConfigTrouble(str(error)) from error
    except OSError as error:
        raise ConfigTrouble(f"{error.filename}: can't be prepared: {error.strerror}") from error


def _start_lean() -> None:
    """Starts this process anew if what keeps it small, which is only read at the start, isn't in its environment."""
    if not LEAN.keys() <= os.environ.keys():
        os.execve(sys.executable, sys.orig_argv, {**LEAN, **os.environ})


@click.command()
@_config_option
def scrubd(config_path: Path | None) -> None:
    """Verify the records of the configured stores in the background."""
    from agent.scrubd import Scrubber

    _run(Scrubber, config_path)


def _run(daemon: Any, config_path: Path | None) -> None:
    log_lines.start("%(levelname)s %(message)s")
    reread = partial(_load, config_path)
    try:
        config = reread()
        process = daemon(config, reread)
    except SettingsError as error:
        raise ConfigTrouble(str(error)) from error
    except UnicodeError as error:
        raise ConfigTrouble(f"{config.agent.listen}: can't start: not a host name") from error
    except OSError as error:
        place = error.filename or config.agent.listen
        raise ConfigTrouble(f"{place}: can't start: {error.strerror or error}") from error
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: process.stop())
    signal.signal(signal.SIGHUP, lambda _number, _frame: process.reload())
    process.run()


@click.command()
@_config_option
@click.option("--json", "wants_json", is_flag=True, help="One JSON document on stdout.")
def doctor(config_path: Path | None, wants_json: bool) -> None:
    """Say what can be seen of this host's memory errors, what's blind and why, and what to do about it.

    Exit status: 0; 1 if this is a physical host and nobody sees its memory errors; 2 for a configuration that can't be
    used. Run it as root, or as the agent's user to learn what the agent may see.
    """
    from agent.doctor import examine, render

    try:
        report = examine(_facts(_load(config_path).agent))
    except SettingsError as error:
        raise ConfigTrouble(str(error)) from error
    except OSError as error:
        raise ConfigTrouble(f"{error.filename}: can't be read: {error.strerror}") from error
    if wants_json:
        click.echo(json.dumps(report))
    else:
        for line in render(report):
            click.echo(printable(line))
    sys.exit(ALARM if report["is_alarm"] else 0)


@click.command()
@click.argument("device")
@click.option("--reason", help="Why it needs no more attention, for those who ask later.")
@click.option("--undo", "is_undone", is_flag=True, help="Take the acknowledgement back.")
@_config_option
def ack(device: str, reason: str | None, is_undone: bool, config_path: Path | None) -> None:
    """Say that you know of a device's errors.

    DEVICE is its name as `flipwatch doctor` shows it, such as mc0/channel1/slot0. Its faults are open no more, until it
    errs again. Takes the right to write where the agent's group may.
    """
    if is_undone == (reason is not None):
        raise click.UsageError("give either --reason, or --undo to take an acknowledgement back")
    try:
        settings = _load(config_path).agent
        done = _withdrawn(settings, device) if reason is None else _acknowledged(settings, device, reason)
        click.echo(printable(done))
    except SettingsError as error:
        raise ConfigTrouble(str(error)) from error
    except OSError as error:
        raise ConfigTrouble(f"{error.filename}: can't be written: {error.strerror}") from error


def _acknowledged(settings: agent_config.AgentSettings, device: str, reason: str) -> str:
    from agent import acknowledge

    state, journal = _journal(settings.state_dir / "memory")
    if journal.trouble is not None:
        raise ConfigTrouble(f"{journal.directory}: {journal.trouble}")
    found = acknowledge.erring(state)
    streams = [stream for stream, name in found if name == device]
    if not streams:
        names = sorted({name for _, name in found})
        raise click.ClickException(f"no error of {device} is known; there are some of: {', '.join(names) or 'none'}")
    told = []
    for stream in streams:
        part = found[stream, device]
        said = acknowledge.Acknowledgement(
            errors=part["errors"],
            reason=reason,
            by=_user(),
            time_ns=time.time_ns(),
            serial=acknowledge.serial_of(part),
        )
        acknowledge.write(settings.state_dir, stream, device, said)
        told += [f"{count} {severity}" for severity, count in part["errors"].items()]
    return f"{device}: {', '.join(told)} acknowledged; the next one opens it again"


def _withdrawn(settings: agent_config.AgentSettings, device: str) -> str:
    from agent import acknowledge

    streams = [stream for stream, name in acknowledge.read(settings.state_dir)[0] if name == device]
    if not streams:
        raise click.ClickException(f"{device} isn't acknowledged")
    for stream in streams:
        acknowledge.remove(settings.state_dir, stream, device)
    return f"{device}: acknowledged no more"


def _user() -> str:
    import getpass

    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        return str(os.getuid())


def _facts(settings: agent_config.AgentSettings) -> "Facts":
    """Everything the doctor judges by, as of now."""
    from agent import acknowledge, cores, host, inventory, machine
    from agent.doctor import Facts
    from agent.sources.table import SOURCES

    now = host.now(settings.proc)
    memory_state, memory_journal = _journal(settings.state_dir / "memory")
    return Facts(
        now_ns=time.time_ns(),
        host=settings.host or host.name(),
        machine=machine.look(
            settings.sysfs,
            settings.proc,
            Path("/boot"),
            Path("/lib/modules") / platform.release(),
            host.facts(settings.sysfs, settings.proc),
        ),
        polls={
            **{name: _polled(source, settings, now) for name, source in SOURCES.items()},
            cores.SOURCE: cores.look(memory_state, settings.core_self_test_s, now),
        },
        inventory=inventory.read(settings.sysfs),
        state=memory_state,
        journals={"memory": memory_journal, "scrub": _journal(settings.state_dir / "scrub")[1]},
        software=_software(),
        check_interval_s=machine.check_interval_s(settings.sysfs),
        acknowledged=acknowledge.read(settings.state_dir)[0],
    )


def _polled(source: "Source", settings: agent_config.AgentSettings, now: "Moment") -> "Poll":
    from agent.sources.table import failed

    try:
        return source.poll(settings, {}, now) if source.look is None else source.look(settings, now)
    except Exception as error:  # as the daemon: whatever ails one witness, the others are told of
        return failed(source, error)


def _journal(directory: Path) -> "tuple[dict[str, Any], JournalFacts]":
    """What a journal remembers, and how it fares; it is read as any other process may, beside its owner."""
    from agent.doctor import JournalFacts
    from agent.journal import JournalReader

    reader = JournalReader(directory)
    try:
        reader.refresh()
    except FileNotFoundError:
        return {}, JournalFacts(str(directory), trouble="not there: the daemon hasn't run with this configuration")
    except OSError as error:
        return {}, JournalFacts(str(directory), trouble=f"can't be read: {error.strerror}")
    return reader.state, JournalFacts(
        str(directory),
        faults=sum(span.last_seq + 1 - span.first_seq for span in reader.spans()),
        size_bytes=reader.size_bytes,
        damaged_bytes=reader.damaged_bytes,
        written_ns=reader.state.get("clock", [None])[0],
    )


def _software() -> "Software":
    from importlib.metadata import packages_distributions

    import crcmod  # noqa: F401  its inner module of the same name says how it computes

    from agent.doctor import Software
    from agent.version import VERSION
    from checksum import crc32c

    clashes = {  # crcmod: crcmod-plus brings a package of the same name
        package: tuple(sorted(set(found) - {owner}))
        for package, found in packages_distributions().items()
        for owner in ("flipwatch", "crcmod")
        if owner in found and set(found) != {owner}
    }
    return Software(
        version=VERSION,
        crc32c=crc32c.implementation(),
        kernels=crc32c.kernels(),
        is_crcmod_native=bool(getattr(sys.modules["crcmod.crcmod"], "_usingExtension", False)),
        clashes=clashes,
    )
