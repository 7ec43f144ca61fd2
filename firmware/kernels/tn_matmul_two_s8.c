#include "tn_internal.h"

void tn_matmul_two_s8(const tn_dense *layer, uint32_t first, uint32_t count, const int8_t *input, int8_t *output) {
  const uint32_t depth = layer->depth;
  tn_scaling scaling = tn_scaling_of(layer->requantization);
  const int32_t *multipliers = layer->requantization->multipliers + first, *bias = layer->bias + first;
  const int8_t *shifts = layer->requantization->shifts + first, *weights = layer->weights + first * depth;
  const uint32_t channels = layer->channels;
  output += first;
  for (; count >= 2; count -= 2) {
    const int8_t *x0 = input, *x1 = input + depth, *w0 = weights, *w1 = weights + depth;
    int32_t s00 = bias[0], s01 = bias[1], s10 = s00, s11 = s01;
    for (uint32_t n = depth >> 2; n; n--) {
      int32_t a0 = *x0++, a1 = *x1++, b0 = *w0++, b1 = *w1++;
      s00 += a0 * b0;
      s01 += a0 * b1;
      s10 += a1 * b0;
      s11 += a1 * b1;
      a0 = *x0++, a1 = *x1++, b0 = *w0++, b1 = *w1++;
      s00 += a0 * b0;
      s01 += a0 * b1;
      s10 += a1 * b0;
      s11 += a1 * b1;
      a0 = *x0++, a1 = *x1++, b0 = *w0++, b1 = *w1++;
      s00 += a0 * b0;
      s01 += a0 * b1;
      s10 += a1 * b0;
      s11 += a1 * b1;
      a0 = *x0++, a1 = *x1++, b0 = *w0++, b1 = *w1++;
      s00 += a0 * b0;
      s01 += a0 * b1;
      s10 += a1 * b0;
      s11 += a1 * b1;
    }
    for (uint32_t n = depth & 3; n; n--) {
      int32_t a0 = *x0++, a1 = *x1++, b0 = *w0++, b1 = *w1++;
      s00 += a0 * b0;
      s01 += a0 * b1;
      s10 += a1 * b0;
      s11 += a1 * b1;
    }
    scaling.multiplier = multipliers[0];
    scaling.shift = shifts[0];
    tn_requantize_two(&scaling, s00, s10, output, output + channels);
    scaling.multiplier = multipliers[1];
    scaling.shift = shifts[1];
    tn_requantize_two(&scaling, s01, s11, output + 1, output + 1 + channels);
    weights = w1;
    output += 2;
    bias += 2;
    multipliers += 2;
    shifts += 2;
  }
  if (count) {
    scaling.multiplier = multipliers[0];
    scaling.shift = shifts[0];
    int32_t s0 = tn_dot_one(input, weights, depth, bias[0]);
    int32_t s1 = tn_dot_one(input + depth, weights, depth, bias[0]);
    tn_requantize_two(&scaling, s0, s1, output, output + channels);
  }
}
