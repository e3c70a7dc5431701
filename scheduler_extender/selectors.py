"""Device selectors of DeviceClasses: the part of CEL that selects devices, read and evaluated. No clock, no I/O.

Understood are comparisons, `in`, `&&`, `||`, `!`, literals and lists, `device.driver`, attributes and capacities with
their domain, `quantity("20Gi")` with compareTo, isGreaterThan and isLessThan, and startsWith, endsWith, contains of
texts. Whatever else there is in CEL is refused when it is read, never guessed at.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kube.objects import quantity

MOST_TOKENS = 500
_TOKEN = re.compile(
    r"""\s*(?:(?P<text>"(?:[^"\\\n]|\\["\\])*"|'(?:[^'\\\n]|\\['\\])*')|(?P<number>\d+(?:\.\d+)?)"""
    r"""|(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<sign>&&|\|\||==|!=|<=|>=|[<>!()\[\].,]))"""
)


class SelectorError(ValueError):
    """A selector that is not understood, or that a device has nothing to answer with; says where and why."""


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What a selector may ask of a device: attributes and capacities by domain and name."""

    driver: str
    attributes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    capacity: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


Value = Callable[[DeviceFacts], Any]
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_METHODS: dict[str, Callable[[Any, Any], Any]] = {
    "compareTo": lambda one, other: (one > other) - (one < other),
    "isGreaterThan": operator.gt,
    "isLessThan": operator.lt,
    "startsWith": lambda text, part: text.startswith(part),
    "endsWith": lambda text, part: text.endswith(part),
    "contains": lambda text, part: part in text,
}


def read_selector(expression: str) -> Callable[[DeviceFacts], bool]:
    """The selector as a function of a device; raises SelectorError here and, of a device that lacks a fact, there."""
    reader = _Reader(_tokens(expression))
    value = reader.either()
    if reader.here:
        raise SelectorError(f"{reader.here[:40]!r} is not understood in {expression[:120]!r}")

    def selects(device: DeviceFacts) -> bool:
        found = value(device)
        if not isinstance(found, bool):
            raise SelectorError(f"{expression[:120]!r} is {type(found).__name__}: expected true or false")
        return found

    return selects


def selects_all(expressions: Sequence[str]) -> Callable[[DeviceFacts], bool]:
    """Whether a device meets every selector, as a DeviceClass wants; one that lacks a fact does not."""
    selectors = [read_selector(expression) for expression in expressions]

    def selects(device: DeviceFacts) -> bool:
        try:
            return all(selector(device) for selector in selectors)
        except SelectorError:
            return False

    return selects


def _tokens(expression: str) -> list[str]:
    tokens: list[str] = []
    place = 0
    while place < len(expression.rstrip()):
        match = _TOKEN.match(expression, place)
        if match is None or len(tokens) >= MOST_TOKENS:
            raise SelectorError(f"{expression[place : place + 40]!r} is not understood")
        tokens.append(match[0].strip())
        place = match.end()
    return tokens


class _Reader:
    """Recursive descent over the tokens."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._place = 0
        self._depth = 0

    @property
    def here(self) -> str:
        return self._tokens[self._place] if self._place < len(self._tokens) else ""

    def take(self, *wanted: str) -> str:
        """The next token where it is one of `wanted` (or whatever it is), else empty."""
        token = self.here
        if not token or (wanted and token not in wanted):
            return ""
        self._place += 1
        return token

    def need(self, wanted: str) -> None:
        if not self.take(wanted):
            raise SelectorError(f"expected {wanted!r} before {self.here[:40]!r}")

    def either(self) -> Value:
        left = self.both()
        while self.take("||"):
            left = _either(left, self.both())
        return left

    def both(self) -> Value:
        left = self.unary()
        while self.take("&&"):
            left = _not(_either(_not(left), _not(self.unary())))
        return left

    def unary(self) -> Value:
        self._depth += 1
        if self._depth > 50:
            raise SelectorError("nested too deep")
        try:
            return _not(self.unary()) if self.take("!") else self.compared()
        finally:
            self._depth -= 1

    def compared(self) -> Value:
        left = self.member()
        sign = self.take(*_COMPARE, "in")
        if not sign:
            return left
        right = self.member()
        if sign == "in":
            return lambda device: left(device) in right(device)
        return _safely(_COMPARE[sign], left, right)

    def member(self) -> Value:
        value = self.primary()
        while self.here in (".", "["):
            if self.take("["):
                key = self.either()
                self.need("]")
            else:
                self.need(".")
                name = self.take()
                if self.take("("):
                    if name not in _METHODS:
                        raise SelectorError(f"{name}() is not understood")
                    argument = self.either()
                    self.need(")")
                    value = _safely(_METHODS[name], value, argument)
                    continue
                key = _constant(name)
            value = _fact(value, key)
        return value

    def primary(self) -> Value:
        token = self.take()
        if token == "(":
            inside = self.either()
            self.need(")")
            return inside
        if token == "[":
            items: list[Value] = []
            while not self.take("]"):
                items.append(self.either())
                if not self.take(",") and self.here != "]":
                    raise SelectorError(f"expected ',' or ']' before {self.here[:40]!r}")
            return lambda device: [item(device) for item in items]
        if token == "quantity":
            self.need("(")
            amount = self.either()
            self.need(")")
            return lambda device: _quantity(amount(device))
        if token == "device":
            return lambda device: {
                "driver": device.driver,
                "attributes": device.attributes,
                "capacity": device.capacity,
            }
        if token in ("true", "false"):
            return _constant(token == "true")
        if token[:1] in "\"'" and token:
            return _constant(re.sub(r"\\(.)", r"\1", token[1:-1]))
        if token[:1].isdigit():
            return _constant(float(token) if "." in token else int(token))
        raise SelectorError(f"{token[:40]!r} is not understood")


def _constant(value: Any) -> Value:
    return lambda _: value


def _not(value: Value) -> Value:
    return lambda device: not _truth(value(device))


def _either(left: Value, right: Value) -> Value:
    """As in CEL, a side that is true decides, whatever is wrong with the other."""

    def evaluate(device: DeviceFacts) -> bool:
        try:
            return _truth(left(device)) or _truth(right(device))
        except SelectorError:
            if _truth(right(device)):
                return True
            raise

    return evaluate


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise SelectorError(f"{type(value).__name__} stands where true or false is expected")
    return value


def _fact(holder: Value, key: Value) -> Value:
    def evaluate(device: DeviceFacts) -> Any:
        held, name = holder(device), key(device)
        if not isinstance(held, Mapping) or name not in held:
            raise SelectorError(f"the device has no {str(name)[:60]!r}")
        return held[name]

    return evaluate


def _safely(work: Callable[[Any, Any], Any], left: Value, right: Value) -> Value:
    def evaluate(device: DeviceFacts) -> Any:
        try:
            return work(left(device), right(device))
        except (TypeError, AttributeError) as error:
            raise SelectorError(str(error)) from error

    return evaluate


def _quantity(amount: Any) -> float:
    try:
        return quantity(amount)
    except (TypeError, ValueError) as error:
        raise SelectorError(str(error)) from error
