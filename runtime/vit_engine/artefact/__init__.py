"""The artefact: its contract and file, ONNX's wire format, rewrites of the graph on loading."""
