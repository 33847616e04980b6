"""The steps that make or change a network, and its export to ONNX."""
