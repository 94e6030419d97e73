"""The agent's commands: `flipwatch agent` and `flipwatch scrubd`."""

import logging
import signal
import sys
from pathlib import Path
from typing import Any

import click

from agent import config as agent_config
from checksum.settings import SettingsError


class ConfigTrouble(click.ClickException):
    exit_code = 2


_config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    default=Path("/etc/flipwatch/agent.toml"),
    show_default=True,
    help="The configuration file (TOML).",
)


@click.command()
@_config_option
@click.option("--prepare", "is_prepare", is_flag=True, help="Only do what takes root, for an agent that has less.")
def agent(config_path: Path, is_prepare: bool) -> None:
    """Watch this machine's memory errors and serve them to Prometheus and the collector."""
    from agent.daemon import Agent, prepare

    if not is_prepare:
        _run(Agent, config_path)
        return
    try:
        prepare(agent_config.load(config_path))
    except SettingsError as error:
        raise ConfigTrouble(str(error)) from error
    except OSError as error:
        raise ConfigTrouble(f"{error.filename}: can't be prepared: {error.strerror}") from error


@click.command()
@_config_option
def scrubd(config_path: Path) -> None:
    """Verify the records of the configured stores in the background."""
    from agent.scrubd import Scrubber

    _run(Scrubber, config_path)


def _run(daemon: Any, config_path: Path) -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        config = agent_config.load(config_path)
        process = daemon(config)
    except SettingsError as error:
        raise ConfigTrouble(str(error)) from error
    except UnicodeError as error:
        raise ConfigTrouble(f"{config.agent.listen}: can't start: not a host name") from error
    except OSError as error:
        place = error.filename or config.agent.listen
        raise ConfigTrouble(f"{place}: can't start: {error.strerror or error}") from error
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: process.stop())
    process.run()
