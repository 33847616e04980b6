"""Tools that read and rewrite ONNX graphs."""
