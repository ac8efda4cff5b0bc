"""Python side of Tasuki. `python -m tasuki.convert` turns pickled weights into safetensors."""
