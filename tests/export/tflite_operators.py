"""What a ``.tflite`` file holds, read with LiteRT's schema alone, so that our own reader is not judged by itself."""

from __future__ import annotations

from pathlib import Path

from ai_edge_litert import schema_py_generated as schema

_OPERATORS = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
_ACTIVATIONS = {code: name for name, code in vars(schema.ActivationFunctionType).items() if isinstance(code, int)}


def operator_names(path: Path) -> list[str]:
    """The operators in execution order, a fused activation after a plus sign: CONV_2D+RELU6."""
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    (subgraph,) = model.subgraphs
    names = []
    for operator in subgraph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        activation = getattr(operator.builtinOptions, "fusedActivationFunction", 0)
        name = _OPERATORS[max(code.builtinCode, code.deprecatedBuiltinCode)]
        names.append(name + (f"+{_ACTIVATIONS[activation]}" if activation else ""))
    return names
