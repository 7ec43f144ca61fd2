#include "tn_internal.h"

void tn_depthwise_four_s8(const tn_depthwise_row *state, uint32_t corner, int8_t *output) {
  tn_depthwise_row s = *state;
  const int8_t *source = s.input + corner;
  for (uint32_t channels = s.channels; channels; channels--, source++) {
    for (uint32_t m = s.multiplier; m; m--) {
      int32_t outside = 0;
      for (uint32_t n = s.taps_above; n; n--) outside += *s.weights++;
      int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
      const int8_t *weights = s.weights;
      for (uint32_t rows = s.rows_inside, row = s.rows.first; rows; rows--, row = tn_next_row(&s.rows, row)) {
        const int8_t *tap = source + row;
        for (uint32_t n = s.kernel_columns; n; n--) {
          int32_t weight = *weights++;
          s0 += tap[0] * weight;
          s1 += tap[s.pixel_step] * weight;
          s2 += tap[2 * s.pixel_step] * weight;
          s3 += tap[3 * s.pixel_step] * weight;
          tap += s.tap_step;
        }
      }
      s.weights = weights;
      for (uint32_t n = s.taps_below; n; n--) outside += *s.weights++;
      int32_t start = *s.bias++ + outside * s.zero_point;
      s.scaling.multiplier = *s.multipliers++;
      s.scaling.shift = *s.shifts++;
      int8_t *to = output++;
      tn_requantize_two(&s.scaling, s0 + start, s1 + start, to, to + s.output_channels);
      to += 2 * s.output_channels;
      tn_requantize_two(&s.scaling, s2 + start, s3 + start, to, to + s.output_channels);
    }
  }
}
