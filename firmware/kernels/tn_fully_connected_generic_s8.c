#include "tn_internal.h"

static int8_t requantize(const tn_wide_requantization *r, uint32_t channel, int32_t acc) {
  uint32_t index = channel * r->per_channel;
  uint32_t magnitude = acc < 0 ? 0u - (uint32_t)acc : (uint32_t)acc;
  uint64_t product = (uint64_t)magnitude * r->high[index] + (((uint64_t)magnitude * r->low[index]) >> 31);
  uint32_t shift = r->shifts[index];
  uint64_t rounded = (product + ((uint64_t)1 << (shift - 1))) >> shift;
  int32_t value =
      rounded > 0xffff ? 0xffff : (int32_t)rounded; /* beyond every clamp, so that the sum cannot overflow */
  return tn_clamp((acc < 0 ? -value : value) + r->output_zero_point, r->minimum, r->maximum);
}

void tn_fully_connected_generic_s8(const tn_fully_connected_layer *layer, const int8_t *input, int8_t *output) {
  const tn_wide_requantization *r = &layer->requantization;
  uint32_t depth = layer->inputs;
  for (uint32_t batch = 0; batch < layer->batches; batch++) {
    const int8_t *weights = layer->weights;
    uint32_t channel = 0;
    for (; channel + 4 <= layer->outputs; channel += 4) {
      const int32_t *bias = layer->bias + channel;
      int32_t sums[4] = {bias[0], bias[1], bias[2], bias[3]};
      tn_dot_four(input, weights, depth, sums);
      for (uint32_t i = 0; i < 4; i++) *output++ = requantize(r, channel + i, sums[i]);
      weights += 4 * depth;
    }
    for (; channel < layer->outputs; channel++) {
      *output++ = requantize(r, channel, tn_dot_one(input, weights, depth, layer->bias[channel]));
      weights += depth;
    }
    input += depth;
  }
}
