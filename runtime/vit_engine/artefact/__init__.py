"""The artefact: its contract, ONNX's wire format, and changes to the graph on loading."""
