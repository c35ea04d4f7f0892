"""The protobuf edge: the only place, beside `app`, that knows gRPC and protobuf.

`service` has the handlers, `boundary` what happens around each of them, `codec` turns requests into
requests, `replies` and `catalogue` turn results into replies, `status` errors into gRPC statuses.
"""
