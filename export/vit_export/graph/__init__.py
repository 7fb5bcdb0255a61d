"""A checkpoint as ONNX modules: all numerics of the artefact."""
