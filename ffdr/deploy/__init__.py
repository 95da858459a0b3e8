"""A trained model for other tools: ONNX, torch.export, the Hugging Face hub."""
