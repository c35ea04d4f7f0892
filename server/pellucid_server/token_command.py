"""`pellucid-server token`: makes a token, and the lines of the access file that go with it."""

import argparse
import re
import sys
from collections.abc import Sequence
from typing import TextIO

from pellucid_server.access.tokens import LEAST_LENGTH, hash_line, new_token

COMMAND = "token"

_WRONG = 2
_TOKEN = re.compile(rf"[!-~]{{{LEAST_LENGTH},4000}}")


def main(arguments: Sequence[str], *, read: TextIO | None = None) -> int:
    """Write a token to standard output and its hash, for the access file, to standard error.

    Returns
    -------
    int
        The exit status: 2 if what is to be hashed is no token, else 0.
    """
    options = _parser().parse_args(arguments)
    if not options.hash:
        token = new_token()
        sys.stdout.write(f"{token}\n")
        sys.stderr.write(_lines(options.name, token))
        return 0
    token = (read or sys.stdin).readline(8192).rstrip("\r\n")
    if not _TOKEN.fullmatch(token):
        text = f"a token has {LEAST_LENGTH} to 4000 printable characters of ASCII without spaces, chosen at random"
        sys.stderr.write(f"pellucid-server: {text}\n")
        return _WRONG
    sys.stdout.write(f"{hash_line(token)}\n")
    return 0


def _lines(name: str, token: str) -> str:
    return f'[identities."{name}"]\ntokens = ["{hash_line(token)}"]\nroles = ["predict", "explain"]\n'


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", text):
        raise argparse.ArgumentTypeError("a name is 1 to 64 of a-z, A-Z, 0-9, ., _, @ and -, a letter or digit first")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"pellucid-server {COMMAND}",
        description="Make a bearer token. It goes to standard output, and the access file's lines to standard error.",
        epilog="The server keeps the hash alone: a token that is lost is replaced.",
    )
    parser.add_argument("name", nargs="?", type=_name, default="NAME", help="the identity, for the access file's lines")
    parser.add_argument("--hash", action="store_true", help="read a token from standard input and write its hash")
    return parser
