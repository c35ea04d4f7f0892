"""From an admitted request to its answer: who waits, which worker computes it, and what a worker's death costs.

`pool` admits or refuses requests, each a `ticket`; `dispatch` gives them places on workers, `routing` chooses among
workers. `queue` has the rules of waiting, one module each; `workers` the processes and the connections to them.
"""
