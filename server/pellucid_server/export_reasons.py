"""Says why torch refuses to export a network, in words for who wrote it: where, why, and a way round."""

import re
import traceback
from pathlib import Path

from pellucid_server.engine.models.operators.remedies import place_text

_PYTHON_NUMBER = r"\.item\(|\.tolist\(|\b(int|float|range)\("
_OTHERS = re.compile(
    r"[/\\]site-packages[/\\](torch|sympy|numpy|onnx\w*)[/\\]|[/\\]lib[/\\]python3[^/\\]*[/\\](?!site-packages)"
    rf"|^{re.escape(str(Path(__file__).parent))}[/\\]|^<"
)
"""Files that are no network's: of torch and what it uses, of Python itself, and of a server."""
_MOST_FRAMES = 200


def reason(error: BaseException) -> str:
    """Say what torch's message says, in words for who wrote the network."""
    message, where = str(error), _where(error)
    fixed = re.search(r"marked (\w+) as dynamic but your code specialized it to be a constant \((\d+)\)", message)
    if fixed and fixed[1] == "batch":
        return (
            f"forward works for {fixed[2]} rows only; it must take any number, so write -1 or x.shape[0] for it, and "
            "make no list of the rows"
        )
    if fixed:
        return f"forward works for {fixed[1]} = {fixed[2]} only; leave that axis fixed, as recurrent layers need it"
    if "data-dependent" in message:
        if re.search(_PYTHON_NUMBER, where):
            return (
                f"forward makes a number of Python of a tensor's value{where}; keep it a tensor and compute with that, "
                "with torch.where in place of conditions. A length, or how often a loop runs, must be fixed or come "
                "from a shape"
            )
        return (
            f"forward chooses by the values of a tensor{where}; compute both sides and choose with torch.where, or use "
            "masks"
        )
    if "Constraints violated" in message or "ConstraintViolation" in type(error).__name__:
        return _violated(message)
    first = next((line.strip() for line in message.splitlines() if line.strip()), "no message")
    return f"{type(error).__name__}: {first}".rstrip(".:")[:500] + where


def _where(error: BaseException) -> str:
    """Name the author's line at which an error came up, as ` (net.py, line 3: return x + y)`, or nothing."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)[-_MOST_FRAMES:]
        if not _OTHERS.search(frame.filename)
    ]
    return place_text("".join(traceback.format_list(frames)))


def _violated(message: str) -> str:
    """Say which lengths forward is limited to, where torch says which of its conditions they break."""
    limits = re.findall(r"(\w+) = Dim\('\w+', (?:min=(\d+))?(?:, )?(?:max=(\d+))?\)", message)
    parts = [
        f"{name} {' and '.join(filter(None, (least and f'from {least}', most and f'up to {most}')))}"
        for name, least, most in limits
    ]
    unequal = re.findall(r"generated guard L\['(\w+)'\]\.size\(\)\[(\d+)\] != (\d+)", message)
    parts += [f"axis {axis} of {name} other than {length}" for name, axis, length in unequal]
    takes = f"forward works for {', '.join(dict.fromkeys(parts))} only" if parts else "forward limits its open axes"
    return (
        f"{takes}: it compares a length with a number, or joins an open axis with a fixed one. Take conditions on "
        "shapes out of forward, or leave that axis fixed (the batch, axis 0, cannot be)"
    )
