"""The service over gRPC, through Serve's own proxy; `bigbird_pb2*` is made from `bigbird.proto`."""
