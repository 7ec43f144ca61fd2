#include "tn_internal.h"

void tn_requantize_generic_s8(const tn_requantize_layer *layer, const int8_t *input, int8_t *output) {
  for (uint32_t i = 0; i < layer->elements; i++) {
    int32_t scaled = tn_multiply_any(input[i] - layer->input_zero_point, layer->multiplier, layer->shift);
    output[i] = tn_clamp(scaled + layer->output_zero_point, layer->minimum, layer->maximum);
  }
}
