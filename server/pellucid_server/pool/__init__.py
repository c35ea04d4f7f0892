"""Where a job waits: admission, routing, and the supervision of the worker processes.

`pool` takes or refuses jobs, each a `ticket`. `dispatch` gives them places, and again when a worker is lost, but for
those that are `fatal`; `waiting` is the queue of one class, with `turns` of its callers, `pace` and `weights`, and
`routing` picks a worker. `supervised` keeps one worker alive, with `watchdog`; `process` is one life of a worker
process, `connection` the socket to it. `observer` hears what happens, for the metrics.
"""
