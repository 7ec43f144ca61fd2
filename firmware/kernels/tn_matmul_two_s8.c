#include "tn_internal.h"

void tn_matmul_two_s8(const tn_conv_layer *layer, uint32_t first, uint32_t count, uint32_t depth,
                      const int8_t *const inputs[2], int8_t *const outputs[2]) {
  const tn_requantization *r = &layer->requantization;
  const int8_t *weights = layer->weights + first * depth;
  uint32_t channel = first;
  for (uint32_t pairs = count >> 1; pairs; pairs--) {
    const int8_t *x0 = inputs[0], *x1 = inputs[1], *w0 = weights, *w1 = weights + depth;
    int32_t s00 = layer->bias[channel], s01 = layer->bias[channel + 1], s10 = s00, s11 = s01;
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
    outputs[0][channel] = tn_requantize(r, channel, s00);
    outputs[0][channel + 1] = tn_requantize(r, channel + 1, s01);
    outputs[1][channel] = tn_requantize(r, channel, s10);
    outputs[1][channel + 1] = tn_requantize(r, channel + 1, s11);
    channel += 2;
    weights += 2 * depth;
  }
  if (count & 1) {
    int32_t bias = layer->bias[channel];
    outputs[0][channel] = tn_requantize(r, channel, tn_dot_one(inputs[0], weights, depth, bias));
    outputs[1][channel] = tn_requantize(r, channel, tn_dot_one(inputs[1], weights, depth, bias));
  }
}
