"""The sections of the settings, each a frozen model; `pellucid_server.config` reads them."""
