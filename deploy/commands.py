"""The command that puts flipwatch's services where systemd looks for them: `flipwatch install-units`.

Enters: where to. Leaves: the unit files of deploy/systemd, which run the installation that the command is part of.
"""

import importlib.resources
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

PROGRAM = "/opt/flipwatch/bin/flipwatch"  # as it stands in the unit files
HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # from the services, by ProtectHome= and PrivateTmp=


class InstallTrouble(click.ClickException):
    exit_code = 2


@click.command()
@click.option(
    "--to",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("/etc/systemd/system"),
    show_default=True,
    help="The directory that gets the unit files.",
)
def install_units(directory: Path) -> None:
    """Put the services of agent, scrubber and collector where systemd finds them.

    They run the flipwatch that this command belongs to. Drop-ins that give a service more rights come beside them as
    .example. Nothing is enabled or started; done again, it brings the files up to date.
    """
    program = _program()
    try:
        for name, text in _files():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.replace(PROGRAM, program), encoding="utf-8")
            click.echo(f"wrote {path}")
    except OSError as error:
        raise InstallTrouble(f"{error.filename}: can't be written: {error.strerror}; run it as root") from error
    click.echo("on a host:    systemctl daemon-reload && systemctl enable --now flipwatch-agent flipwatch-scrubd")
    click.echo("in the centre: systemctl daemon-reload && systemctl enable --now flipwatch-collector")


def _program() -> str:
    """The flipwatch of this installation, as a service can run it."""
    program = Path(sys.executable).with_name("flipwatch")
    if not program.is_file():
        raise InstallTrouble(f"{program}: not there; install flipwatch with pip into a venv of its own")
    if any(program.is_relative_to(hidden) for hidden in HIDDEN):
        raise InstallTrouble(f"{program}: no service may look there; install flipwatch elsewhere, as in /opt/flipwatch")
    if not re.fullmatch(r"[\w./+@-]+", str(program), re.ASCII):
        raise InstallTrouble(f"{program}: a unit file can't hold such a path; install flipwatch as in /opt/flipwatch")
    return str(program)


def _files() -> Iterator[tuple[str, str]]:
    """(path below the directory, text) of each unit file and example."""
    for entry in sorted(importlib.resources.files("deploy").joinpath("systemd").iterdir(), key=lambda e: e.name):
        for file in entry.iterdir() if entry.is_dir() else (entry,):
            name = file.name if file is entry else f"{entry.name}/{file.name}"
            yield name, file.read_text(encoding="utf-8")
