"""OpenVINO: its provider, sessions of several streams, and compiled models that are kept."""
