"""Databases as rasdaemon makes them.

`PACKAGED` and the rows are what Debian's rasdaemon 0.6.8 wrote when it ran under Debian's kernels with injected errors;
`NEWER` are tables and columns that ras-record.c of 0.8.5 has besides.
"""

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

PACKAGED = """
CREATE TABLE aer_event (id INTEGER PRIMARY KEY, timestamp TEXT, dev_name TEXT, err_type TEXT, err_msg TEXT);
CREATE TABLE extlog_event (id INTEGER PRIMARY KEY, timestamp TEXT, etype INTEGER, error_count INTEGER, severity INTEGER,
    address INTEGER, fru_id BLOB, fru_text TEXT, cper_data BLOB);
CREATE TABLE mc_event (id INTEGER PRIMARY KEY, timestamp TEXT, err_count INTEGER, err_type TEXT, err_msg TEXT,
    label TEXT, mc INTEGER, top_layer INTEGER, middle_layer INTEGER, lower_layer INTEGER, address INTEGER,
    grain INTEGER, syndrome INTEGER, driver_detail TEXT);
CREATE TABLE mce_record (id INTEGER PRIMARY KEY, timestamp TEXT, mcgcap INTEGER, mcgstatus INTEGER, status INTEGER,
    addr INTEGER, misc INTEGER, ip INTEGER, tsc INTEGER, walltime INTEGER, cpu INTEGER, cpuid INTEGER, apicid INTEGER,
    socketid INTEGER, cs INTEGER, bank INTEGER, cpuvendor INTEGER, bank_name TEXT, error_msg TEXT, mcgstatus_msg TEXT,
    mcistatus_msg TEXT, mcastatus_msg TEXT, user_action TEXT, mc_location TEXT);
"""
NEWER = """
ALTER TABLE mce_record ADD COLUMN ppin INTEGER;
ALTER TABLE mce_record ADD COLUMN microcode INTEGER;
CREATE TABLE memory_failure_event (id INTEGER PRIMARY KEY, timestamp TEXT, pfn TEXT, page_type TEXT,
    action_result TEXT);
CREATE TABLE non_standard_event (id INTEGER PRIMARY KEY, timestamp TEXT, sec_type BLOB, fru_id BLOB, fru_text TEXT,
    severity TEXT, error BLOB);
CREATE TABLE arm_event (id INTEGER PRIMARY KEY, timestamp TEXT, error_count INTEGER, affinity INTEGER, mpidr INTEGER,
    running_state INTEGER, psci_state INTEGER, err_info BLOB, context_info BLOB, vendor_info BLOB, error_type TEXT,
    error_flags TEXT, error_info INTEGER, virt_fault_addr INTEGER, phy_fault_addr INTEGER);
CREATE TABLE cxl_dram_event (id INTEGER PRIMARY KEY, timestamp TEXT, memdev TEXT, host TEXT, serial INTEGER,
    log_type TEXT, dpa INTEGER, dpa_flags INTEGER, descriptor INTEGER, type INTEGER, transaction_type INTEGER,
    channel INTEGER, rank INTEGER, nibble_mask INTEGER, bank_group INTEGER, bank INTEGER, row INTEGER, column INTEGER,
    cor_mask BLOB, hpa INTEGER, region TEXT, region_uuid TEXT, cvme_count INTEGER);
"""
CORRECTED_DRAM, CORRECTED_CACHE = 0x8C00004000010090, 0x8C00004000010136


def stamp(time_ns: int) -> str:
    """In a zone that isn't ours, to see that the offset is minded."""
    return time.strftime("%Y-%m-%d %H:%M:%S +0200", time.gmtime(time_ns // 10**9 + 7200))


class RasdaemonDatabase:
    """A database that grows as rasdaemon's does: one transaction for each event."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self, schema: str = PACKAGED) -> "RasdaemonDatabase":
        with closing(sqlite3.connect(self.path)) as connection:
            connection.executescript(schema)
        return self

    def insert(self, table: str, time_ns: int, **values: Any) -> None:
        row = {"timestamp": stamp(time_ns), **values}
        places = ", ".join("?" * len(row))
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})", tuple(row.values()))

    def mc_event(self, time_ns: int, **values: Any) -> None:
        row = {"err_count": 1, "err_type": "Corrected", "err_msg": "ie31200 CE", "label": "mc#0csrow#1channel#0"}
        row |= {"mc": 0, "top_layer": 1, "middle_layer": 0, "lower_layer": -1, "address": 0, "grain": 3, "syndrome": 90}
        self.insert("mc_event", time_ns, **{**row, "driver_detail": "", **values})

    def mce_record(self, time_ns: int, status: int = CORRECTED_DRAM, **values: Any) -> None:
        signed = status - (1 << 64) if status >> 63 else status
        row = {"status": signed, "addr": 0x1234000, "misc": 0x8C, "walltime": time_ns // 10**9, "cpu": 0, "bank": 9}
        row |= {"cpuvendor": 2, "socketid": 0, "error_msg": "Don't know how to decode this bank", "mcistatus_msg": ""}
        self.insert("mce_record", time_ns, **{**row, **values})
