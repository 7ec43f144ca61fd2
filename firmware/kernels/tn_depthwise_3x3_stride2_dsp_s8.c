#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FP)
#include "tn_depthwise_dsp_internal.h"

/* Even columns of a block of four complete one output and begin the next, odd ones continue it. Row 2 is added when an
 * output begins, two columns at a time, and when it is complete. */
/* clang-format off */
#define COMPLETE(packed, row_2) \
  "  sxtb16 r6, " packed "\n" \
  "  smlad r7, r6, r3, r7\n" \
  "  smlabt r7, " row_2 ", r5, r7\n" \
  TN_DEPTHWISE_REQUANTIZE("r7")

#define BEGIN(row_2) \
  "  vmov r7, s0\n" \
  "  smlad r7, r6, r1, r7\n" \
  "  smladx r7, " row_2 ", r4, r7\n"

#define CONTINUE(packed) \
  "  sxtb16 r6, " packed ", ror #8\n" \
  "  smlad r7, r6, r2, r7\n"

__attribute__((naked)) static void core(__attribute__((unused)) const tn_depthwise_3x3_row *row) {
  __asm volatile(
      TN_DEPTHWISE_ENTER
      TN_DEPTHWISE_CHANNEL
      /* Column 0 completes nothing. */
      TN_DEPTHWISE_PLANE
      TN_DEPTHWISE_OUTPUTS
      TN_DEPTHWISE_BLOCKS_END
      TN_DEPTHWISE_LOAD
      TN_DEPTHWISE_STEP
      TN_DEPTHWISE_ARRANGE
      "  sxtb16 r6, r10\n"
      "  smlad r7, r6, r1, r7\n"
      "  smladx r7, r12, r4, r7\n"
      "  bls 6f\n"
      "  vmov r6, s14\n"
      "  cmp r6, #2\n"
      "  b 11f\n"
      /* A block. */
      "5:\n"
      "  vmov r6, s1\n"
      TN_DEPTHWISE_LOAD
      TN_DEPTHWISE_STEP
      TN_DEPTHWISE_ARRANGE
      COMPLETE("r10", "r12")
      "  strb r7, [r0]\n"
      BEGIN("r12")
      "6:\n"
      CONTINUE("r10")
      COMPLETE("r11", "lr")
      "  vmov r8, s5\n"
      "  strb r7, [r0, r8]\n"
      "  add r0, r0, r8, lsl #1\n"
      BEGIN("lr")
      CONTINUE("r11")
      "  bne 5b\n"
      /* One to three more columns, or none (overflow). */
      "4:\n"
      "  vmov r6, s14\n"
      "  cmp r6, #2\n"
      "  bvs 7f\n"
      "  vmov r6, s1\n"
      TN_DEPTHWISE_LOAD
      TN_DEPTHWISE_ARRANGE
      COMPLETE("r10", "r12")
      "  strb r7, [r0]\n"
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
      TN_DEPTHWISE_REQUANTIZE("r7")
      "8:\n"
      "  strb r7, [r0]\n"
      "9:\n"
      TN_DEPTHWISE_NEXT_CHANNEL
      "12:\n"
      COMPLETE("r11", "lr")
      "  b 8b\n"
      TN_DEPTHWISE_SPECIAL_CHANNEL
      /* A column of padding, and column 0: the blocks begin with column 1. */
      TN_DEPTHWISE_PLANE
      TN_DEPTHWISE_BYTES
      TN_DEPTHWISE_OUTPUTS
      TN_DEPTHWISE_BLOCKS_END
      "  vmov s1, r6\n"
      "  cmp r6, r10\n"
      "  smlad r7, r8, r2, r7\n"
      "  smlabb r7, r12, r4, r7\n"
      "  vmov r6, s6\n"
      "  smlad r7, r6, r1, r7\n"
      "  smlabt r7, r6, r4, r7\n"
      "  vmov r6, s5\n"
      "  add r0, r0, r6\n"
      "  bne 5b\n"
      "  b 4b\n");
}
/* clang-format on */

void tn_depthwise_3x3_stride2_dsp_s8(const tn_depthwise_3x3_dsp_layer *layer, const int8_t *input, int8_t *output,
                                     int8_t *scratch, uint32_t first, uint32_t rows) {
  tn_depthwise_3x3_rows_dsp_s8(layer, input, output, scratch, first, rows, core);
}

#endif
