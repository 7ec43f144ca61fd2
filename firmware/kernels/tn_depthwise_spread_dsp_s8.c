#if defined(__ARM_FEATURE_DSP)
#include "tn_depthwise_dsp_internal.h"

void tn_depthwise_spread_dsp_s8(const int8_t *from, uint32_t from_step, int8_t *to, uint32_t to_step, uint32_t count) {
  for (; count >= 4; count -= 4) {
    int8_t a = from[0], b = from[from_step];
    from += 2 * from_step;
    int8_t c = from[0], d = from[from_step];
    from += 2 * from_step;
    to[0] = a;
    to[to_step] = b;
    to += 2 * to_step;
    to[0] = c;
    to[to_step] = d;
    to += 2 * to_step;
  }
  for (; count; count--) {
    *to = *from;
    from += from_step;
    to += to_step;
  }
}

#endif
