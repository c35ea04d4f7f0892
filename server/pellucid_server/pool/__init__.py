"""Where a job waits: admission, routing, and the supervision of the worker processes.

`pool` admits and routes, `supervised` keeps one worker alive and does jobs on it, `process` is one
life of a worker process, `connection` the socket to it.
"""
