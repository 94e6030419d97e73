"""The front door of the command line: a group that loads each folder's own commands when they are called.

Enters: argv. Leaves: whatever the command does. Loading is lazy, so that the agent never imports what only the
collector needs (numpy alone would double its resident memory), and so that a host without the collector's packages
still has help.
"""

import contextlib
import importlib
import os
from collections.abc import Iterator
from typing import Any

import click

from checksum.printable import printable

# name -> (where the command is, one line for the list of commands)
COMMANDS = {
    "agent": ("agent.commands:agent", "Watch this machine's memory errors and serve them."),
    "scrubd": ("agent.commands:scrubd", "Verify the records of the configured stores in the background."),
    "doctor": ("agent.commands:doctor", "Say what can be seen of this host's memory errors, and what can't."),
    "ack": ("agent.commands:ack", "Say that a device's errors are known, until it errs again."),
    "collector": ("collectors.commands:collector", "Pull all agents, correlate their faults, alert on bursts."),
    "verify": ("checksum.commands:verify", "Check every record of files and directories."),
    "salvage": ("checksum.commands:salvage", "Copy a file's intact records and name what was left out."),
    "locate": ("checksum.commands:locate", "Name the flipped bit that explains each mismatch."),
    "repair": ("checksum.commands:repair", "Copy a file with flipped bits put right."),
    "seal": ("checksum.commands:seal", "Write checksums beside files whose format has none."),
    "simulate": ("collectors.commands:simulate", "Write a simulated history of a fleet's faults."),
    "replay": ("collectors.commands:replay", "Run the correlator over a recorded history."),
    "evaluate": ("collectors.commands_evaluate:evaluate", "Measure what the correlator finds, misses and mistakes."),
    "import": ("collectors.commands:import_", "Load a recorded history into a collector's store."),
    "bursts": ("collectors.commands:bursts", "Look up the bursts that a collector has raised."),
    "grafana": ("dashboards.commands:grafana", "Bring dashboards and bursts to a Grafana."),
    "change": ("collectors.commands:change", "Tell the collector that a roll-out begins or ends."),
    "risk": ("collectors.commands_risk:risk", "Say how many memory errors to expect, and how well that is known."),
    "install-units": ("deploy.commands:install_units", "Put flipwatch's services where systemd finds them."),
    "demo": ("deploy.demo:demo", "Show all of it on this machine: a fleet, a burst, flipped bits, the alert."),
}
EXTRA_OF = {"grafana_api": "grafana"}  # the extra of setup.cfg that installs a package; else it is `collector`


@contextlib.contextmanager
def _readable_errors() -> Iterator[None]:
    """A sentence may hold names of files, hosts and devices: what they do to a terminal is prevented here for all."""
    try:
        yield
    except click.ClickException as error:
        error.message = printable(error.message)  # type: ignore[misc]
        raise


class LazyGroup(click.Group):
    """A click group whose commands are imported on first use."""

    def make_context(self, *arguments: Any, **more: Any) -> click.Context:
        with _readable_errors():
            return super().make_context(*arguments, **more)

    def invoke(self, ctx: click.Context) -> Any:
        with _readable_errors():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        # The collector's matrices are small: threads of a linear algebra library only get in each other's way (a
        # calibration of 0.3 s took 11 s on two busy cores). It reads this when it is loaded, so it is set before.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        module_name, attribute = COMMANDS[cmd_name][0].split(":")
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            raise click.ClickException(
                f"'{cmd_name}' needs the Python package {package}, which is not installed here: "
                f"pip install 'flipwatch[{EXTRA_OF.get(package, 'collector')}]'"
            ) from error
        command: click.Command = getattr(module, attribute)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="flipwatch")
def main() -> None:
    """flipwatch watches every flipped bit in a fleet of machines."""


if __name__ == "__main__":
    main()
