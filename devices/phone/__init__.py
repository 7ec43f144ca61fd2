"""Phones, over the user's own adb and TensorFlow Lite's benchmark_model."""
