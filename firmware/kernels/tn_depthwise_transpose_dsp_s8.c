#if defined(__ARM_FEATURE_DSP)
#include "tn_depthwise_dsp_internal.h"

/* clang-format off */
/* r0 pixels, r1 pitch, r2 output, r3 channel bytes, r4 three times the pitch, r5 three times the channel bytes, r12 quads
 * that are left. */
__attribute__((naked)) void tn_depthwise_transpose_dsp_s8(
    __attribute__((unused)) const int8_t *from, __attribute__((unused)) uint32_t pitch,
    __attribute__((unused)) int8_t *to, __attribute__((unused)) uint32_t channel_bytes,
    __attribute__((unused)) uint32_t quads) {
  __asm volatile(
      "  ldr r12, [sp]\n"
      "  push {r4-r11, lr}\n"
      "  add r4, r1, r1, lsl #1\n"
      "  add r5, r3, r3, lsl #1\n"
      "1:\n"
      "  ldr r6, [r0]\n"
      "  ldr r7, [r0, r1]\n"
      "  ldr r8, [r0, r1, lsl #1]\n"
      "  ldr r9, [r0, r4]\n"
      "  add r0, r0, r1, lsl #2\n"
      /* Channels 0 and 2 of pixels 0 and 1, of 2 and 3; then channels 1 and 3. */
      "  uxtb16 r10, r6\n"
      "  uxtb16 r11, r7\n"
      "  orr r10, r10, r11, lsl #8\n"
      "  uxtb16 r11, r8\n"
      "  uxtb16 lr, r9\n"
      "  orr r11, r11, lr, lsl #8\n"
      "  uxtb16 r6, r6, ror #8\n"
      "  uxtb16 r7, r7, ror #8\n"
      "  orr r6, r6, r7, lsl #8\n"
      "  uxtb16 r8, r8, ror #8\n"
      "  uxtb16 r9, r9, ror #8\n"
      "  orr r8, r8, r9, lsl #8\n"
      "  pkhbt r7, r6, r8, lsl #16\n"
      "  pkhtb r8, r8, r6, asr #16\n"
      "  str r7, [r2, r3]\n"
      "  str r8, [r2, r5]\n"
      "  pkhbt r7, r10, r11, lsl #16\n"
      "  pkhtb r11, r11, r10, asr #16\n"
      "  str r11, [r2, r3, lsl #1]\n"
      "  str r7, [r2], #4\n"
      "  subs r12, r12, #1\n"
      "  bne 1b\n"
      "  pop {r4-r11, pc}\n");
}
/* clang-format on */

#endif
