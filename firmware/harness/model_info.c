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

/* What the benchmark's runner calls a model of these shapes; any other goes by its own name. */
#define INPUTS (TN_MODEL_INPUT_BYTES / TN_MODEL_INPUT_ELEMENT_BYTES)
#define OUTPUTS (TN_MODEL_OUTPUT_BYTES / TN_MODEL_OUTPUT_ELEMENT_BYTES)
#if INPUTS == 96 * 96 * 3 && OUTPUTS == 2
#define BENCHMARK "vww01"
#elif INPUTS == 32 * 32 * 3 && OUTPUTS == 10
#define BENCHMARK "ic01"
#elif INPUTS == 49 * 10 && OUTPUTS == 12
#define BENCHMARK "kws01"
#elif INPUTS == 640 && OUTPUTS == 640
#define BENCHMARK "ad01"
#else
#define BENCHMARK TN_MODEL_NAME
#endif

const tn_model_info tn_model = {
    .name = TN_MODEL_NAME,
    .id = TN_MODEL_ID,
    .benchmark = BENCHMARK,
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
