"""The sweep of ONNX operators at length: `PYTHONPATH=tests python -m server.engine.models.onnx_long_sweep --help`."""

import argparse
import random
import time
from collections import defaultdict

from pellucid_server.engine.models.onnx_operators import refusal
from server.engine.models.onnx_more_starts import more_starts
from server.engine.models.onnx_starts import onnx_starts
from server.engine.models.onnx_sweep import random_call, sweep


def main() -> None:
    """Sweep each operator and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("operators", nargs="*", help="as 'Conv' or 'com.microsoft.Attention'; all by default")
    parser.add_argument("--calls", type=int, default=2000, help="for each operator")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--unchecked", action="store_true", help="what ONNX Runtime does alone, refused operators too")
    options = parser.parse_args()
    groups = defaultdict(list)
    for start in (*more_starts(), *onnx_starts()):
        served = all(refusal(node.domain, node.op_type) is None for node in start.model.graph.node)
        if (served or options.unchecked) and (not options.operators or start.operator in options.operators):
            groups[start.operator].append(start)
    for operator, starts in sorted(groups.items()):

        def calls(operator=operator, starts=starts):
            generator = random.Random(f"{options.seed} {operator}")
            for _ in range(options.calls):
                yield random_call(generator.choice(starts), generator)

        began = time.monotonic()
        count, findings = sweep(calls, checks=not options.unchecked)
        print(f"{operator}: {count} calls, {len(findings)} found, {time.monotonic() - began:.0f} s", flush=True)
        for finding in findings:
            print(f"  {finding.kind}: {finding.start} ({finding.mode}), {finding.changes}", flush=True)


if __name__ == "__main__":
    main()
