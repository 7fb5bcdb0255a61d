"""Values out of a checkpoint's configs, each checked: a CheckpointError says what stands there."""

import math
from collections.abc import Mapping
from typing import TypeGuard, TypeVar

from vit_engine.errors import CheckpointError
from vit_export.families.family import Config

T = TypeVar("T")


def is_number(value: object) -> TypeGuard[int | float]:
    """Tell whether a value is a finite number; true and false are none."""
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def count(config: Config, key: str, default: int) -> int:
    """Return a whole number above 0."""
    value = config.get(key, default)
    if type(value) is not int or value < 1:
        raise CheckpointError(f"{key} is {value!r}, expected a whole number above 0")
    return value


def side(config: Config, key: str, default: int) -> int:
    """Return the side of a square, given as one number of pixels or as two equal ones."""
    value = config.get(key, default)
    if isinstance(value, list) and len(value) == 2:
        if value[0] != value[1]:
            raise CheckpointError(f"{key} is {value}; supported are squares")
        return count({key: value[0]}, key, default)
    return count(config, key, default)


def flag(config: Config, key: str, default: bool) -> bool:
    """Return true or false."""
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise CheckpointError(f"{key} is {value!r}, expected true or false")
    return value


def number(config: Config, key: str, default: float) -> float:
    """Return a finite number of 0 or more."""
    value = config.get(key, default)
    if not is_number(value) or value < 0:
        raise CheckpointError(f"{key} is {value!r}, expected a number of 0 or more")
    return float(value)


def positive(config: Config, key: str, default: float) -> float:
    """Return a finite number above 0."""
    value = config.get(key, default)
    if not is_number(value) or value <= 0:
        raise CheckpointError(f"{key} is {value!r}, expected a number above 0")
    return float(value)


def per_channel(config: Config, key: str) -> tuple[float, float, float]:
    """Return a number for each of red, green and blue, out of three or of one for all."""
    value = config[key]
    values = [value] * 3 if is_number(value) else value
    if not isinstance(values, list | tuple) or len(values) != 3 or not all(map(is_number, values)):
        raise CheckpointError(f"{key} is {value!r}, expected one number or three")
    return float(values[0]), float(values[1]), float(values[2])


def choice(config: Config, key: str, default: str, known: Mapping[str, T]) -> T:
    """Return what is known under a name."""
    value = config.get(key, default)
    if not isinstance(value, str) or value not in known:
        raise CheckpointError(f"{key} is {value!r}; supported are {', '.join(known)}")
    return known[value]


def section(config: Config, key: str) -> Config:
    """Return the table that is one of a config's values; where it is absent, an empty one."""
    value = config.get(key)
    if value is not None and not isinstance(value, dict):
        raise CheckpointError(f"{key} is {value!r}, expected a table")
    return value or {}
