"""From the files of a model repository to models that are loaded, checked and described."""
