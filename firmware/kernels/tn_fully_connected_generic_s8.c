#include "tn_internal.h"

#define BEYOND_CLAMPS 0xffff /* larger than every output, small enough that sums with a zero point cannot overflow */

/* Whether magnitude * scale, so little below the boundary to the next output, would be rounded up to it if it were a
 * double: if it lacks at most half of the distance between the doubles just below the boundary. */
static int double_reaches(uint32_t output, uint64_t lacking, uint32_t missing_low, uint32_t shift) {
  int32_t exponent = -2; /* of the double just below output + 1/2 */
  if (output) {
    for (exponent = -1; output; output >>= 1) exponent++;
  }
  int32_t half_distance = exponent - 22 + (int32_t)shift; /* as a power of 2, in units of 2^-(31 + shift) */
  return half_distance >= 0 && (lacking << 31) - missing_low <= (uint64_t)1 << half_distance;
}

static int8_t requantize(const tn_wide_requantization *r, uint32_t channel, int32_t acc) {
  uint32_t index = channel * r->per_channel, shift = r->shifts[index];
  uint32_t magnitude = acc < 0 ? 0u - (uint32_t)acc : (uint32_t)acc;
  uint64_t low = (uint64_t)magnitude * r->low[index];
  uint64_t sum = (uint64_t)magnitude * r->high[index] + (low >> 31) + ((uint64_t)1 << (shift - 1));
  uint64_t whole = sum >> shift;
  uint32_t value = whole > BEYOND_CLAMPS ? BEYOND_CLAMPS : (uint32_t)whole;
  uint64_t lacking = ((uint64_t)1 << shift) - (sum - (whole << shift));
  /* 44: outputs have 8 bits, so a half distance is at most 2^-46. */
  if (value < 256 && lacking <= (shift > 44 ? (uint64_t)1 << (shift - 44) : 1)) {
    value += (uint32_t)double_reaches(value, lacking, (uint32_t)low & 0x7fffffff, shift);
  }
  int32_t signed_value = acc < 0 ? -(int32_t)value : (int32_t)value;
  return tn_clamp(signed_value + r->output_zero_point, r->minimum, r->maximum);
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
