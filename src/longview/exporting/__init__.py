"""Trained models in forms that others read: ONNX, PyTorch's exported programs, safetensors, a hub's folder, timm."""
