"""Labels over HTTP and gRPC: `http` and `rpc` speak, `core` schedules requests into batches."""
