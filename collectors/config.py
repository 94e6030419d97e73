"""The collector's settings: the [collector] table of a TOML file becomes one frozen dataclass.

Enters: the path of the file. Leaves: a CollectorConfig, or a SettingsError whose one sentence names
file, key and value.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from agent.report import STREAMS
from checksum import settings
from checksum.settings import SettingsError, setting
from collectors.causes import PRIORS
from collectors.minutes import SCANNED_STREAMS

TABLES = ("agent", "store", "collector")  # one file may serve all daemons of a machine
# in force only from a restart on; certificates are followed without either
AT_RESTART = (
    "state_dir",
    "listen",
    "tls_cert_file",
    "tls_key_file",
    "page_url",
    "pull_concurrency",
    "agent_ca_file",
    "agent_cert_file",
    "agent_key_file",
    "alertmanager_url",
)


def _prior(cause: str, what: str) -> Any:
    return setting(f"prior of '{cause}': {what}", default=PRIORS[cause], minimum=1e-9, maximum=1e9)


@dataclass(frozen=True, kw_only=True)
class PriorSettings:
    """The table `priors`: how often each cause explains a burst, relative to the others."""

    none: float = _prior("none", "chance")
    part: float = _prior("part", "hosts that share a rack, a part or another attribute")
    local: float = _prior("local", "one cluster")
    region: float = _prior("region", "clusters that lie together")
    fleet: float = _prior("fleet", "all clusters")
    incoherent: float = _prior("incoherent", "several clusters that have no place in common")
    rollout: float = _prior("rollout", "the cohort of an open change")
    celestial: float = _prior("celestial", "a direction in the sky")
    low_cutoff: float = _prior("low-cutoff", "solar particles, where the geomagnetic cutoff is low")

    def by_cause(self) -> dict[str, float]:
        """As the correlator takes them."""
        return {field.name.replace("_", "-"): getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, kw_only=True)
class CollectorConfig:
    """The [collector] table."""

    inventory: Path = setting("the fleet: a Prometheus file_sd file with cluster, latitude and longitude labels")
    state_dir: Path = setting(
        "where the store lives; the directory is made if its parent exists",
        default=Path("/var/lib/flipwatch-collector"),
    )
    listen: str = setting("ADDRESS:PORT of the page, /metrics and /api", default="127.0.0.1:9862")
    tls_cert_file: Path | None = setting(
        "certificate (PEM, with intermediates): the page by https; read again when it changes", default=None
    )
    tls_key_file: Path | None = setting("the certificate's key", default=None)
    page_url: str = setting(
        "the page's address as people reach it, for links in alerts; empty: from listen", default=""
    )
    agent_scheme: str = setting(
        "how agents are pulled; a target's label __scheme__ goes before it, as in Prometheus",
        default="http",
        choices=("http", "https"),
    )
    agent_ca_file: Path | None = setting(
        "authority that signs the agents' certificates; else the system's", default=None
    )
    agent_cert_file: Path | None = setting("certificate shown to agents that ask for one", default=None)
    agent_key_file: Path | None = setting("the key of agent_cert_file", default=None)
    pull_interval_s: float = setting("every agent is asked once in this time", default=15.0, minimum=0.2, maximum=3600)
    pull_timeout_s: float = setting("an answer takes at most this long", default=10.0, minimum=0.1, maximum=600)
    pull_concurrency: int = setting("how many agents are asked at once", default=1000, minimum=1, maximum=20_000)
    pull_faults_max: int = setting("how many faults one answer may hold", default=1000, minimum=1, maximum=100_000)
    answer_mib_max: int = setting("a longer answer of an agent is refused", default=16, minimum=1, maximum=1024)
    alertmanager_url: str = setting("where bursts are alerted; empty: nobody is alerted", default="")
    false_alarms_per_year: float = setting("how many false bursts to accept", default=1.0, minimum=0.001, maximum=365)
    history_days: int = setting("how long faults and exposure are kept", default=90, minimum=21, maximum=730)
    burst_end_after_min: int = setting("a burst is over after this quiet time", default=15, minimum=1, maximum=1440)

    streams: tuple[str, ...] = setting("the streams that are scanned; others are only shown", default=SCANNED_STREAMS)
    priors: PriorSettings = setting("how often each cause explains a burst, relatively", default=PriorSettings())

    @property
    def address(self) -> tuple[str, int]:
        """Address and port to listen on."""
        return settings.address(self.listen, "[collector] listen")

    @property
    def page_link(self) -> str:
        """`page_url` with a slash at its end, so that a page below it can be named; empty if it isn't set."""
        return self.page_url and f"{self.page_url.rstrip('/')}/"

    @property
    def store_path(self) -> Path:
        """The SQLite file."""
        return self.state_dir / "collector.sqlite3"


def reloaded(old: CollectorConfig, new: CollectorConfig) -> tuple[CollectorConfig, list[str]]:
    """What is in force once `new` was read by a running collector, and the keys that wait for its restart."""
    waiting = [key for key in AT_RESTART if getattr(new, key) != getattr(old, key)]
    return replace(new, **{key: getattr(old, key) for key in waiting}), waiting


def load(path: Path) -> CollectorConfig:
    """The settings in the file at `path`.

    Raises:
        SettingsError: the file, a key or a value is unusable.
    """
    document = settings.read(path)
    settings.only_tables(document, TABLES, path)
    if "collector" not in document:
        raise SettingsError(f"{path}: the table [collector] is missing")
    where = f"{path}: [collector]"
    config = settings.table(document["collector"], CollectorConfig, where)
    settings.address(config.listen, f"{where} listen")
    for stream in config.streams:
        if stream not in STREAMS:
            raise SettingsError(f"{where} streams: unknown stream '{stream}'; known are {', '.join(STREAMS)}")
    if not config.streams:
        raise SettingsError(f"{where} streams: names no stream, so nothing would be scanned")
    for key in ("alertmanager_url", "page_url"):
        _check_url(getattr(config, key), f"{where} {key}")
    for prefix in ("tls", "agent"):
        if (getattr(config, f"{prefix}_cert_file") is None) != (getattr(config, f"{prefix}_key_file") is None):
            raise SettingsError(f"{where}: {prefix}_cert_file and {prefix}_key_file are given together or not at all")
    return config


def _check_url(url: str, where: str) -> None:
    if not url:
        return
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that isn't a number, a torn IPv6 address
        usable = False
    if not usable or not url.isprintable():
        raise SettingsError(f"{where} = {url!r}: must be a URL such as http://127.0.0.1:9093, or empty")
