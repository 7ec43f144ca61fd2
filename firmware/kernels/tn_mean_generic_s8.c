#include "tn_internal.h"

void tn_mean_generic_s8(const tn_mean_layer *layer, const int8_t *input, int8_t *output) {
  int32_t offset = (int32_t)layer->reduced * layer->input_zero_point;
  for (uint32_t outer = 0; outer < layer->outer; outer++) {
    for (uint32_t inner = 0; inner < layer->inner; inner++) {
      const int8_t *from = input + inner;
      int32_t sum = -offset;
      for (uint32_t n = layer->reduced; n; n--, from += layer->inner) sum += *from;
      int32_t scaled = tn_multiply_any(sum, layer->multiplier, layer->shift);
      *output++ = tn_clamp(scaled + layer->output_zero_point, INT8_MIN, INT8_MAX);
    }
    input += layer->reduced * layer->inner;
  }
}
