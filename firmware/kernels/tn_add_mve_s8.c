#include "tn_mve.h"

#if defined(__ARM_FEATURE_MVE)

#include "tn_mve_internal.h"

void tn_add_mve_s8(const tn_add_mve_layer *layer, const int8_t *input_a, const int8_t *input_b, int8_t *output) {
  int32x4_t factor_a = vdupq_n_s32(layer->factors[0]);
  int32x4_t minimum = vdupq_n_s32(layer->minimum), maximum = vdupq_n_s32(layer->maximum);
  __asm volatile(
      "dlstp.32 lr, %[elements]\n"
      "1:\n"
      "vldrb.s32 q0, [%[a]], #4\n"
      "vldrb.s32 q1, [%[b]], #4\n"
      "vmlas.s32 q0, %q[factor_a], %[offset]\n"
      "vmla.s32 q0, q1, %[factor_b]\n"
      "vshl.s32 q0, %[shift]\n"
      "vmax.s32 q0, q0, %q[minimum]\n"
      "vmin.s32 q0, q0, %q[maximum]\n"
      "vstrb.32 q0, [%[output]], #4\n"
      "letp lr, 1b\n"
      : [a] "+l"(input_a), [b] "+l"(input_b), [output] "+l"(output)
      : [elements] "r"(layer->elements), [offset] "r"(layer->offset), [factor_a] "w"(factor_a),
        [factor_b] "r"(layer->factors[1]), [shift] "r"(layer->shift), [minimum] "w"(minimum), [maximum] "w"(maximum)
      : "q0", "q1", "lr", "memory");
}

#endif
