#include "tn_internal.h"

#define HEADROOM_BITS 20 /* LiteRT scales both inputs up by this much, to add them at high resolution */

static inline int32_t rescale(const tn_add_layer *layer, uint32_t which, int32_t value) {
  int32_t raised = (value - layer->zero_points[which]) * (1 << HEADROOM_BITS);
  return tn_round_shift(tn_high_multiply(raised, layer->multipliers[which]), -layer->shifts[which]);
}

void tn_add_generic_s8(const tn_add_layer *layer, const int8_t *input_a, const int8_t *input_b, int8_t *output) {
  for (uint32_t i = 0; i < layer->elements; i++) {
    int32_t sum = rescale(layer, 0, input_a[i]) + rescale(layer, 1, input_b[i]);
    int32_t scaled = tn_round_shift(tn_high_multiply(sum, layer->output_multiplier), -layer->output_shift);
    output[i] = tn_clamp(scaled + layer->output_zero_point, layer->minimum, layer->maximum);
  }
}
