"""The server with workers that answer `Ablate`: see `streaming_worker`."""

import sys
from pathlib import Path

from pellucid_server.__main__ import main

if __name__ == "__main__":
    sys.exit(main(worker_command=(sys.executable, str(Path(__file__).with_name("streaming_worker.py")))))
