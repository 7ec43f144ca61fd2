#if defined(__ARM_FEATURE_DSP)
#include "tn_depthwise_dsp_internal.h"

/* Column k of a block of four completes output k - 2, continues output k - 1 and begins output k. Outputs that are
 * completed in even columns build up in r7, the others in r8. Row 2 is added when an output begins and when it is
 * complete, two columns at a time where they make a pair. */
#define EVEN_COMPLETE(packed, row_2) \
  "  sxtb16 r6, " packed "\n"           \
  "  smlad r7, r6, r3, r7\n"            \
  "  smlabt r7, " row_2 ", r5, r7\n"    \
  TN_DEPTHWISE_OUTPUT("r7")             \
  "  strb r7, [r0]\n"                   \
  "  smlad r8, r6, r2, r8\n"

#define EVEN_BEGIN(row_2)    \
  "  vmov r7, s0\n"          \
  "  smlad r7, r6, r1, r7\n" \
  "  smladx r7, " row_2 ", r4, r7\n"

#define ODD_COMPLETE(packed, row_2) \
  "  sxtb16 " packed ", " packed ", ror #8\n" \
  "  smlad r8, " packed ", r3, r8\n"    \
  "  smlad r8, " row_2 ", r5, r8\n"     \
  TN_DEPTHWISE_OUTPUT("r8")             \
  "  vmov r6, s5\n"                     \
  "  strb r8, [r0, r6]\n"               \
  "  add r0, r0, r6, lsl #1\n"          \
  "  smlad r7, " packed ", r2, r7\n"

#define ODD_BEGIN(packed, row_2) \
  "  vmov r8, s0\n"              \
  "  smlad r8, " packed          \
  ", r1, r8\n"                   \
  "  smlatt r8, " row_2 ", r4, r8\n"

__attribute__((naked)) void tn_depthwise_3x3_stride1_dsp_s8(__attribute__((unused)) const tn_depthwise_3x3_row *row) {
  __asm volatile(
      "  push {r4-r11, lr}\n"
      "  vpush {s16}\n"
      "  add r0, r0, #4\n"
      "  vldm r0, {s1-s16}\n"
      TN_DEPTHWISE_CHANNEL
      /* Column -1: padding, or the first column. */
      "  vmov r8, s16\n"
      "  vmov r10, s2\n"
      "  vmov r11, s3\n"
      "  cmp r8, #0\n"
      "  beq 3f\n"
      "  vmov r8, s6\n"
      "  mov r12, r8\n"
      "  b 4f\n"
      "3:\n"
      TN_DEPTHWISE_FIRST_COLUMN
      "4:\n"
      "  smlad r8, r8, r1, r7\n"
      "  smlabt r8, r12, r4, r8\n"
      /* Column 0 completes nothing. */
      TN_DEPTHWISE_BLOCKS_END
      TN_DEPTHWISE_LOAD
      TN_DEPTHWISE_STEP
      TN_DEPTHWISE_ARRANGE
      "  sxtb16 r6, r10\n"
      "  smlad r8, r6, r2, r8\n"
      EVEN_BEGIN("r12")
      "  vmov r6, s13\n"
      "  cbnz r6, 6f\n"
      "  vmov r6, s14\n"
      "  cmp r6, #2\n"
      "  sxtb16 r6, r10\n"
      "  b 11f\n"
      /* A block. */
      "5:\n"
      TN_DEPTHWISE_POSITION
      TN_DEPTHWISE_LOAD
      TN_DEPTHWISE_STEP
      TN_DEPTHWISE_ARRANGE
      EVEN_COMPLETE("r10", "r12")
      EVEN_BEGIN("r12")
      "6:\n"
      ODD_COMPLETE("r10", "r12")
      ODD_BEGIN("r10", "r12")
      EVEN_COMPLETE("r11", "lr")
      EVEN_BEGIN("lr")
      ODD_COMPLETE("r11", "lr")
      ODD_BEGIN("r11", "lr")
      "  bne 5b\n"
      /* One to three more columns. */
      "  vmov r6, s14\n"
      "  cmp r6, #0\n"
      "  beq 7f\n"
      TN_DEPTHWISE_POSITION
      TN_DEPTHWISE_LOAD
      "  vmov r11, s14\n"
      "  cmp r11, #2\n"
      TN_DEPTHWISE_ARRANGE
      EVEN_COMPLETE("r10", "r12")
      "11:\n"
      "  blt 13f\n"
      EVEN_BEGIN("r12")
      ODD_COMPLETE("r10", "r12")
      "  bgt 12f\n"
      /* A column of padding after an even count of columns. */
      "7:\n"
      "  vmov r6, s15\n"
      "  cbz r6, 9f\n"
      "  vmov r6, s6\n"
      "  smlad r7, r6, r3, r7\n"
      "  smlabt r7, r6, r5, r7\n"
      TN_DEPTHWISE_OUTPUT("r7")
      "  strb r7, [r0]\n"
      "9:\n"
      TN_DEPTHWISE_NEXT_CHANNEL
      "10:\n"
      "  vpop {s16}\n"
      "  pop {r4-r11, pc}\n"
      "12:\n"
      ODD_BEGIN("r10", "r12")
      EVEN_COMPLETE("r11", "lr")
      "  mov r12, lr\n"
      /* A column of padding after an odd count of columns. */
      "13:\n"
      "  vmov r6, s15\n"
      "  cmp r6, #0\n"
      "  beq 9b\n"
      "  vmov r6, s6\n"
      "  pkhbt r12, r12, r6\n"
      "  smlad r8, r6, r3, r8\n"
      "  smlad r8, r12, r5, r8\n"
      TN_DEPTHWISE_OUTPUT("r8")
      "  vmov r6, s5\n"
      "  strb r8, [r0, r6]\n"
      "  b 9b\n");
}

#endif
