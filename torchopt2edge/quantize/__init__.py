"""Post-training quantization, decided once on the float ONNX for every runtime."""
