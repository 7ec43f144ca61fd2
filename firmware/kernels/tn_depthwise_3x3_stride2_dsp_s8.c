#if defined(__ARM_FEATURE_DSP)
#include "tn_depthwise_dsp_internal.h"

/* Even columns of a block of four complete one output and begin the next, odd ones continue it. Row 2 is added when an
 * output begins, two columns at a time, and when it is complete. */
#define COMPLETE(packed, row_2) \
  "  sxtb16 r6, " packed        \
  "\n"                          \
  "  smlad r7, r6, r3, r7\n"    \
  "  smlabt r7, " row_2 ", r5, r7\n" TN_DEPTHWISE_OUTPUT("r7")

#define STORE_FIRST "  strb r7, [r0]\n"

#define STORE_SECOND      \
  "  vmov r8, s5\n"       \
  "  strb r7, [r0, r8]\n" \
  "  add r0, r0, r8, lsl #1\n"

#define BEGIN(row_2)         \
  "  vmov r7, s0\n"          \
  "  smlad r7, r6, r1, r7\n" \
  "  smladx r7, " row_2 ", r4, r7\n"

#define CONTINUE(packed) \
  "  sxtb16 r6, " packed \
  ", ror #8\n"           \
  "  smlad r7, r6, r2, r7\n"

__attribute__((naked)) void tn_depthwise_3x3_stride2_dsp_s8(__attribute__((unused)) const tn_depthwise_3x3_row *row) {
  __asm volatile(
      "  push {r4-r11, lr}\n"
      "  vpush {s16}\n"
      "  add r0, r0, #4\n"
      "  vldm r0, {s1-s16}\n"
      TN_DEPTHWISE_CHANNEL
      "  vmov r8, s16\n"
      "  vmov r10, s2\n"
      "  vmov r11, s3\n"
      "  cmp r8, #0\n"
      "  bne 3f\n"
      /* No padding: column 0 completes nothing. */
      TN_DEPTHWISE_BLOCKS_END
      TN_DEPTHWISE_LOAD
      TN_DEPTHWISE_STEP
      TN_DEPTHWISE_ARRANGE
      "  sxtb16 r6, r10\n"
      BEGIN("r12")
      "  vmov r6, s13\n"
      "  cbz r6, 8f\n"
      "  b 6f\n"
      "8:\n"
      "  vmov r6, s14\n"
      "  cmp r6, #2\n"
      "  b 11f\n"
      /* A column of padding, and column 0: the blocks begin with column 1. */
      "3:\n"
      TN_DEPTHWISE_FIRST_COLUMN
      "  smlad r7, r8, r2, r7\n"
      "  smlabb r7, r12, r4, r7\n"
      "  vmov r8, s6\n"
      "  smlad r7, r8, r1, r7\n"
      "  smlabt r7, r8, r4, r7\n"
      "  vmov s1, r6\n"
      TN_DEPTHWISE_BLOCKS_END
      "  vmov r8, s5\n"
      "  add r0, r0, r8\n"
      "  cmp r6, lr\n"
      "  beq 4f\n"
      /* A block. */
      "5:\n"
      TN_DEPTHWISE_POSITION
      TN_DEPTHWISE_LOAD
      TN_DEPTHWISE_STEP
      TN_DEPTHWISE_ARRANGE
      COMPLETE("r10", "r12")
      STORE_FIRST
      BEGIN("r12")
      "6:\n"
      CONTINUE("r10")
      COMPLETE("r11", "lr")
      STORE_SECOND
      BEGIN("lr")
      CONTINUE("r11")
      "  bne 5b\n"
      /* One to three more columns. */
      "4:\n"
      "  vmov r6, s14\n"
      "  cbz r6, 7f\n"
      TN_DEPTHWISE_POSITION
      TN_DEPTHWISE_LOAD
      "  vmov r11, s14\n"
      "  cmp r11, #2\n"
      TN_DEPTHWISE_ARRANGE
      COMPLETE("r10", "r12")
      STORE_FIRST
      "  blt 9f\n"
      BEGIN("r12")
      "11:\n"
      CONTINUE("r10")
      "  vmov r8, s5\n"
      "  add r0, r0, r8\n"
      "  bgt 12f\n"
      /* A column of padding follows an even count of columns. */
      "7:\n"
      "  vmov r6, s6\n"
      "  smlad r7, r6, r3, r7\n"
      "  smlabt r7, r6, r5, r7\n"
      TN_DEPTHWISE_OUTPUT("r7")
      STORE_FIRST
      "9:\n"
      TN_DEPTHWISE_NEXT_CHANNEL
      "  vpop {s16}\n"
      "  pop {r4-r11, pc}\n"
      "12:\n"
      COMPLETE("r11", "lr")
      STORE_FIRST
      "  b 9b\n");
}

#endif
