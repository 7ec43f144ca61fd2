/* What the kernels for the vector extension share. Not for callers. */
#ifndef TN_MVE_INTERNAL_H
#define TN_MVE_INTERNAL_H

#include <arm_mve.h>

#include "tn_internal.h"
#include "tn_mve.h"

/* Vector loops of their own: compilers make calls of memcpy and memset, or no loops with a predicated tail. */
static inline void tn_copy_mve(int8_t *to, const int8_t *from, uint32_t bytes) {
  __asm volatile(
      "wlstp.8 lr, %[bytes], 2f\n"
      "1:\n"
      "vldrb.8 q0, [%[from]], #16\n"
      "vstrb.8 q0, [%[to]], #16\n"
      "letp lr, 1b\n"
      "2:\n"
      : [to] "+r"(to), [from] "+r"(from)
      : [bytes] "r"(bytes)
      : "q0", "lr", "memory");
}

static inline void tn_fill_mve(int8_t *to, int8x16_t value, uint32_t bytes) {
  __asm volatile(
      "wlstp.8 lr, %[bytes], 2f\n"
      "1:\n"
      "vstrb.8 %q[value], [%[to]], #16\n"
      "letp lr, 1b\n"
      "2:\n"
      : [to] "+r"(to)
      : [bytes] "r"(bytes), [value] "w"(value)
      : "lr", "memory");
}

/* All channels of neighbouring pixels, whose windows of depth bytes lie step bytes apart. */
void tn_conv_pixels_mve_s8(const tn_conv_mve_layer *layer, const int8_t *window, uint32_t step, uint32_t depth,
                           uint32_t pixels, int8_t *output);

#endif
