"""Loads model files one after the other, as a server does, and runs what loads; a line of JSON for each.

Run in a process of its own, which a file that is not safe would end.
"""

import json
import resource
import sys
import time
from pathlib import Path

import torch
from pellucid_server.engine.models.exported.archive import ModelFileError, load_program
from pellucid_server.engine.models.graph.graph import Graph, UnfitModelError
from pellucid_server.engine.models.operators.contracts import BrokenContractError

for path in map(Path, sys.argv[1:]):
    started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        graph = Graph.from_program(load_program(path))
        rows = {
            value.name: torch.zeros(3, *(5 if size is None else size for size in value.shape)) for value in graph.inputs
        }
        graph(rows)
        said = "ran"
    except (ModelFileError, UnfitModelError, BrokenContractError) as error:
        said = str(error)
    seconds = time.process_time() - started
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps([path.stem, said, seconds, grown * 1024]), flush=True)
