"""What holds for all tests."""

import os

# Tests of the guard fork this process. A worker, which does so in earnest, has no gRPC; its handlers of forks would
# reach for descriptors that the guard closes.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
