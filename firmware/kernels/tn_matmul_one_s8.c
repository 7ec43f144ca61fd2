#include "tn_internal.h"

void tn_matmul_one_s8(const tn_conv_layer *layer, uint32_t first, uint32_t count, uint32_t depth, const int8_t *input,
                      int8_t *output) {
  const tn_requantization *r = &layer->requantization;
  const int8_t *weights = layer->weights + first * depth;
  uint32_t channel = first, end = first + count;
  for (; end - channel >= 4; channel += 4) {
    const int32_t *bias = layer->bias + channel;
    int32_t sums[4] = {bias[0], bias[1], bias[2], bias[3]};
    tn_dot_four(input, weights, depth, sums);
    for (uint32_t i = 0; i < 4; i++) output[channel + i] = tn_requantize(r, channel + i, sums[i]);
    weights += 4 * depth;
  }
  for (; channel < end; channel++) {
    output[channel] = tn_requantize(r, channel, tn_dot_one(input, weights, depth, layer->bias[channel]));
    weights += depth;
  }
}
