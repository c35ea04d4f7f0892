"""Generated pictures of colours, textures, shapes and positions, with exact masks: a probe set without a download."""
