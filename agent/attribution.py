"""Which errors are the same: counters say how many, events say when and where, and one error may have many witnesses.

Enters: what counters rose by, the events of this cycle, the events that wait, and the moment. Leaves: accounts, each of
which becomes a fault, and the events that go on waiting. Pure.

    1. A SHARED event of the same class of severity, page and second as a COUNTED one is another witness of its error.
    2. A counter's rise is explained by COUNTED events of its device: they give time and place. What no event explains
       is accounted at once, without detail; SHARED events of that time are taken for its witnesses.
    3. A SHARED event that found nothing within a second (five, if it passes on what firmware reported, or a witness has
       read only the beginning of what it has to tell) is an error of its own, together with others of its page.
    4. The kernel reports before it counts: a COUNTED event whose counter hasn't risen waits. If the counter is read and
       still doesn't show it (the driver was unloaded in between), it is an error that only the event tells of.

Whether events belong together is decided by their own times, never by when they were polled, and what is accounted is
remembered for a second (`left` is 0), so that it makes no difference how polls cut a storm in pieces.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from agent import dram_place
from agent.machine_check import BANK_FIRMWARE, POISONED
from agent.observation import ADDRESSES_MAX, Event, Moment, Observation, Role, error_class

SECOND_NS = 10**9
WINDOW_NS = SECOND_NS  # the kernel's own events of one error lie closer together; drivers that poll do so each second
FIRMWARE_NS = 5 * SECOND_NS  # the kernel log tells of what firmware reported too, and names the part; it comes later
UNREAD_NS = 60 * SECOND_NS  # how long an event waits for a controller that can't be read
COUNTED_POLLS = 3  # a surplus of the total over its places is booked at the second poll that sees it
WAITING_MAX = 64
ADDRESSES_SHOWN = 8
PAGE_SHIFT = 12
UNKNOWN = "/unknown"
# Who knows most of the device comes first.
PREFERENCE = ("mce_record", "extlog_mem_event", POISONED, "memory_failure_event")


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """`count` errors that become one fault, or a part of one."""

    device: str
    stream: str
    severity: str
    count: int
    time_ns: int
    time_error_s: float
    witnesses: tuple[str, ...]
    counter: str | None  # the device whose counter shows them; its history proves quiet
    since_ns: int | None  # without a counter: from then on every error is known
    epoch: str | None = None
    addresses: tuple[int, ...] = ()
    detail: Mapping[str, Any] = field(default_factory=dict)

    def as_detail(self) -> dict[str, Any]:
        """What the fault line says beside its keys: at most eight addresses, and how many there were."""
        shown = [hex(address) for address in self.addresses[:ADDRESSES_SHOWN]]
        if len(shown) < 2:
            return {**self.detail, **({"address": shown[0]} if shown else {})}
        return {**self.detail, "addresses": shown, "distinct_addresses": len(self.addresses)}


@dataclass(slots=True)
class Waiting:
    """An event that may have more to it; `left` of its errors aren't accounted, `claimed` have further witnesses."""

    event: Event
    left: int
    polls: int = 0
    claimed: dict[str, int] = field(default_factory=dict)

    @property
    def is_counted(self) -> bool:
        return self.event.role is Role.COUNTED

    def as_json(self) -> dict[str, Any]:
        names = Event.__dataclass_fields__
        event = {name: getattr(self.event, name) for name in names}
        event |= {"witnesses": list(self.event.witnesses), "addresses": list(self.event.addresses)}
        event |= {"role": str(self.event.role), "detail": dict(self.event.detail)}
        return {"event": event, "left": self.left, "polls": self.polls, "claimed": self.claimed}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Waiting":
        known = value["event"]
        texts = {"witnesses": tuple(known["witnesses"]), "addresses": tuple(known["addresses"])}
        event = Event(**{**known, **texts, "role": Role(known["role"])})
        return cls(event, value["left"], value["polls"] + 1, dict(value["claimed"]))


@dataclass(frozen=True, slots=True)
class Controllers:
    """First parts of device names (`mc0`): those that ever had counters, those whose counters were read just now."""

    ever: Collection[str]
    now: Collection[str]


def attribute(
    observed: Iterable[tuple[str, Observation]],
    events: Iterable[Event],
    waiting: Iterable[Waiting],
    controllers: Controllers,
    now: Moment,
    *,
    is_unfinished: bool = False,
) -> tuple[list[Account], list[Waiting]]:
    """The accounts of this cycle and what goes on waiting. `observed` are what counters rose by, with their source.

    `is_unfinished`: a witness will tell more of what it has begun to read.
    """
    new = [Waiting(event, event.count) for event in events]
    accounts = [_alone(item.event, item.left) for item in new if item.event.role is Role.OWN]
    held = [*waiting, *(item for item in new if item.event.role is not Role.OWN)]
    counted = [item for item in held if item.is_counted]
    shared = sorted((item for item in held if not item.is_counted), key=lambda item: item.event.time_ns)
    _join(counted, shared)
    rises = [_Rise(source, item, item.count) for source, item in observed]
    accounts += _explained(rises, counted)
    unexplained = [_unexplained(rise, now) for rise in rises if rise.left]
    remembered = [item for _, item in unexplained]
    _join(remembered, shared)
    accounts += [_with_witnesses(account, item.event) for account, item in unexplained]
    accounts += _overdue(counted, controllers, now)
    accounts += _unshared(shared, now, is_unfinished=is_unfinished)
    return accounts, _bounded([*counted, *remembered, *shared], accounts, now)


# --- one error, several events ------------------------------------------------------------------------------------


def _join(known: list[Waiting], others: list[Waiting]) -> None:
    """Takes from `others` what are errors of `known`, and lets those be witnesses."""
    for other in others:
        for item in known:
            if not other.left:
                break
            if item is not other and _is_same(item.event, other.event):
                _take(item, other)


def _take(item: Waiting, other: Waiting) -> None:
    witness = other.event.witnesses[0]
    taken = min(other.left, item.event.count - item.claimed.get(witness, 0))
    if taken <= 0 or witness == item.event.witnesses[0]:  # what one witness says twice are two errors
        return
    other.left -= taken
    item.claimed[witness] = item.claimed.get(witness, 0) + taken
    item.event = _with(item.event, other.event)


def _with(event: Event, other: Event) -> Event:
    return replace(
        event,
        witnesses=_united(event.witnesses, other.witnesses),
        addresses=_united(event.addresses, other.addresses)[:ADDRESSES_MAX],
        time_error_s=max(event.time_error_s, other.time_error_s),
        detail=dram_place.filled(event.detail, other.detail),
    )


def _is_same(event: Event, other: Event) -> bool:
    if event.stream != other.stream or error_class(event.severity) != error_class(other.severity):
        return False
    if other.first_ns > event.time_ns + WINDOW_NS or other.time_ns < event.first_ns - WINDOW_NS:
        return False
    if any(len(addresses) in (0, ADDRESSES_MAX) for addresses in (event.addresses, other.addresses)):
        return True  # they aren't known, or not all of them
    pages = {address >> PAGE_SHIFT for address in event.addresses}
    return any(address >> PAGE_SHIFT in pages for address in other.addresses)


def _united(first: tuple[Any, ...], other: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys((*first, *other)))


# --- counters and their events ------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Rise:
    source: str
    observation: Observation
    left: int


def _explained(rises: list[_Rise], counted: list[Waiting]) -> Iterator[Account]:
    """The best match first: the same place, then a place within an unknown one, then an unknown one for a place."""
    for is_match in (_is_exact, _is_within, _is_vague):
        for rise in rises:
            for item in counted:
                taken = min(rise.left, item.left)
                if taken and _is_countable(rise.observation, item.event) and is_match(rise.observation, item.event):
                    rise.left -= taken
                    item.left -= taken
                    yield _explanation(rise, item.event, taken)


def _is_countable(observation: Observation, event: Event) -> bool:
    is_same_class = error_class(observation.severity) == error_class(event.severity)
    return is_same_class and observation.stream == event.stream


def _is_exact(observation: Observation, event: Event) -> bool:
    return observation.device == event.device


def _is_within(observation: Observation, event: Event) -> bool:
    return _covers(observation.device, event.device)


def _is_vague(observation: Observation, event: Event) -> bool:
    return _covers(event.device, observation.device)


def _covers(unknown: str, device: str) -> bool:
    return unknown.endswith(UNKNOWN) and device.startswith(unknown.removesuffix(UNKNOWN[1:]))


def _explanation(rise: _Rise, event: Event, count: int) -> Account:
    observation = rise.observation
    is_finer = _covers(observation.device, event.device)
    account = _alone(event, count)
    return replace(
        account,
        device=event.device if is_finer else observation.device,
        witnesses=_united((rise.source,), account.witnesses),
        counter=observation.device,
        since_ns=None,
        epoch=observation.epoch,
        detail=dram_place.filled(observation.detail, event.detail),
    )


def _unexplained(rise: _Rise, now: Moment) -> tuple[Account, Waiting]:
    """What no event tells of, and an event made of it, to which other witnesses can be joined."""
    observation = rise.observation
    time_ns = now.time_ns if observation.time_ns is None else observation.time_ns
    account = Account(
        device=observation.device,
        stream=observation.stream,
        severity=observation.severity,
        count=rise.left,
        time_ns=time_ns,
        time_error_s=observation.time_error_s,
        witnesses=(rise.source,),
        counter=observation.device,
        since_ns=None,
        epoch=observation.epoch,
        detail=observation.detail,
    )
    event = Event(
        witnesses=account.witnesses,
        role=Role.COUNTED,
        device=account.device,
        stream=account.stream,
        severity=account.severity,
        count=account.count,
        first_ns=time_ns - int(account.time_error_s * SECOND_NS),
        time_ns=time_ns,
        time_error_s=0,
        since_ns=0,
    )
    return account, Waiting(event, 0)


def _with_witnesses(account: Account, event: Event) -> Account:
    detail = dram_place.filled(account.detail, event.detail)
    return replace(account, witnesses=event.witnesses, addresses=event.addresses, detail=detail)


def _alone(event: Event, count: int) -> Account:
    return Account(
        device=event.device,
        stream=event.stream,
        severity=event.severity,
        count=count,
        time_ns=event.time_ns,
        time_error_s=(event.time_ns - event.first_ns) / SECOND_NS + event.time_error_s,
        witnesses=event.witnesses,
        counter=None,
        since_ns=event.since_ns,
        addresses=event.addresses,
        detail=event.detail,
    )


# --- what waited long enough --------------------------------------------------------------------------------------


def _overdue(counted: list[Waiting], controllers: Controllers, now: Moment) -> Iterator[Account]:
    for item in counted:
        age_ns = now.time_ns - item.event.time_ns
        controller = item.event.device.partition("/")[0]
        is_read = controller in controllers.now or controller not in controllers.ever
        if item.left and item.polls >= COUNTED_POLLS and age_ns >= (WINDOW_NS if is_read else UNREAD_NS):
            yield _alone(item.event, item.left)
            item.left = 0


def _unshared(shared: list[Waiting], now: Moment, *, is_unfinished: bool) -> Iterator[Account]:
    by_knowledge = sorted(shared, key=lambda item: _preference(item.event))
    for item in by_knowledge:
        patience_ns = FIRMWARE_NS if is_unfinished else _patience_ns(item.event)
        if now.time_ns - item.event.time_ns < patience_ns or not item.left:
            continue
        known = next((other for other in by_knowledge if other.left and _is_same(other.event, item.event)), item)
        known.event = replace(known.event, count=known.left)
        _join([known], [other for other in by_knowledge if other is not known])
        yield _alone(known.event, known.left)
        known.left = 0
        if item.left:
            yield _alone(item.event, item.left)
            item.left = 0


def _patience_ns(event: Event) -> int:
    """How long it waits for a counter or another event that shows the same error."""
    return FIRMWARE_NS if event.device.endswith(f"/bank{BANK_FIRMWARE}") else WINDOW_NS


def _preference(event: Event) -> int:
    return next((rank for rank, name in enumerate(PREFERENCE) if name in event.witnesses), len(PREFERENCE))


def _bounded(items: list[Waiting], accounts: list[Account], now: Moment) -> list[Waiting]:
    """Those that wait on, the newest if they are too many; what can't wait is accounted as it is."""
    kept = [item for item in items if item.left or _may_have_late_witness(item, now)]
    kept.sort(key=lambda item: item.event.time_ns)
    excess, kept = kept[:-WAITING_MAX], kept[-WAITING_MAX:]
    accounts += [_alone(item.event, item.left) for item in excess if item.left]
    return kept


def _may_have_late_witness(item: Waiting, now: Moment) -> bool:
    return item.is_counted and now.time_ns - item.event.time_ns < WINDOW_NS
