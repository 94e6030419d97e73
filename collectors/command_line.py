"""What the collector's commands have in common: how they take paths and times, and how they tell of trouble.

Enters: arguments, and exceptions with a sentence for a person. Leaves: values, or the sentence on stderr and exit
status 2.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from checksum.settings import SettingsError
from collectors.inventory import InventoryError
from collectors.store import StoreError

PATH = click.Path(path_type=Path)
CONFIG = click.option(
    "--config",
    "config_path",
    type=PATH,
    default=Path("/etc/flipwatch/collector.toml"),
    show_default=True,
    help="The configuration file (TOML), with a [collector] table.",
)


class Trouble(click.ClickException):
    """One sentence on stderr and exit status 2."""

    exit_code = 2


class Moment(click.ParamType):
    """A time like 2026-11-23T18:00:00Z, as ns since 1970."""

    name = "RFC3339"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"'{value}' is not a time like 2026-11-23T18:00:00Z", param, ctx)
        if moment.tzinfo is None:
            self.fail(f"'{value}' has no time zone; write {value}Z for UTC", param, ctx)
        if moment.year < 1970 or moment.year > 2200:
            self.fail(f"'{value}' lies outside 1970 to 2200", param, ctx)
        return int(moment.timestamp()) * 1_000_000_000


@contextlib.contextmanager
def sentences() -> Iterator[None]:
    """Everything that a person can mend becomes one sentence."""
    try:
        yield
    except (SettingsError, InventoryError, StoreError) as error:
        raise Trouble(str(error)) from error
    except sqlite3.Error as error:
        raise Trouble(f"the store can't be used: {error}") from error
