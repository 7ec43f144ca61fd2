#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FP)
#include "tn_depthwise_dsp_internal.h"

/* clang-format off */
__attribute__((naked)) static void core(__attribute__((unused)) const tn_depthwise_3x3_row *row) {
  __asm volatile(
      TN_DEPTHWISE_ENTER
      TN_DEPTHWISE_CHANNEL
      TN_DEPTHWISE_PLANE
      /* A column of padding is the first one of output 0. */
      "  vmov r12, s6\n"
      "  smlad r8, r12, r1, r7\n"
      "  smlabt r8, r12, r4, r8\n"
      /* Column 0 completes nothing. */
      "3:\n"
      TN_DEPTHWISE_OUTPUTS
      TN_DEPTHWISE_BLOCKS_END
      TN_DEPTHWISE_LOAD
      TN_DEPTHWISE_STEP
      TN_DEPTHWISE_ARRANGE
      "  sxtb16 r6, r10\n"
      "  smlad r8, r6, r2, r8\n"
      "  smlad r7, r6, r1, r7\n"
      "  smladx r7, r12, r4, r7\n"
      "  bls 6f\n"
      "  vmov r6, s14\n"
      "  cmp r6, #2\n"
      "  sxtb16 r6, r10\n"
      "  b 11f\n"
      /* A block. */
      "5:\n"
      "  vmov r6, s1\n"
      TN_DEPTHWISE_LOAD
      TN_DEPTHWISE_STEP
      TN_DEPTHWISE_ARRANGE
      TN_DEPTHWISE_EVEN_COMPLETE("r10", "r12")
      TN_DEPTHWISE_EVEN_BEGIN("r12")
      "6:\n"
      TN_DEPTHWISE_ODD_COMPLETE("r10", "r12")
      TN_DEPTHWISE_ODD_BEGIN("r10", "r12")
      TN_DEPTHWISE_EVEN_COMPLETE("r11", "lr")
      TN_DEPTHWISE_EVEN_BEGIN("lr")
      TN_DEPTHWISE_ODD_COMPLETE("r11", "lr")
      TN_DEPTHWISE_ODD_BEGIN("r11", "lr")
      "  bne 5b\n"
      /* One to three more columns, or none (overflow). */
      "  vmov r6, s14\n"
      "  cmp r6, #2\n"
      "  bvs 7f\n"
      "  vmov r6, s1\n"
      TN_DEPTHWISE_LOAD
      TN_DEPTHWISE_ARRANGE
      TN_DEPTHWISE_EVEN_COMPLETE("r10", "r12")
      "11:\n"
      "  blt 13f\n"
      TN_DEPTHWISE_EVEN_BEGIN("r12")
      TN_DEPTHWISE_ODD_COMPLETE("r10", "r12")
      "  bgt 12f\n"
      /* A column of padding after an even count of columns. */
      "7:\n"
      "  vmov r6, s15\n"
      "  cbz r6, 9f\n"
      "  vmov r6, s6\n"
      "  smlad r7, r6, r3, r7\n"
      "  smlabt r7, r6, r5, r7\n"
      TN_DEPTHWISE_REQUANTIZE("r7")
      "  strb r7, [r0]\n"
      "9:\n"
      TN_DEPTHWISE_NEXT_CHANNEL
      "12:\n"
      TN_DEPTHWISE_ODD_BEGIN("r10", "r12")
      TN_DEPTHWISE_EVEN_COMPLETE("r11", "lr")
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
      TN_DEPTHWISE_REQUANTIZE("r8")
      "  vmov r6, s5\n"
      "  strb r8, [r0, r6]\n"
      "  b 9b\n"
      TN_DEPTHWISE_SPECIAL_CHANNEL
      TN_DEPTHWISE_PLANE
      TN_DEPTHWISE_BYTES
      "  bmi 26f\n"
      /* After a column of padding and one of the input: output 0 lacks one column, output 1 two. */
      TN_DEPTHWISE_OUTPUTS
      TN_DEPTHWISE_BLOCKS_END
      "  vmov s1, r6\n"
      "  vmov r6, s6\n"
      "  smlad r10, r8, r1, r7\n"
      "  smlad r7, r6, r1, r7\n"
      "  smlabt r7, r6, r4, r7\n"
      "  smlad r7, r8, r2, r7\n"
      "  smlabb r7, r12, r4, r7\n"
      "  smlabt r8, r12, r4, r10\n"
      "  vmov r6, s5\n"
      "  add r0, r0, r6\n"
      "  b 5b\n"
      /* The first column of output 0 is one of the input. */
      "26:\n"
      "  smlad r8, r8, r1, r7\n"
      "  smlabt r8, r12, r4, r8\n"
      "  b 3b\n");
}
/* clang-format on */

void tn_depthwise_3x3_dsp_s8(const tn_depthwise_3x3_dsp_layer *layer, const int8_t *input, int8_t *output,
                             int8_t *scratch, uint32_t first, uint32_t rows) {
  tn_depthwise_3x3_rows_dsp_s8(layer, input, output, scratch, first, rows, core);
}

#endif
