#include "model_info.h"

#include <stddef.h>

#include "model.h"

#ifndef TN_MODEL_STEPS /* every layer runs whole */

#define TN_MODEL_STEPS TN_MODEL_LAYERS

static uint32_t layer_at(uint32_t step, const uint8_t *input) {
  (void)input;
  return step;
}

#elif !defined TN_MODEL_INPUT_ROWS

static uint32_t layer_at(uint32_t step, const uint8_t *input) {
  (void)input;
  if (step == 0) tn_model_prepare();
  return tn_model_order[step];
}

#else

static uint32_t layer_at(uint32_t step, const uint8_t *input) {
  static uint32_t row;
  if (step == 0) {
    tn_model_prepare();
    row = 0;
  }
  if (tn_model_order[step] != TN_MODEL_INPUT_ROW) return tn_model_order[step];
  tn_model_take_row(input + row * TN_MODEL_INPUT_ROW_BYTES, row);
  row++;
  return TN_MODEL_LAYERS;
}

#endif

#ifdef TN_MODEL_INPUT_ROWS

static void invoke(const uint8_t *input) { tn_model_invoke(input); }

#else

static void invoke(const uint8_t *input) {
  (void)input;
  tn_model_invoke();
}

#endif

const tn_model_info tn_model = {
    .name = TN_MODEL_NAME,
    .id = TN_MODEL_ID,
    .arena_bytes = TN_MODEL_ARENA_BYTES,
    .input_bytes = TN_MODEL_INPUT_BYTES,
    .input_element_bytes = TN_MODEL_INPUT_ELEMENT_BYTES,
    .output_bytes = TN_MODEL_OUTPUT_BYTES,
    .output_element_bytes = TN_MODEL_OUTPUT_ELEMENT_BYTES,
    .layers = TN_MODEL_LAYERS,
    .steps = TN_MODEL_STEPS,
    .input_scale = TN_MODEL_INPUT_SCALE,
    .output_scale = TN_MODEL_OUTPUT_SCALE,
    .input_zero_point = TN_MODEL_INPUT_ZERO_POINT,
    .output_zero_point = TN_MODEL_OUTPUT_ZERO_POINT,
#ifndef TN_MODEL_INPUT_ROWS
    .input = tn_model_input,
#endif
    .output = tn_model_output,
    .invoke = invoke,
    .layer_at = layer_at,
    .layer = tn_model_layers,
};
