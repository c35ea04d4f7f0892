"""From a model repository to models that are loaded, tried out and described."""
