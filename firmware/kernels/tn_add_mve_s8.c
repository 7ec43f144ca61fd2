#include "tn_mve.h"

#if defined(__ARM_FEATURE_MVE)

#include <stddef.h>

_Static_assert(offsetof(tn_add_mve_layer, away) == 4 && offsetof(tn_add_mve_layer, minimum) == 8 &&
                   offsetof(tn_add_mve_layer, scales) == 16 && offsetof(tn_add_mve_layer, inputs) == 24 &&
                   offsetof(tn_add_mve_layer, output_multiplier) == 48,
               "the assembly has these offsets");

#define AWAY(value)     \
  "vshr.s32 q2, " value \
  ", #31\n"             \
  "vadd.i32 " value ", " value ", q2\n"

/* Four elements at a time: q0 and q1 are the inputs, scaled and then added as LiteRT does it. */
#define ADD(away_a, away_b)                 \
  "vldrb.s32 q0, [r0], #4\n"                \
  "vldrb.s32 q1, [r1], #4\n"                \
  "vmlas.s32 q0, q4, r3\n"                  \
  "vmlas.s32 q1, q5, r6\n"                  \
  "vqrdmulh.s32 q0, q0, r4\n"               \
  "vqrdmulh.s32 q1, q1, r7\n" away_a away_b \
  "vrshl.s32 q0, r5\n"                      \
  "vrshl.s32 q1, r8\n"                      \
  "vadd.i32 q0, q0, q1\n"                   \
  "vqrdmulh.s32 q0, q0, r9\n" away_a        \
  "vrshl.s32 q0, r10\n"                     \
  "vadd.i32 q0, q0, r11\n"                  \
  "vmax.s32 q0, q0, q6\n"                   \
  "vmin.s32 q0, q0, q7\n"                   \
  "vstrb.32 q0, [r2], #4\n"

__attribute__((naked)) void tn_add_mve_s8(const tn_add_mve_layer *layer __attribute__((unused)),
                                          const int8_t *input_a __attribute__((unused)),
                                          const int8_t *input_b __attribute__((unused)),
                                          int8_t *output __attribute__((unused))) {
  __asm volatile(
      "push {r4-r11, lr}\n"
      "vpush {d8-d15}\n"
      "ldm r0!, {r4-r9}\n" /* up to scales */
      "vdup.32 q6, r6\n"
      "vdup.32 q7, r7\n"
      "vdup.32 q4, r8\n"
      "vdup.32 q5, r9\n"
      "mov lr, r4\n"
      "mov r12, r5\n"
      "push {r1-r3}\n"
      "ldm r0, {r3-r11}\n"
      "pop {r0-r2}\n"
      "cmp r12, #0\n"
      "bne 2f\n"
      "dlstp.32 lr, lr\n"
      "1:\n" ADD("", "")
      "letp lr, 1b\n"
      "b 4f\n"
      "2:\n"
      "dlstp.32 lr, lr\n"
      "3:\n" ADD(AWAY("q0"), AWAY("q1"))
      "letp lr, 3b\n"
      "4:\n"
      "vpop {d8-d15}\n"
      "pop {r4-r11, pc}\n");
}

#endif
