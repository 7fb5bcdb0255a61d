"""What this machine has: processor, NVIDIA driver, shared libraries."""
