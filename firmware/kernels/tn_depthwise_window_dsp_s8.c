#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FP)
#include "tn_depthwise_dsp_internal.h"

/* Four outputs at a time. r0 position in the first one's window, r1 weights, r2 step, r3 whatever is needed next, r4
 * ... r7 sums, r8 ... r11 pixels, r12 and lr even and odd weights. s0 ... s13 hold the fields of
 * tn_depthwise_window_row. */
/* clang-format off */
#define PRODUCTS(pixels, sum) \
  "  sxtb16 r3, " pixels "\n" \
  "  sxtb16 " pixels ", " pixels ", ror #8\n" \
  "  smlad " sum ", r3, r12, " sum "\n" \
  "  smlad " sum ", " pixels ", lr, " sum "\n"

/* r0 output, r1 its step, r2 multiplier, r8 correction, r9 rounding, r10 shift, r11 outputs that are left. */
#define STORE(sum) \
  "  and r3, r8, " sum ", asr #31\n" \
  "  sub r3, r9, r3\n" \
  "  lsl " sum ", " sum ", #8\n" \
  "  smmla " sum ", " sum ", r2, r3\n" \
  "  asr " sum ", " sum ", r10\n" \
  "  ssat " sum ", #8, " sum "\n" \
  "  strb " sum ", [r0]\n" \
  "  add r0, r0, r1\n" \
  "  subs r11, r11, #1\n"

__attribute__((naked)) void tn_depthwise_window_dsp_s8(__attribute__((unused)) const tn_depthwise_window_row *row) {
  __asm volatile(
      "  push {r4-r11, lr}\n"
      "  vldm r0, {s0-s13}\n"
      "1:\n"
      "  vmov r0, s0\n"
      "  vmov r1, s1\n"
      "  vmov r2, s3\n"
      "  vmov r4, s6\n"
      "  mov r5, r4\n"
      "  mov r6, r4\n"
      "  mov r7, r4\n"
      "  add r3, r0, r2, lsl #2\n"
      "  vmov s0, r3\n"
      "  vmov r3, s2\n"
      "  cmp r1, r3\n"
      "  beq 3f\n"
      "2:\n"
      "  vmov r3, s4\n"
      "  ldr r12, [r1], #4\n"
      "  ldr r9, [r0, r2]\n"
      "  ldr r10, [r0, r2, lsl #1]\n"
      "  ldr r11, [r0, r3]\n"
      "  ldr r8, [r0], #4\n"
      "  vmov r3, s2\n"
      "  cmp r1, r3\n"
      "  sxtb16 lr, r12, ror #8\n"
      "  sxtb16 r12, r12\n"
      PRODUCTS("r8", "r4")
      PRODUCTS("r9", "r5")
      PRODUCTS("r10", "r6")
      PRODUCTS("r11", "r7")
      "  bne 2b\n"
      "3:\n"
      "  vmov r3, s5\n"
      "  cbz r3, 4f\n"
      "  vmov r3, s4\n"
      "  ldrsb r12, [r1]\n"
      "  ldrsb r8, [r0]\n"
      "  ldrsb r9, [r0, r2]\n"
      "  ldrsb r10, [r0, r2, lsl #1]\n"
      "  ldrsb r11, [r0, r3]\n"
      "  mla r4, r8, r12, r4\n"
      "  mla r5, r9, r12, r5\n"
      "  mla r6, r10, r12, r6\n"
      "  mla r7, r11, r12, r7\n"
      "4:\n"
      "  vmov r0, s11\n"
      "  vmov r1, s12\n"
      "  vmov r2, s7\n"
      "  vmov r8, s10\n"
      "  vmov r9, s8\n"
      "  vmov r10, s9\n"
      "  vmov r11, s13\n"
      STORE("r4")
      "  beq 5f\n"
      STORE("r5")
      "  beq 5f\n"
      STORE("r6")
      "  beq 5f\n"
      STORE("r7")
      "  vmov s11, r0\n"
      "  vmov s13, r11\n"
      "  bne 1b\n"
      "5:\n"
      "  pop {r4-r11, pc}\n");
}
/* clang-format on */

#endif
