#include "tn_conv_dsp.h"

#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FP)

/* Three pixels by two channels. r0 windows, r1 stream, r2-r4 sums of the first channel, r5-r7 of the second, r8-r10
 * inputs, r11-r12 weights; s0-s5 the block, s2 then the address at which the unrolled loop is entered. */

#define LOADS           \
  "ldr r11, [r1], #4\n" \
  "ldr r12, [r1], #4\n" \
  "ldr r8, [r0], #4\n"  \
  "ldr r9, [r0], #4\n"  \
  "ldr r10, [r0], #4\n"

/* from_first and from_second: what the even products of all pixels are added to, which are sums or biases. */
#define PRODUCTS(first0, first1, first2, second0, second1, second2) \
  "uxtb16 lr, r10\n"                                                \
  "smlsd r4, lr, r11, " first2                                      \
  "\n"                                                              \
  "smlsd r7, lr, r12, " second2                                     \
  "\n"                                                              \
  "uxtb16 lr, r9\n"                                                 \
  "smlsd r3, lr, r11, " first1                                      \
  "\n"                                                              \
  "smlsd r6, lr, r12, " second1                                     \
  "\n"                                                              \
  "uxtb16 lr, r8\n"                                                 \
  "smlsd r2, lr, r11, " first0                                      \
  "\n"                                                              \
  "smlsd r5, lr, r12, " second0                                     \
  "\n"                                                              \
  "sxtb16 r11, r11, ror #16\n"                                      \
  "sxtb16 r12, r12, ror #16\n"                                      \
  "smlsdx r2, r11, r8, r2\n"                                        \
  "smlsdx r3, r11, r9, r3\n"                                        \
  "smlsdx r4, r11, r10, r4\n"                                       \
  "smlsdx r5, r12, r8, r5\n"                                        \
  "smlsdx r6, r12, r9, r6\n"                                        \
  "smlsdx r7, r12, r10, r7\n"

#define PARAMETERS      \
  "ldr r8, [r1], #4\n"  \
  "ldr r9, [r1], #4\n"  \
  "ldr r10, [r1], #4\n" \
  "ldr r11, [r1], #4\n" \
  "ldr r12, [r1], #4\n"

__attribute__((naked)) void tn_matmul_three_dsp_s8(const tn_conv_dsp_block *block __attribute__((unused)),
                                                   const uint32_t *stream __attribute__((unused))) {
  __asm volatile(
      ".syntax unified\n"
      "push {r4-r11, lr}\n"
      "vldmia r0, {s0-s5}\n"
      "adr.w r2, 2f\n"
      "vmov r3, s2\n"
      "subs r2, r2, r3\n"
      "vmov s2, r2\n"
      "0: vmov r0, s0\n"
      "ldr r2, [r1], #4\n"
      "ldr r5, [r1], #4\n"
      /* The first step reads the biases in place of all pixels' sums. */
      LOADS PRODUCTS("r2", "r2", "r2", "r5", "r5", "r5")
      "vmov lr, s2\n"
      "bx lr\n"
      ".balign 4\n"
      "1:\n"
      ".rept 8\n"
      LOADS PRODUCTS("r2", "r3", "r4", "r5", "r6", "r7")
      ".endr\n"
      "2: vmov lr, s1\n"
      "cmp r0, lr\n"
      "blo 1b\n"
      PARAMETERS "bhi 4f\n"
      "smmla r2, r2, r8, r10\n"
      "smmla r3, r3, r8, r10\n"
      "smmla r4, r4, r8, r10\n"
      "smmla r5, r5, r9, r11\n"
      "smmla r6, r6, r9, r11\n"
      "smmla r7, r7, r9, r11\n"
      "3: vmov lr, s3\n"
      "vmov r0, s4\n"
      "vmov r8, s5\n"
      "asr r2, r2, r12\n"
      "asr r3, r3, r12\n"
      "asr r4, r4, r12\n"
      "asrs r12, r12, #8\n"
      "asr r5, r5, r12\n"
      "asr r6, r6, r12\n"
      "asr r7, r7, r12\n"
      "ssat r2, #8, r2\n"
      "ssat r3, #8, r3\n"
      "ssat r4, #8, r4\n"
      "strb r2, [lr]\n"
      "strb r3, [lr, r0]\n"
      "strb r4, [lr, r0, lsl #1]\n"
      "add lr, lr, r8\n"
      "ssat r5, #8, r5\n"
      "ssat r6, #8, r6\n"
      "ssat r7, #8, r7\n"
      "strb r5, [lr]\n"
      "strb r6, [lr, r0]\n"
      "strb r7, [lr, r0, lsl #1]\n"
      "add lr, lr, r8\n"
      "vmov s3, lr\n"
      "bmi 0b\n"
      "pop {r4-r11, pc}\n"
      /* With 128, one half of the multiplication's unit, less for negative sums. */
      "4: asr r0, r2, #31\n"
      "asr lr, r3, #31\n"
      "add r0, r10, r0, lsl #7\n"
      "add lr, r10, lr, lsl #7\n"
      "smmla r2, r2, r8, r0\n"
      "smmla r3, r3, r8, lr\n"
      "asr r0, r4, #31\n"
      "asr lr, r5, #31\n"
      "add r0, r10, r0, lsl #7\n"
      "add lr, r11, lr, lsl #7\n"
      "smmla r4, r4, r8, r0\n"
      "smmla r5, r5, r9, lr\n"
      "asr r0, r6, #31\n"
      "asr lr, r7, #31\n"
      "add r0, r11, r0, lsl #7\n"
      "add lr, r11, lr, lsl #7\n"
      "smmla r6, r6, r9, r0\n"
      "smmla r7, r7, r9, lr\n"
      "b 3b\n");
}

#endif
