"""Runs the command that writes a probe set."""

import sys

from pellucid_server.scenes.command import main

if __name__ == "__main__":
    sys.exit(main())
