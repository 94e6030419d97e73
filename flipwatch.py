"""The front door of the command line: a group that loads each folder's own commands when they are called.

Enters: argv. Leaves: whatever the command does. Loading is lazy, so that the agent never imports what only the
collector needs (numpy alone would double its resident memory).
"""

import importlib

import click

COMMANDS = {
    "agent": "agent.commands:agent",
    "scrubd": "agent.commands:scrubd",
    "collector": "collectors.commands:collector",
    "verify": "checksum.commands:verify",
    "salvage": "checksum.commands:salvage",
    "simulate": "collectors.commands:simulate",
    "replay": "collectors.commands:replay",
    "import": "collectors.commands:import_",
    "bursts": "collectors.commands:bursts",
    "demo": "deploy.demo:demo",
}


class LazyGroup(click.Group):
    """A click group whose commands are imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module_name, attribute = COMMANDS[cmd_name].split(":")
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            raise click.ClickException(
                f"'{cmd_name}' needs the Python package {error.name}, which is not installed here: "
                f"pip install 'flipwatch[collector]'"
            ) from error
        command: click.Command = getattr(module, attribute)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="flipwatch")
def main() -> None:
    """flipwatch watches every flipped bit in a fleet of machines."""


if __name__ == "__main__":
    main()
