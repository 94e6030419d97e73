"""The agent's settings: the tables [agent] and [[store]] of one TOML file.

Enters: the path of the file. Leaves: a frozen Config, read once at the start and handed down. The scrubber reads the
same file, and is the one to look at the formats of its stores: the agent needs none of them in its memory. A table
[collector] in it is left alone, so that one machine may hold both in one file.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from checksum import crc32c, settings
from checksum.settings import SettingsError, setting

MIB = 1 << 20
AT_RELOAD = ("poll_interval_s", "heartbeat_s", "kmsg", "pstore", "pstore_archive", "rasdaemon_db")  # of [agent]


@dataclass(frozen=True, slots=True)
class AgentSettings:
    state_dir: Path = setting("where the journals are kept", default=Path("/var/lib/flipwatch-agent"))
    listen: str = setting(
        "address and port for Prometheus and the collector; port 0 takes any", default="127.0.0.1:9861"
    )
    tls_cert_file: Path | None = setting(
        "certificate (PEM, with intermediates): serve https; read again when it changes", default=None
    )
    tls_key_file: Path | None = setting("the certificate's key", default=None)
    tls_client_ca_file: Path | None = setting(
        "only clients with a certificate of this authority are answered", default=None
    )
    host: str = setting("the host's name in fault lines; empty: the machine's own", default="")
    sysfs: Path = setting("where sysfs is mounted", default=Path("/sys"))
    tracefs: Path = setting("where tracefs is mounted", default=Path("/sys/kernel/tracing"))
    trace_buffer_kib: int = setting(
        "trace buffer of each processor; a larger one bears longer storms", default=256, minimum=8, maximum=1 << 20
    )
    proc: Path = setting("where procfs is mounted", default=Path("/proc"))
    kmsg: Path = setting("the kernel log", default=Path("/dev/kmsg"))
    pstore: Path = setting("where the kernel's last words before a panic are found", default=Path("/sys/fs/pstore"))
    pstore_archive: Path = setting(
        "where systemd-pstore moves them when the host starts", default=Path("/var/lib/systemd/pstore")
    )
    rasdaemon_db: Path = setting(
        "rasdaemon's database, read if it is there", default=Path("/var/lib/rasdaemon/ras-mc_event.db")
    )
    machine_id: Path = setting("file that identifies the machine", default=Path("/etc/machine-id"))
    poll_interval_s: float = setting(
        "seconds between two polls of the sources", default=5.0, minimum=0.05, maximum=3600
    )
    heartbeat_s: float = setting(
        "an idle poll is written to the journal at least this often; bounds the time error after a crash",
        default=60.0,
        minimum=0.05,
        maximum=3600,
    )
    core_self_test_s: float = setting(
        "within so many seconds every core is tested: does it still count rightly? 0: never",
        default=3600.0,
        minimum=0,
        maximum=30 * 86400,
    )
    checksum_kernel: str = setting(
        "how the scrubber computes checksums; auto is sse4.2 where the processor has it, since avx512 can slow others",
        default="auto",
        choices=("auto", *crc32c.kernels()),
    )
    canary_mib: int | None = setting(
        "memory to watch for flipped bits; 0: none; left out: 64 on hardware whose firmware says that it has no ECC, "
        "none elsewhere. It's locked, and swept 16 MiB at a poll",
        default=None,
        minimum=0,
        maximum=1 << 20,
    )
    journal_max_mib: int = setting(
        "bound of each journal; the oldest faults go first", default=256, minimum=1, maximum=1 << 20
    )


@dataclass(frozen=True, slots=True)
class StoreSettings:
    path: Path = setting("directory or file whose records are verified")
    include: tuple[str, ...] = setting("verify only files whose name or path matches one of these", default=("*",))
    exclude: tuple[str, ...] = setting("leave out files whose name or path matches one of these", default=())
    format: str = setting("format of the records", default="auto")
    framing: Path | None = setting("file that declares one more format, which is tried first", default=None)
    period_days: float = setting(
        "days for one pass over the store; sets the rate", default=21.0, minimum=1e-5, maximum=3660
    )
    rate_mib_s: float | None = setting(
        "MiB per second, instead of a rate from the period", default=None, minimum=0.001, maximum=1e6
    )
    settle_s: float = setting(
        "damage in a file changed within this time is read again before it counts",
        default=600.0,
        minimum=0,
        maximum=86400,
    )
    pressure_max_percent: float = setting(
        "slow down while this share of the time some task waits for the disk", default=10.0, minimum=0, maximum=100
    )


@dataclass(frozen=True, slots=True)
class Config:
    agent: AgentSettings
    stores: tuple[StoreSettings, ...]
    listen_address: tuple[str, int]

    @property
    def memory_journal_dir(self) -> Path:
        return self.agent.state_dir / "memory"

    @property
    def scrub_journal_dir(self) -> Path:
        return self.agent.state_dir / "scrub"

    @property
    def journal_max_bytes(self) -> int:
        return self.agent.journal_max_mib * MIB


def default() -> Config:
    """Every default, and no store: for a machine without a configuration."""
    agent = AgentSettings()
    return Config(agent, (), settings.address(agent.listen, "[agent] listen"))


def reloaded(old: Config, new: Config) -> tuple[Config, list[str]]:
    """What is in force once `new` was read by a running daemon, and the keys that wait for its restart."""
    fields = AgentSettings.__dataclass_fields__
    fixed = {key: getattr(old.agent, key) for key in fields if key not in AT_RELOAD}
    waiting = [key for key, value in fixed.items() if getattr(new.agent, key) != value]
    return Config(replace(new.agent, **fixed), new.stores, old.listen_address), waiting


def load(path: Path) -> Config:
    """The configuration at `path`.

    Raises:
        SettingsError: one sentence that names file, key and value.
    """
    document = settings.read(path)
    settings.only_tables(document, ("agent", "store", "collector"), path)
    agent = settings.table(document.get("agent", {}), AgentSettings, f"{path}: [agent]")
    entries = document.get("store", [])
    if not isinstance(entries, list):
        raise SettingsError(f"{path}: a store is written [[store]], with two brackets")
    stores = tuple(settings.table(entry, StoreSettings, f"{path}: [[store]]") for entry in entries)
    _check_tls(agent, f"{path}: [agent]")
    for store in stores:
        for key, named in (("path", store.path), ("framing", store.framing)):
            if named is not None and not named.is_absolute():
                raise SettingsError(f"{path}: [[store]] {key} = '{named}': must be an absolute path")
    paths = [store.path for store in stores]
    for store_path in paths:
        if paths.count(store_path) > 1:
            raise SettingsError(f"{path}: [[store]] path = '{store_path}': stands in two stores; name it once")
    return Config(agent, stores, settings.address(agent.listen, f"{path}: [agent] listen"))


def _check_tls(agent: AgentSettings, where: str) -> None:
    has_cert, has_key = agent.tls_cert_file is not None, agent.tls_key_file is not None
    if has_cert != has_key:
        raise SettingsError(f"{where}: tls_cert_file and tls_key_file are given together or not at all")
    if agent.tls_client_ca_file is not None and not has_cert:
        raise SettingsError(f"{where}: tls_client_ca_file needs tls_cert_file and tls_key_file as well")
