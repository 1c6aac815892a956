"""Reads the `$` expressions of a bundle's configuration: arithmetic, references, and a short list of names.

Called by `training.importing.config`. The expression is parsed, never run: each kind of node that is known is worked
out here, and every other is refused with the expression and its place. MONAI would hand the text to Python's `eval`.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from training.importing.bundle import ImportRefused

_REFERENCE = re.compile(r"@(?:[A-Za-z_0-9]+(?:(?:::|#)[A-Za-z_0-9]+)*)")
_MAX_LENGTH = 2000
_MAX_ITEMS = 10_000
_MAX_NUMBER = 2**63
_MAX_EXPONENT = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Component:
    """Something that a configuration asks to be made: its name, its arguments, and where it stands. Not made yet."""

    target: str
    arguments: Mapping[str, object] = field(default_factory=dict)
    positional: tuple[object, ...] = ()
    place: str


@dataclass(frozen=True, slots=True)
class Named:
    """A dotted name that an expression gives as a value, such as ``torch.float32``."""

    name: str


_BINARY: dict[type[ast.operator], Callable[[Any, Any], object]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], object]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], object]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_FUNCTIONS: dict[str, Callable[..., object]] = {
    "int": int,
    "float": float,
    "bool": bool,
    "len": len,
    "list": list,
    "tuple": tuple,
    "max": max,
    "min": min,
    "sum": sum,
    "torch.cuda.is_available": lambda: False,  # the import happens on the processor
    "torch.device": lambda name="cpu": "cpu",
}
_CONSTANTS = re.compile(r"(?:torch|np|numpy)\.(?:float16|float32|float64|uint8|int16|int32|int64|bool)")
_MONAI_CONSTANTS = re.compile(r"monai\.(?:networks\.layers(?:\.factories)?\.(?:Norm|Act)|utils(?:\.enums)?)\.[A-Z_]+")
_NETWORKS = re.compile(r"monai\.networks\.nets(?:\.[a-z_0-9]+)?\.[A-Za-z_0-9]+")
_SAME = {"to", "eval", "cpu", "float"}  # of a network: itself


class _Evaluator:
    """One expression at one place; `look_up` gives what a reference names."""

    def __init__(self, text: str, place: str, look_up: Callable[[str], object]) -> None:
        self._text, self._place, self._look_up = text, place, look_up
        self._references: list[str] = []

    def value(self) -> object:
        if len(self._text) > _MAX_LENGTH:
            raise self._refused("it is too long")
        source = _REFERENCE.sub(self._named, self._text).strip()
        try:
            tree = ast.parse(source, mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise self._refused("it is no expression") from None
        try:
            return self._of(tree.body)
        except (TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
            raise self._refused(f"it cannot be worked out ({type(error).__name__})") from None

    def _named(self, found: re.Match[str]) -> str:
        self._references.append(found.group()[1:])
        return f"__reference_{len(self._references) - 1}__"

    def _refused(self, why: str) -> ImportRefused:
        return ImportRefused(
            f"{self._place}: the expression {'$' + self._text!r} is not read: {why}. Only arithmetic, references and "
            "names of networks and number types are; write the value itself in its place"
        )

    def _of(self, node: ast.expr) -> object:
        match node:
            case ast.Constant(value=value) if value is None or isinstance(value, (bool, int, float, str)):
                return value
            case ast.Name() | ast.Attribute():
                return self._name(node)
            case ast.List(elts=items):
                return [self._of(item) for item in items]
            case ast.Tuple(elts=items):
                return tuple(self._of(item) for item in items)
            case ast.Dict(keys=keys, values=values) if all(key is not None for key in keys):
                return {self._of(key): self._of(value) for key, value in zip(keys, values, strict=True) if key}
            case ast.BinOp() | ast.UnaryOp() | ast.BoolOp() | ast.Compare():
                return self._operation(node)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return self._of(body) if self._of(test) else self._of(orelse)
            case ast.Subscript(value=value, slice=index) if not isinstance(index, ast.Slice):
                return self._item(self._of(value), self._of(index))
            case ast.Call():
                return self._call(node)
        raise self._refused(f"{type(node).__name__} is not among what is read")

    def _operation(self, node: ast.expr) -> object:
        match node:
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                return self._binary(type(op), self._of(left), self._of(right))
            case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
                return _UNARY[type(op)](self._of(operand))
            case ast.BoolOp(op=op, values=values):
                return self._first(values, telling=isinstance(op, ast.Or))
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARISONS:
                return _COMPARISONS[type(op)](self._of(left), self._of(right))
        raise self._refused("its operator is not among those that are read")

    def _first(self, values: list[ast.expr], *, telling: bool) -> object:
        """Of `and` and `or` the value that decides, or the last; what comes after it is not worked out."""
        for value in values[:-1]:
            if bool(found := self._of(value)) is telling:
                return found
        return self._of(values[-1])

    def _name(self, node: ast.Name | ast.Attribute) -> object:
        if isinstance(node, ast.Name) and (found := re.fullmatch(r"__reference_(\d+)__", node.id)):
            return self._look_up(self._references[int(found.group(1))])
        name = self._dotted(node)
        if _CONSTANTS.fullmatch(name) or _MONAI_CONSTANTS.fullmatch(name):
            return Named(name)
        raise self._refused(f"{name} is not among the names that are known")

    def _dotted(self, node: ast.expr) -> str:
        """The dotted name of a chain of attributes that begins with a plain name."""
        match node:
            case ast.Name(id=name) if not name.startswith("_"):
                return name
            case ast.Attribute(value=value, attr=name) if not name.startswith("_"):
                return f"{self._dotted(value)}.{name}"
        raise self._refused("attributes of values are not read")

    def _binary(self, op: type[ast.operator], left: object, right: object) -> object:
        if op is ast.Pow and not (isinstance(right, (int, float)) and abs(right) <= _MAX_EXPONENT):
            raise self._refused("the power is too large")
        for one, other in ((left, right), (right, left)):
            many = op is ast.Mult and isinstance(one, (str, list, tuple)) and isinstance(other, int)
            if many and len(one) * other > _MAX_ITEMS:  # type: ignore[arg-type, operator]
                raise self._refused("the list is too long")
        if op is ast.Mod and isinstance(left, str):
            raise self._refused("text is not formatted")
        found = _BINARY[op](left, right)
        if isinstance(found, int) and abs(found) > _MAX_NUMBER:
            raise self._refused("the number is too large")
        return found

    def _item(self, value: object, index: object) -> object:
        if isinstance(value, (list, tuple, str)) and isinstance(index, int):
            return value[index]
        if isinstance(value, Mapping):
            return value[index]
        raise self._refused("only lists and tables have items")

    def _call(self, node: ast.Call) -> object:
        function = node.func
        if isinstance(function, ast.Attribute) and function.attr in _SAME and self._is_reference(function.value):
            return self._of(function.value)
        name = self._dotted(function)
        if any(isinstance(argument, ast.Starred) for argument in node.args) or any(
            one.arg is None for one in node.keywords
        ):
            raise self._refused("arguments are not unpacked")
        arguments = [self._of(argument) for argument in node.args]
        named = {str(one.arg): self._of(one.value) for one in node.keywords}
        if name in _FUNCTIONS:
            return _FUNCTIONS[name](*arguments, **named)
        if _NETWORKS.fullmatch(name):
            return Component(target=name, arguments=named, positional=tuple(arguments), place=self._place)
        raise self._refused(f"{name} is not among the functions that are known")

    def _is_reference(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Name) and node.id.startswith("__reference_")


def evaluated(text: str, place: str, look_up: Callable[[str], object]) -> object:
    """The value of an expression (without its `$`).

    Parameters
    ----------
    text : str
    place : str
        Where it stands in the configuration, for the refusal.
    look_up : callable
        Gives the value of a reference (without its `@`).

    Raises
    ------
    ImportRefused
        If it holds anything that is not on the list.
    """
    return _Evaluator(text, place, look_up).value()
