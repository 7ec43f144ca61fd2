#include "model_info.h"

#include "model.h"

const tn_model_info tn_model = {
    .name = TN_MODEL_NAME,
    .id = TN_MODEL_ID,
    .arena_bytes = TN_MODEL_ARENA_BYTES,
    .input_bytes = TN_MODEL_INPUT_BYTES,
    .output_bytes = TN_MODEL_OUTPUT_BYTES,
    .output_element_bytes = TN_MODEL_OUTPUT_ELEMENT_BYTES,
    .layers = TN_MODEL_LAYERS,
    .output_scale = TN_MODEL_OUTPUT_SCALE,
    .output_zero_point = TN_MODEL_OUTPUT_ZERO_POINT,
    .input = tn_model_input,
    .output = tn_model_output,
    .invoke = tn_model_invoke,
    .layer = tn_model_layers,
};
