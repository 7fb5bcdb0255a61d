"""This machine: processor, NVIDIA driver, libraries, threads, children, files written whole."""
