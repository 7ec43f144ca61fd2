#include "tn_internal.h"

/* Adds count products to the sums of four channels. The weights of a channel are taps apart from the next one's, the
 * input of a tap step from the next one's. Returns the weights of the tap that follows. */
static inline const int8_t *four_channels(const int8_t *weights, uint32_t taps, uint32_t count, const int8_t *input,
                                          uint32_t step, int32_t sums[4]) {
  int32_t s0 = sums[0], s1 = sums[1], s2 = sums[2], s3 = sums[3];
  for (; count; count--) {
    s0 += input[0] * weights[0];
    s1 += input[1] * weights[taps];
    s2 += input[2] * weights[2 * taps];
    s3 += input[3] * weights[3 * taps];
    weights++;
    input += step;
  }
  sums[0] = s0;
  sums[1] = s1;
  sums[2] = s2;
  sums[3] = s3;
  return weights;
}

void tn_depthwise_one_s8(const tn_depthwise_row *state, uint32_t corner, uint32_t first, uint32_t last,
                         int8_t *output) {
  tn_depthwise_row s = *state;
  const int8_t *source = s.input + corner;
  const uint32_t inside = last - first, right = s.kernel_columns - last;
  uint32_t channels = s.channels;
  if (s.multiplier == 1) {
    const uint32_t taps = s.taps_above + s.rows_inside * s.kernel_columns + s.taps_below;
    const int8_t zero = (int8_t)s.zero_point, zeros[4] = {zero, zero, zero, zero};
    for (; channels >= 4; channels -= 4, source += 4) {
      int32_t sums[4] = {s.bias[0], s.bias[1], s.bias[2], s.bias[3]};
      const int8_t *weights = s.weights;
      uint32_t rows = s.rows_inside, row = s.rows.first, outside = s.taps_above + (rows ? first : s.taps_below);
      for (;;) { /* taps outside of the input, then those of a row inside, and so on */
        weights = four_channels(weights, taps, outside, zeros, 0, sums);
        if (rows == 0) break;
        weights = four_channels(weights, taps, inside, source + row, s.tap_step, sums);
        row = tn_next_row(&s.rows, row);
        rows--;
        outside = right + (rows ? first : s.taps_below);
      }
      for (uint32_t i = 0; i < 4; i++) {
        s.scaling.multiplier = *s.multipliers++;
        s.scaling.shift = *s.shifts++;
        *output++ = tn_requantize(&s.scaling, sums[i]);
      }
      s.weights += 4 * taps;
      s.bias += 4;
    }
  }
  for (; channels; channels--, source++) {
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
