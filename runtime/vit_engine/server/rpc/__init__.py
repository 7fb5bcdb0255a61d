"""gRPC: the Open Inference Protocol beside HTTP."""
