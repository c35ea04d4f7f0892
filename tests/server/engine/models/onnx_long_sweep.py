"""The sweep of ONNX operators at length: `PYTHONPATH=tests python -m server.engine.models.onnx_long_sweep --help`."""

import argparse
import random
import re
import time
from collections import defaultdict

from pellucid_server.engine.models.onnx.operators import refusal
from server.engine.models.onnx_more_starts import more_starts
from server.engine.models.onnx_starts import onnx_starts
from server.engine.models.onnx_sweep import MODES, Change, Start, call_of, changes, random_call, sweep

EMPTY = re.compile(r"of shape \((0,|.*, 0[,)])")


def empty(start: Start) -> list[Change]:
    """Return the changes that make an axis of an input empty."""
    return [change for change in changes(start) if EMPTY.search(change[0])]


def main() -> None:
    """Sweep each operator and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("operators", nargs="*", help="as 'Conv' or 'com.microsoft.Attention'; all by default")
    parser.add_argument("--calls", type=int, default=2000, help="for each operator")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--empty", action="store_true", help="each input with each of its axes empty, in place of chance"
    )
    parser.add_argument("--unchecked", action="store_true", help="what ONNX Runtime does alone, refused operators too")
    options = parser.parse_args()
    groups = defaultdict(list)
    for start in (*more_starts(), *onnx_starts()):
        served = all(refusal(node.domain, node.op_type) is None for node in start.model.graph.node)
        if (served or options.unchecked) and (not options.operators or start.operator in options.operators):
            groups[start.operator].append(start)
    for operator, starts in sorted(groups.items()):

        def calls(operator=operator, starts=starts):
            if options.empty:
                yield from (
                    call_of(start, [change], mode) for start in starts for change in empty(start) for mode in MODES
                )
                return
            generator = random.Random(f"{options.seed} {operator}")
            for _ in range(options.calls):
                yield random_call(generator.choice(starts), generator)

        if next(calls(), None) is None:
            continue
        began = time.monotonic()
        count, findings = sweep(calls, checks=not options.unchecked)
        print(f"{operator}: {count} calls, {len(findings)} found, {time.monotonic() - began:.0f} s", flush=True)
        for finding in findings:
            print(f"  {finding.kind}: {finding.start} ({finding.mode}), {finding.changes}", flush=True)


if __name__ == "__main__":
    main()
