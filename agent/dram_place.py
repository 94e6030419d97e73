"""Where in a module an error was: the words for it, out of the texts that drivers write, and how several are kept.

Enters: texts and details of faults. Leaves: places, each a mapping of WORDS to numbers, and details that hold them.
Pure. A place without row and column is none: a bank holds a million of them.

The texts are the `driver_detail` of mc_event. Sources, all of Linux, drivers/edac: skx_common.c for skx_edac and
i10nm_edac (decoded by the driver, or by firmware with names of its own choice, which are these where they name the
same), ghes_edac.c with cper.c's names (UEFI specification, appendix N) of several kernels, pnd2_edac.c. sb_edac says
the rank alone and amd64_edac nothing.

    err_code:0x0101:0x0090 ProcessorSocketId:0x0 .. PhysicalRankId:0x0 Row:0x15da Column:0x100 Bank:0x3 BankGroup:0x1
    APEI location: node:0 card:1 module:0 rank:1 bank:3 device:6 row:64114 col:832
    APEI location: node: 0 card: 0 .. bank: 1282 bank_group: 5 bank_address: 2 device: 0 row: 11387 column: 1544
    err_code:0001:0090 channel:0 DIMM:0 rank:1 row:4711 bank:5 col:128
"""

import re
from collections.abc import Mapping
from typing import Any

WORDS = ("rank", "chip_id", "device", "bank_group", "bank", "row", "column")
PLACES_MAX = 8  # of one fault
_SPELLINGS = {
    **{word: word for word in WORDS},
    "col": "column",
    "PhysicalRankId": "rank",
    "ChipId": "chip_id",
    "DeviceId": "device",
    "BankGroup": "bank_group",
    "Bank": "bank",
    "Row": "row",
    "Column": "column",
}
_NUMBER = re.compile(rf"(?<!\w)({'|'.join(_SPELLINGS)}): ?(0x[0-9a-f]{{1,16}}|\d{{1,20}})(?!\w)")


def of_text(driver_detail: str) -> dict[str, int]:
    """The place that a driver names; empty if it names none."""
    found = {_SPELLINGS[name]: _number(text) for name, text in _NUMBER.findall(driver_detail)}
    return found if _is_place(found) else {}


def _number(text: str) -> int:
    """Zeros in front are padding, never octal."""
    return int(text, 16 if text.startswith("0x") else 10)


def of_detail(detail: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The places of a fault, each with its address if that is known."""
    if "places" in detail:
        return list(detail["places"])
    return [{word: detail[word] for word in ("address", *WORDS) if word in detail}] if _is_place(detail) else []


def with_places(detail: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """`detail`, which then holds the places of both: of errors of one device that are told as one."""
    places = of_detail(detail)
    places += [place for place in of_detail(other) if place not in places]
    if len(places) < 2:
        return {**detail, **(places[0] if places else {})}
    return {**_without_place(detail), "places": places[:PLACES_MAX]}


def filled(detail: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """`detail`, and what only the other witness of the same error knows; a place is of one witness, never of two."""
    return {**(_without_place(other) if of_detail(detail) else other), **detail}


def _without_place(detail: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in detail.items() if key not in ("address", "places", *WORDS)}


def _is_place(words: Mapping[str, Any]) -> bool:
    return "row" in words or "column" in words
