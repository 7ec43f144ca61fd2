#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FP)
#include "tn_depthwise_dsp_internal.h"

/* As in tn_depthwise_3x3_dsp_s8, but there is one block and a tail, so that nothing need be counted. */
/* clang-format off */
__attribute__((naked)) static void core(__attribute__((unused)) const tn_depthwise_3x3_row *row) {
  __asm volatile(
      TN_DEPTHWISE_ENTER
      TN_DEPTHWISE_CHANNEL
      TN_DEPTHWISE_PLANE
      TN_DEPTHWISE_OUTPUTS
      "  vmov r12, s6\n"
      "  smlad r8, r12, r1, r7\n"
      "  smlabt r8, r12, r4, r8\n"
      TN_DEPTHWISE_LOAD
      "  vmov s1, r6\n"
      TN_DEPTHWISE_ARRANGE
      "  sxtb16 r6, r10\n"
      "  smlad r8, r6, r2, r8\n"
      "  smlad r7, r6, r1, r7\n"
      "  smladx r7, r12, r4, r7\n"
      TN_DEPTHWISE_ODD_COMPLETE("r10", "r12")
      TN_DEPTHWISE_ODD_BEGIN("r10", "r12")
      TN_DEPTHWISE_EVEN_COMPLETE("r11", "lr")
      TN_DEPTHWISE_EVEN_BEGIN("lr")
      TN_DEPTHWISE_ODD_COMPLETE("r11", "lr")
      TN_DEPTHWISE_ODD_BEGIN("r11", "lr")
      "  vmov r6, s14\n"
      "  cmp r6, #2\n"
      "  vmov r6, s1\n"
      "  vmov r10, s3\n"
      "  vmov r11, s4\n"
      "  bge 3f\n"
      /* One more column. */
      "  ldrsb r10, [r6, r10]\n"
      "  ldrsb r12, [r6, r11]\n"
      "  ldrsb lr, [r6]\n"
      "  pkhbt r6, lr, r10, lsl #16\n"
      "  smlad r7, r6, r3, r7\n"
      "  smlabt r7, r12, r5, r7\n"
      TN_DEPTHWISE_REQUANTIZE("r7")
      "  strb r7, [r0]\n"
      "  smlad r8, r6, r2, r8\n"
      "4:\n"
      "  vmov r6, s6\n"
      "  pkhbt r12, r12, r6\n"
      "  smlad r8, r6, r3, r8\n"
      "  smlad r8, r12, r5, r8\n"
      TN_DEPTHWISE_REQUANTIZE("r8")
      "  vmov r6, s5\n"
      "  strb r8, [r0, r6]\n"
      TN_DEPTHWISE_NEXT_CHANNEL
      "3:\n"
      "  bgt 5f\n"
      /* Two more columns are the upper half of a word that ends with them. */
      "  sub r6, r6, #2\n"
      "  ldr r10, [r6, r10]\n"
      "  ldr r12, [r6, r11]\n"
      "  ldr lr, [r6]\n"
      "  pkhtb r11, r10, lr, asr #16\n"
      "  sxtb16 r6, r12\n"
      "  sxtb16 lr, r12, ror #8\n"
      "  pkhtb lr, lr, r6, asr #16\n"
      TN_DEPTHWISE_EVEN_COMPLETE("r11", "lr")
      TN_DEPTHWISE_EVEN_BEGIN("lr")
      TN_DEPTHWISE_ODD_COMPLETE("r11", "lr")
      "  vmov r6, s6\n"
      "  smlad r7, r6, r3, r7\n"
      "  smlabt r7, r6, r5, r7\n"
      TN_DEPTHWISE_REQUANTIZE("r7")
      "  strb r7, [r0]\n"
      TN_DEPTHWISE_NEXT_CHANNEL
      /* Three more columns. */
      "5:\n"
      "  ldr r10, [r6, r10]\n"
      "  ldr r12, [r6, r11]\n"
      "  ldr lr, [r6]\n"
      TN_DEPTHWISE_ARRANGE
      TN_DEPTHWISE_EVEN_COMPLETE("r10", "r12")
      TN_DEPTHWISE_EVEN_BEGIN("r12")
      TN_DEPTHWISE_ODD_COMPLETE("r10", "r12")
      TN_DEPTHWISE_ODD_BEGIN("r10", "r12")
      TN_DEPTHWISE_EVEN_COMPLETE("r11", "lr")
      "  mov r12, lr\n"
      "  b 4b\n"
      TN_DEPTHWISE_SPECIAL_CHANNEL
      "  b 2b\n");
}
/* clang-format on */

void tn_depthwise_3x3_narrow_dsp_s8(const tn_depthwise_3x3_dsp_layer *layer, const int8_t *input, int8_t *output,
                                    int8_t *scratch, uint32_t first, uint32_t rows) {
  tn_depthwise_3x3_rows_dsp_s8(layer, input, output, scratch, first, rows, core);
}

#endif
