#include "tn_internal.h"

#define SUM_INTEGER_BITS 12 /* of the sum of exponentials: 19 fraction bits remain */

static uint32_t leading_zeros(uint32_t value) {
  uint32_t count = 0;
  for (; !(value >> 31); value <<= 1) count++;
  return count;
}

/* 1 / (1 + fraction) for a fraction with 31 fraction bits, in the same format: Newton-Raphson on numbers with 29. */
static int32_t reciprocal_of_one_plus(int32_t fraction) {
  const int32_t one = 1 << 29, c48_over_17 = 1515870810, minus_32_over_17 = -1010580540;
  int32_t half_denominator = (int32_t)(((int64_t)fraction + INT32_MAX + 1) / 2);
  int32_t x = c48_over_17 + tn_high_multiply(half_denominator, minus_32_over_17);
  for (int i = 0; i < 3; i++) {
    int32_t error = one - tn_high_multiply(half_denominator, x);
    x += tn_high_multiply(x, error) * 4;
  }
  return x > INT32_MAX / 2 ? INT32_MAX : x * 2;
}

void tn_softmax_generic_s8(const tn_softmax_layer *layer, const int8_t *input, int8_t *output) {
  for (uint32_t row = 0; row < layer->rows; row++) {
    int32_t largest = INT8_MIN;
    for (uint32_t i = 0; i < layer->columns; i++) {
      if (input[i] > largest) largest = input[i];
    }
    int32_t sum = 0;
    for (uint32_t i = 0; i < layer->columns; i++) {
      int32_t difference = largest - input[i];
      if (difference < layer->exps_count) sum += tn_round_shift(layer->exps[difference], SUM_INTEGER_BITS);
    }
    uint32_t headroom = leading_zeros((uint32_t)sum);
    int32_t scale = reciprocal_of_one_plus((int32_t)(((uint32_t)sum << headroom) - ((uint32_t)1 << 31)));
    int32_t exponent = SUM_INTEGER_BITS - (int32_t)headroom + 31 - 8;
    for (uint32_t i = 0; i < layer->columns; i++) {
      int32_t difference = largest - input[i], value = 0;
      if (difference < layer->exps_count) {
        value = tn_round_shift(tn_high_multiply(scale, layer->exps[difference]), exponent);
      }
      output[i] = tn_clamp(value + INT8_MIN, INT8_MIN, INT8_MAX);
    }
    input += layer->columns;
    output += layer->columns;
  }
}
