"""Turn a trained student into a proven ONNX bundle."""
