"""`python -m soak`: load the real server with everything at once, kill callers and workers, and judge what comes out.

Prints the figures and the verdicts; the exit status is 0 if all of them held.
"""

import argparse
import secrets
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from soak import run, server


def main() -> int:
    """Run and print; return the exit status."""
    given = _arguments()
    print(f"soak: seed {given.seed}, {given.workers} worker(s), {given.seconds:g} s and {given.calm_seconds:g} s calm")
    plan = run.Plan(
        seed=given.seed,
        seconds=given.seconds,
        calm_seconds=given.calm_seconds,
        kill_worker_seconds=given.kill_worker_seconds,
        kill_callers_seconds=given.kill_callers_seconds,
        bare=given.bare,
        shipped=given.shipped,
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise SystemExit(f"The folder {folder} is not empty; name a new one.")
        with server.serve(given.models, folder, workers=given.workers) as running:
            found = run.run(running, folder, plan)
    _print(found)
    return 0 if all(each.held for each in found.verdicts) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("models"), help="the demo model repository")
    parser.add_argument("--seconds", type=float, default=600.0, help="load with killings (default: %(default)g)")
    parser.add_argument(
        "--calm-seconds", type=float, help="load without killed workers after it (default: half of that)"
    )
    parser.add_argument("--workers", type=int, default=1, help="worker processes (default: %(default)s)")
    parser.add_argument("--seed", default=secrets.token_hex(4), help="of everything random (default: a new one)")
    parser.add_argument("--bare", type=int, default=3, help="processes of callers with bare stubs")
    parser.add_argument("--shipped", type=int, default=1, help="processes of callers with the shipped client")
    parser.add_argument("--kill-worker-seconds", type=float, default=20.0, help="0 for never (default: %(default)g)")
    parser.add_argument("--kill-callers-seconds", type=float, default=15.0, help="0 for never (default: %(default)g)")
    parser.add_argument("--folder", type=Path, help="where log, requests and calls are kept (default: nowhere)")
    given = parser.parse_args()
    if given.calm_seconds is None:
        given.calm_seconds = given.seconds / 2
    return given


def _print(found: run.Findings) -> None:
    print(
        f"\nkilled: {found.workers_killed} workers, {found.callers_killed} processes of callers; without a worker for "
        f"{sum(end - begin for begin, end in found.outages):.0f} s in {len(found.outages)} outages"
    )
    _print_calls(found)
    print()
    for each in found.verdicts:
        print(f"{'held  ' if each.held else 'BROKEN'}  {each.name:42}  {each.figures}")
        for example in each.examples:
            print(f"{'':10}{example}")


def _print_calls(found: run.Findings) -> None:
    """Print how the calls by bare stubs ended, and how long those took that were answered, by RPC."""
    codes: dict[str, Counter[str]] = {}
    seconds: dict[str, list[float]] = {}
    for call in found.calls:
        rpc = found.entries[call.begun.entry].rpc
        code = "caller killed" if call.ended is None else call.ended.code
        codes.setdefault(rpc, Counter())[code] += 1
        if call.ended is not None and code == "OK":
            seconds.setdefault(rpc, []).append(call.ended.at - call.begun.at)
    for rpc in sorted(codes):
        took = np.array(seconds.get(rpc, [np.nan]))
        ends = ", ".join(f"{count} {code}" for code, count in codes[rpc].most_common())
        print(f"{rpc:12} p50 {np.median(took):7.3f} s, p99 {np.quantile(took, 0.99):7.3f} s   {ends}")


if __name__ == "__main__":
    sys.exit(main())
