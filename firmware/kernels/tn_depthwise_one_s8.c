#include "tn_internal.h"

void tn_depthwise_one_s8(const tn_depthwise_row *state, uint32_t corner, uint32_t first, uint32_t last,
                         int8_t *output) {
  tn_depthwise_row s = *state;
  const int8_t *source = s.input + corner;
  uint32_t inside = last - first, right = s.kernel_columns - last;
  for (uint32_t channels = s.channels; channels; channels--, source++) {
    for (uint32_t m = s.multiplier; m; m--) {
      int32_t sum = *s.bias++, outside = 0;
      for (uint32_t n = s.taps_above; n; n--) outside += *s.weights++;
      for (uint32_t rows = s.rows_inside, row = s.rows.first; rows; rows--, row = tn_next_row(&s.rows, row)) {
        const int8_t *tap = source + row;
        for (uint32_t n = first; n; n--) outside += *s.weights++;
        for (uint32_t n = inside; n; n--) {
          sum += *tap * *s.weights++;
          tap += s.tap_step;
        }
        for (uint32_t n = right; n; n--) outside += *s.weights++;
      }
      for (uint32_t n = s.taps_below; n; n--) outside += *s.weights++;
      s.scaling.multiplier = *s.multipliers++;
      s.scaling.shift = *s.shifts++;
      *output++ = tn_requantize(&s.scaling, sum + outside * s.zero_point);
    }
  }
}
