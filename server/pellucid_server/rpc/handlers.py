"""A servicer's methods as gRPC wants them: found by name, every one behind the boundary."""

from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from pellucid_server.rpc.boundary import Boundary


class GuardedHandlers(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """The RPCs of one service of the schema.

    Parameters
    ----------
    servicer
        Has a method `(request, call)` for each RPC: a coroutine that returns the reply or, where the schema has a
        stream of replies, an asynchronous generator of them.
    """

    def __init__(self, service: ServiceDescriptor, servicer: Any, boundary: Boundary) -> None:
        self._boundary = boundary
        self._handlers = {
            f"/{service.full_name}/{method.name}": (method.name, _guarded(method, servicer, boundary))
            for method in service.methods
        }
        for method in service.methods:
            boundary.name_call(method.name, f"{service.full_name}/{method.name}")

    def service(self, handler_call_details: Any) -> Any:
        """Return the handler of a call that begins, or None; gRPC asks before it has read the request."""
        found = self._handlers.get(handler_call_details.method)
        if found is None:
            return None
        rpc, handler = found
        self._boundary.enter(rpc)
        return handler


def _guarded(method: MethodDescriptor, servicer: Any, boundary: Boundary) -> Any:
    request_class = message_factory.GetMessageClass(method.input_type)
    handler = getattr(servicer, method.name)
    # Of a stream of requests the boundary reads the first when there is room for it; a unary handler would be given it
    # read. The bytes on the wire are the same. No serializers: so that bytes that are no request are its to answer too.
    if method.server_streaming:
        return grpc.stream_stream_rpc_method_handler(boundary.guard_stream(method.name, request_class, handler))
    return grpc.stream_unary_rpc_method_handler(boundary.guard(method.name, request_class, handler))
