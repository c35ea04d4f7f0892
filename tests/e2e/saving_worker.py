"""Makes a worker that imports it look at few pictures at once and save after each batch, for tests of dissections."""

from pellucid_server.engine.methods.dissection import network_dissection
from pellucid_server.engine.methods.shared import save_timer

network_dissection._MOST_ROWS = 8
save_timer._SECONDS = 0.0
network_dissection._PREVIEW_SECONDS = 0.1
