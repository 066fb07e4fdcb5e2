"""Raw NVML values to base units. Nothing here raises: what is not a plausible value is None.

NVML marks "not available" by values that look like figures: all bits set (0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF), or
numbers near 2^63 (9.2e18). Each field therefore has bounds that no real device leaves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

MAX_DEVICES = 256
MAX_PROCESSES = 64  # series per GPU: the largest ones are kept
_MAX_MEMORY = 2**50  # bytes
_MAX_TEMPERATURE = 200  # degrees Celsius
_MAX_POWER = 20_000_000  # milliwatts
_MAX_ENERGY = 2**60  # millijoules: 36 000 years at 1 kW
_MAX_MASK = 2**31 - 1  # far above the bits known today, below the sentinels
_MAX_PID = 2**22  # Linux' PID_MAX_LIMIT
_MAX_TEXT = 128  # characters

#: Bits of nvmlClocksEventReasons that hold clocks down. Idle (1) is none: clocks drop because nothing runs.
THROTTLE_REASONS = {
    "applications_clocks_setting": 0x2,
    "sw_power_cap": 0x4,
    "hw_slowdown": 0x8,
    "sync_boost": 0x10,
    "sw_thermal_slowdown": 0x20,
    "hw_thermal_slowdown": 0x40,
    "hw_power_brake_slowdown": 0x80,
    "display_clock_setting": 0x100,
    "board_limit": 0x200,
    "reliability": 0x400,
}


class Memory(NamedTuple):
    """Bytes; all None when the card's figures contradict each other."""

    used: int | None = None
    reserved: int | None = None
    total: int | None = None


def integer(raw: object, low: int, high: int) -> int | None:
    """`raw` if it is a whole number within the bounds."""
    return raw if isinstance(raw, int) and not isinstance(raw, bool) and low <= raw <= high else None


def scaled(raw: object, high: int, unit: float) -> float | None:
    """A number from 0 to `high`, divided by `unit` (1000 for milliwatts)."""
    value = integer(raw, 0, high)
    return None if value is None else value / unit


def text(raw: object) -> str | None:
    """A printable, bounded string."""
    if isinstance(raw, bytes):
        raw = raw.decode(errors="replace")
    if not isinstance(raw, str):
        return None
    # Surrogates are not printable either: they could not be encoded into the page.
    return "".join(c for c in raw if c.isprintable()).strip()[:_MAX_TEXT] or None


def memory(raw: object) -> Memory:
    """Used, reserved and total memory of a device."""
    if not isinstance(raw, Mapping):
        return Memory()
    total = integer(raw.get("total"), 1, _MAX_MEMORY)
    if total is None:
        return Memory()
    used = integer(raw.get("used"), 0, total)
    if used is None:
        # More used than there is: which of the two is wrong cannot be told.
        return Memory(None, None, total if raw.get("used") is None else None)
    reserved = integer(raw.get("reserved"), 0, total)
    free = integer(raw.get("free"), 0, total)
    if reserved is not None and free is not None and reserved <= used and used + free == total:
        # Drivers of the 525 series and version 1 of the call count the reserved memory as used.
        used -= reserved
    return Memory(used, reserved, total)


def utilization(raw: object) -> float | None:
    return scaled(raw, 100, 100.0)


def temperature(raw: object) -> float | None:
    return scaled(raw, _MAX_TEMPERATURE, 1.0)


def power(raw: object) -> float | None:
    return scaled(raw, _MAX_POWER, 1000.0)


def power_limit(raw: object) -> float | None:
    return power(raw) or None  # a limit of 0 W is no limit that a card could have


def energy(raw: object) -> float | None:
    return scaled(raw, _MAX_ENERGY, 1000.0)


def throttle_reasons(raw: object) -> dict[str, bool] | None:
    """Each known reason -> whether it applies."""
    mask = integer(raw, 0, _MAX_MASK)
    return None if mask is None else {name: bool(mask & bit) for name, bit in THROTTLE_REASONS.items()}


def mig_mode(raw: object) -> bool | None:
    mode = integer(raw, 0, 1)
    return None if mode is None else bool(mode)


def processes(raw: object) -> list[tuple[int, int]]:
    """(pid, bytes), largest first; a process that appears once per MIG instance is summed up."""
    if not isinstance(raw, Sequence) or isinstance(raw, (str, bytes)):
        return []
    found: dict[int, int] = {}
    for entry in raw:
        if not isinstance(entry, Sequence) or isinstance(entry, (str, bytes)) or len(entry) != 2:
            continue
        pid, used = integer(entry[0], 1, _MAX_PID), integer(entry[1], 0, _MAX_MEMORY)
        if pid is not None and used is not None:
            found[pid] = found.get(pid, 0) + used
    return sorted(found.items(), key=lambda item: (-item[1], item[0]))[:MAX_PROCESSES]


def process_name(raw: object) -> str | None:
    """The program's name without its folder: arguments may hold secrets, and are cut with it."""
    name = text(raw)
    return None if name is None else (name.split(" ")[0].rsplit("/", 1)[-1] or None)
