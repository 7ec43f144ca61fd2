"""How a network gets to a board: ONNX, TFLite, int8, graph, memory planner and C generator."""
