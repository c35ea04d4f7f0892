"""Requests per second on the table model, as shares of what a bare gRPC echo of the same bytes reaches.

Closed loop, 64 callers in one process; echo and service take turns, and the median of the rounds'
ratios is reported.
"""

import argparse
import statistics
from pathlib import Path

import numpy as np
from pellucid.tensors import to_tensor
from pellucid.v1 import explanation_pb2, explanation_service_pb2, input_pb2

from benchmarks import load, servers

MODEL = "breast-cancer"


def bodies() -> dict[str, tuple[str, bytes, float]]:
    """Return the measured calls: method, request, and the share of the echo's rate that is the aim."""
    generator = np.random.default_rng(0)
    row = {"features": input_pb2.Input(tensor=to_tensor(generator.normal(15, 3, (1, 30)).astype(np.float32)))}
    model = explanation_pb2.ModelSpec(name=MODEL)

    def attribute(method: str, parameters: dict[str, int]) -> bytes:
        values = {name: explanation_pb2.ParamValue(integer=value) for name, value in parameters.items()}
        spec = explanation_pb2.ExplanationSpec(method=method, parameters=values)
        spec.baseline.kind = explanation_pb2.BASELINE_KIND_ZEROS
        return bytes(
            explanation_service_pb2.AttributeRequest(model=model, inputs=row, explanation=spec).SerializeToString()
        )

    predict = explanation_service_pb2.PredictRequest(model=model, inputs=row).SerializeToString()
    return {
        "integrated-gradients, 50 steps": (load.ATTRIBUTE, attribute("integrated-gradients", {"steps": 50}), 0.35),
        "kernel-shap, 512 samples": (load.ATTRIBUTE, attribute("kernel-shap", {"samples": 512}), 0.2),
        "predict": (load.PREDICT, predict, 0.0),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("models"), help="the demo model repository")
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of one measurement")
    parser.add_argument("--threads", type=int, default=0, help="threads of the worker; 0 for all cores")
    arguments = parser.parse_args()
    with servers.pellucid(arguments.models, threads=arguments.threads) as address:
        for name, (method, body, aim) in bodies().items():
            _measure(name, address, method, body, aim, arguments)


def _measure(name: str, address: str, method: str, body: bytes, aim: float, arguments: argparse.Namespace) -> None:
    reply = load.once(address, method, body)
    echoed, served = [], []
    with servers.echo(len(reply)) as echo:
        for _ in range(arguments.rounds):
            settings = {"callers": arguments.callers, "seconds": arguments.seconds}
            echoed.append(load.requests_per_second(echo, load.ECHO, body, **settings))
            served.append(load.requests_per_second(address, method, body, **settings))
    ratios = sorted(mine / bare for mine, bare in zip(served, echoed, strict=True))
    print(
        f"{name}: {statistics.median(served):.0f}/s, echo {statistics.median(echoed):.0f}/s, "
        f"ratio {statistics.median(ratios):.3f} (rounds {ratios[0]:.3f} to {ratios[-1]:.3f}; aim {aim})"
    )


if __name__ == "__main__":
    main()
