"""Turn a trained student into a verified ONNX bundle."""
