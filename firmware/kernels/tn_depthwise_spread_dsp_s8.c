#if defined(__ARM_FEATURE_DSP)
#include "tn_depthwise_dsp_internal.h"

/* clang-format off */
/* r0 and r2 where the row begins, r10 and r11 the position in it, r8 and r9 three steps, r12 bytes and lr rows that are
 * left. */
__attribute__((naked)) void tn_depthwise_spread_dsp_s8(
    __attribute__((unused)) const int8_t *from, __attribute__((unused)) uint32_t from_step,
    __attribute__((unused)) int8_t *to, __attribute__((unused)) uint32_t to_step,
    __attribute__((unused)) uint32_t count, __attribute__((unused)) uint32_t rows,
    __attribute__((unused)) uint32_t row_bytes) {
  __asm volatile(
      "  push {r4-r11, lr}\n"
      "  ldr lr, [sp, #40]\n"
      "  add r8, r1, r1, lsl #1\n"
      "  add r9, r3, r3, lsl #1\n"
      "1:\n"
      "  ldr r12, [sp, #36]\n"
      "  mov r10, r0\n"
      "  mov r11, r2\n"
      "  subs r12, r12, #4\n"
      "  blt 3f\n"
      "2:\n"
      "  ldrsb r4, [r10]\n"
      "  ldrsb r5, [r10, r1]\n"
      "  ldrsb r6, [r10, r1, lsl #1]\n"
      "  ldrsb r7, [r10, r8]\n"
      "  add r10, r10, r1, lsl #2\n"
      "  strb r4, [r11]\n"
      "  strb r5, [r11, r3]\n"
      "  strb r6, [r11, r3, lsl #1]\n"
      "  strb r7, [r11, r9]\n"
      "  add r11, r11, r3, lsl #2\n"
      "  subs r12, r12, #4\n"
      "  bge 2b\n"
      "3:\n"
      "  adds r12, r12, #4\n"
      "  beq 5f\n"
      "4:\n"
      "  ldrsb r4, [r10]\n"
      "  add r10, r10, r1\n"
      "  strb r4, [r11]\n"
      "  add r11, r11, r3\n"
      "  subs r12, r12, #1\n"
      "  bne 4b\n"
      "5:\n"
      "  ldr r4, [sp, #44]\n"
      "  add r0, r0, r4\n"
      "  add r2, r2, #1\n"
      "  subs lr, lr, #1\n"
      "  bne 1b\n"
      "  pop {r4-r11, pc}\n");
}
/* clang-format on */

#endif
