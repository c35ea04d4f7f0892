"""Where a job waits: admission, routing, and the supervision of the worker processes.

`pool` admits jobs and does those of lost workers again; `waiting` is the queue of one class, with `turns` of its
callers, `pace` and `weights`; `routing` picks a worker; `supervised` keeps one alive, with `watchdog`; `process` is one
life of a worker process, `connection` the socket to it. `observer` hears what happens, for the metrics.
"""
