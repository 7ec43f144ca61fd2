#include "tn_internal.h"

#define HEADROOM_BITS 20 /* LiteRT scales both inputs up by this much, to add them at high resolution */

void tn_add_generic_s8(const tn_add_layer *layer, const int8_t *input_a, const int8_t *input_b, int8_t *output) {
  const tn_add_layer l = *layer; /* a store of an int8 may alias the original */
  for (uint32_t n = l.elements; n; n--) {
    int32_t a = (*input_a++ - l.zero_points[0]) * (1 << HEADROOM_BITS);
    int32_t b = (*input_b++ - l.zero_points[1]) * (1 << HEADROOM_BITS);
    int32_t sum = tn_round_shift(tn_high_multiply(a, l.multipliers[0]), -l.shifts[0]) +
                  tn_round_shift(tn_high_multiply(b, l.multipliers[1]), -l.shifts[1]);
    int32_t scaled = tn_round_shift(tn_high_multiply(sum, l.output_multiplier), -l.output_shift);
    *output++ = tn_clamp(scaled + l.output_zero_point, l.minimum, l.maximum);
  }
}
