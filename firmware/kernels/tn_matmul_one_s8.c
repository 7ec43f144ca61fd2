#include "tn_internal.h"

void tn_matmul_one_s8(const tn_dense *layer, uint32_t first, uint32_t count, const int8_t *input, int8_t *output) {
  const uint32_t depth = layer->depth;
  tn_scaling scaling = tn_scaling_of(layer->requantization);
  const int32_t *multipliers = layer->requantization->multipliers;
  const int8_t *shifts = layer->requantization->shifts, *weights = layer->weights + first * depth;
  const uint32_t end = first + count;
  uint32_t channel = first;
  for (; end - channel >= 4; channel += 4) {
    const int32_t *bias = layer->bias + channel;
    int32_t sums[4] = {bias[0], bias[1], bias[2], bias[3]};
    tn_dot_four(input, weights, depth, sums);
    for (uint32_t i = 0; i < 4; i++) {
      scaling.multiplier = multipliers[channel + i];
      scaling.shift = shifts[channel + i];
      output[channel + i] = tn_requantize(&scaling, sums[i]);
    }
    weights += 4 * depth;
  }
  for (; channel < end; channel++) {
    scaling.multiplier = multipliers[channel];
    scaling.shift = shifts[channel];
    output[channel] = tn_requantize(&scaling, tn_dot_one(input, weights, depth, layer->bias[channel]));
    weights += depth;
  }
}
