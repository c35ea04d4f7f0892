"""Where administrators change what is served."""

from pydantic import Field

from pellucid_server.settings.section import Section


class AdminConfig(Section):
    """The admin port, on which models are loaded and unloaded. Who can reach it can do that: it is off by default."""

    host: str = Field(default="127.0.0.1", min_length=1)
    """Address of the admin port; anything but this machine's own should have `[access]` set."""

    port: int = Field(default=-1, ge=-1, le=65535)
    """gRPC port of the admin service, 50053 by convention; 0 takes any free one, -1 serves none."""
