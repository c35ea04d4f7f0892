"""Stubs of the schema `pellucid.v1`, generated from `proto/`: messages in `*_pb2`, services in `*_pb2_grpc`."""
