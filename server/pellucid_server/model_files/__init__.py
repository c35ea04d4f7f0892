"""A model repository as folders and files: nothing here opens a model, and nothing needs a library to run one."""
