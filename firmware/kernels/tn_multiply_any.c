#include "tn_internal.h"

int32_t tn_multiply_any(int32_t acc, int32_t multiplier, int32_t shift) {
  if (shift > 0) return tn_high_multiply((int32_t)((uint32_t)acc << shift), multiplier);
  return tn_round_shift(tn_high_multiply(acc, multiplier), -shift);
}
