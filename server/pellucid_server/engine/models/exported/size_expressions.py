"""Reads the size expressions of a model file (`expr_str`) without evaluating them.

torch hands such a string to sympy's `sympify`, which runs it as Python. Here it is parsed first,
and passes only as a tree of names of symbols, numbers, arithmetic and the functions that torch
writes; what is handed on is that tree, written out anew.
"""

import ast
import re
from functools import lru_cache

SYMBOL = re.compile(r"(s|u|zf|zuf)\d{1,6}")
"""A size that an export left open, as torch spells it: backed or not, integer or float."""

_LONGEST = 4096
"""Characters of an expression; those of ordinary networks have tens."""

_LARGEST_EXPONENT = 8
_MOST_BITS = 4096
"""Bits of the largest number that an expression may come to: numbers are computed while it is read."""

_SYMBOL_BITS = 32
"""Bits of a size that an export left open: more than memory has room for."""

_POWERS = frozenset(["Pow", "PowByNatural", "FloatPow", "LShift", "RShift"])
_FUNCTION_NAMES = """
    Abs Add And CeilDiv CeilToInt CleanDiv Eq Equality FloatTrueDiv FloorDiv FloorToInt Ge GreaterThan Gt Identity
    IntTrueDiv IsNonOverlappingAndDenseIndicator Le LessThan Lt Max Min Mod ModularIndexing Mul Ne Not Or PythonMod
    RoundDecimal RoundToInt StrictGreaterThan StrictLessThan ToFloat TruncToFloat TruncToInt Unequality Where
    ceiling floor
"""
_FUNCTIONS = _POWERS | frozenset(_FUNCTION_NAMES.split())
_ASSUMPTIONS = frozenset(
    [
        "commutative",
        "finite",
        "integer",
        "negative",
        "nonnegative",
        "nonpositive",
        "nonzero",
        "positive",
        "real",
        "zero",
    ]
)
_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod)
_COMPARISONS = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)


class ExpressionError(ValueError):
    """The text is not a size expression; the message says what it holds instead."""


@lru_cache(maxsize=4096)
def checked_expression(text: str) -> str:
    """Parse a size expression and write it out anew.

    Raises
    ------
    ExpressionError
        It is no expression, too long, holds more than arithmetic on sizes, or may come to a number that is too large.
    """
    if len(text) > _LONGEST:
        raise ExpressionError(f"has {len(text)} characters, more than {_LONGEST}")
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ExpressionError("is not an expression") from error
    _check(tree)
    bits = _bits(tree)
    if bits > _MOST_BITS:
        raise ExpressionError(f"may come to a number of {bits} bits, more than {_MOST_BITS}")
    return ast.unparse(tree)


def _check(node: ast.expr) -> None:
    match node:
        case ast.Constant(value=bool()):
            return
        case ast.Constant(value=int() | float() as value) if abs(value) < 2**63:
            return
        case ast.Name(id=name) if SYMBOL.fullmatch(name) or name in ("true", "false"):
            return
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
            _check(operand)
        case ast.BinOp(left=left, op=operator, right=right) if isinstance(operator, _OPERATORS):
            _check(left)
            _check(right)
        case ast.Compare(left=left, ops=[operator], comparators=[right]) if isinstance(operator, _COMPARISONS):
            _check(left)
            _check(right)
        case ast.Call():
            _check_call(node)
        case _:
            raise ExpressionError(f"holds {ast.unparse(node)[:80]!r}")


def _check_call(node: ast.Call) -> None:
    name = _function(node)
    match name, node.args:
        case "Symbol", [ast.Constant(value=str() as symbol)] if SYMBOL.fullmatch(symbol):
            _check_assumptions(node)
            return
        case "Float", [ast.Constant(value=str() as number)] if re.fullmatch(r"-?[\d.]+(e[+-]?\d{1,3})?", number):
            _check_precision(node)
            return
        case "Integer" | "Rational" | "Float", [*arguments] if all(_is_number(argument) for argument in arguments):
            _check_precision(node)
            return
    if name not in _FUNCTIONS or node.keywords:
        raise ExpressionError(f"holds {ast.unparse(node)[:80]!r}")
    if name in _POWERS and not (len(node.args) == 2 and _is_small(node.args[1])):
        raise ExpressionError(f"holds a power other than by a number up to {_LARGEST_EXPONENT}")
    for argument in node.args:
        _check(argument)


def _function(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _check_assumptions(node: ast.Call) -> None:
    for keyword in node.keywords:
        flag = isinstance(keyword.value, ast.Constant) and isinstance(keyword.value.value, bool)
        if keyword.arg not in _ASSUMPTIONS or not flag:
            raise ExpressionError(f"holds {ast.unparse(node)[:80]!r}")


def _check_precision(node: ast.Call) -> None:
    for keyword in node.keywords:
        if keyword.arg != "precision" or not _is_number(keyword.value, largest=4096):
            raise ExpressionError(f"holds {ast.unparse(node)[:80]!r}")


def _is_number(node: ast.expr, largest: int = 2**63) -> bool:
    match node:
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _is_number(operand, largest)
        case ast.Constant(value=int() | float() as value):
            return abs(value) <= largest
    return False


def _is_small(node: ast.expr) -> bool:
    match node:
        case ast.Call(func=ast.Name(id="Integer" | "Rational"), args=[*arguments], keywords=[]):
            return all(_is_number(argument, _LARGEST_EXPONENT) for argument in arguments)
    return _is_number(node, _LARGEST_EXPONENT)


def _bits(node: ast.expr) -> int:
    """Bound the bits of the largest number that a checked expression, or a part of it, may come to."""
    match node:
        case ast.Constant(value=int() | float() as value):
            return int(abs(value)).bit_length() + 1
        case ast.UnaryOp(operand=operand):
            return _bits(operand)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub(), right=right):
            return max(_bits(left), _bits(right)) + 1
        case ast.BinOp(left=left, right=right) | ast.Compare(left=left, comparators=[right]):
            return _bits(left) + _bits(right)
        case ast.Call(args=arguments):
            return _call_bits(_function(node), arguments)
    return _SYMBOL_BITS


def _call_bits(name: str, arguments: list[ast.expr]) -> int:
    match name, arguments:
        case "Symbol", _:
            return _SYMBOL_BITS
        case "Float", [ast.Constant(value=str() as number), *_]:
            digits, _, exponent = number.partition("e")
            return 4 * (len(digits) + abs(int(exponent or 0)))
        case "LShift" | "RShift", [base, _]:
            return _bits(base) + _LARGEST_EXPONENT
        case _, [base, _] if name in _POWERS:
            return _bits(base) * _LARGEST_EXPONENT
    return sum(_bits(argument) for argument in arguments)
