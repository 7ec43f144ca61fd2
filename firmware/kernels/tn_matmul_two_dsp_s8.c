#include "tn_conv_dsp.h"

#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FP)

#include <stddef.h>

/* Two pixels by two channels: tn_matmul_three_dsp_s8 without r4, r7 and r10, but with the output in r4, the windows'
 * end in r10 and the address at which the unrolled loop is entered in r7. */

typedef char block_is_as_the_code_below_reads_it
    [offsetof(tn_conv_dsp_block, end_of_two) == 84 && offsetof(tn_conv_dsp_block, entry_of_two) == 88 ? 1 : -1];

#define LOADS           \
  "ldr r11, [r1], #4\n" \
  "ldr r12, [r1], #4\n" \
  "ldr r8, [r0], #4\n"  \
  "ldr r9, [r0], #4\n"

#define PRODUCTS(first0, first1, second0, second1) \
  "uxtb16 lr, r9\n"                                \
  "smlsd r3, lr, r11, " first1                     \
  "\n"                                             \
  "smlsd r6, lr, r12, " second1                    \
  "\n"                                             \
  "uxtb16 lr, r8\n"                                \
  "smlsd r2, lr, r11, " first0                     \
  "\n"                                             \
  "smlsd r5, lr, r12, " second0                    \
  "\n"                                             \
  "sxtb16 r11, r11, ror #16\n"                     \
  "sxtb16 r12, r12, ror #16\n"                     \
  "smlsdx r2, r11, r8, r2\n"                       \
  "smlsdx r3, r11, r9, r3\n"                       \
  "smlsdx r5, r12, r8, r5\n"                       \
  "smlsdx r6, r12, r9, r6\n"

__attribute__((naked)) void tn_matmul_two_dsp_s8(const tn_conv_dsp_block *block __attribute__((unused)),
                                                 int8_t *output __attribute__((unused)),
                                                 uint32_t pixel_step __attribute__((unused))) {
  __asm volatile(
      ".syntax unified\n"
      "push {r4-r11, lr}\n"
      "vldmia r0, {s0-s8}\n"
      "mov r4, r1\n"
      "vmov s4, r2\n"
      "ldr r10, [r0, #84]\n"
      "ldr r3, [r0, #88]\n"
      "adr.w r7, 2f\n"
      "subs r7, r7, r3\n"
      "vmov r1, s6\n"
      "0: vmov r0, s0\n"
      "ldr r2, [r1], #4\n"
      "ldr r5, [r1], #4\n"
      LOADS PRODUCTS("r2", "r2", "r5", "r5")
      "bx r7\n"
      ".balign 4\n"
      "1:\n"
      ".rept 8\n"
      LOADS PRODUCTS("r2", "r3", "r5", "r6")
      ".endr\n"
      "2: cmp r0, r10\n"
      "blo 1b\n"
      "ldr r8, [r1], #4\n"
      "ldr r9, [r1], #4\n"
      "cmp r8, #0\n"
      "blt 4f\n"
      "smmul r2, r2, r8\n"
      "smmul r3, r3, r8\n"
      "smmul r5, r5, r9\n"
      "smmul r6, r6, r9\n"
      "ssat r2, #8, r2, asr #12\n"
      "ssat r3, #8, r3, asr #12\n"
      "ssat r5, #8, r5, asr #12\n"
      "ssat r6, #8, r6, asr #12\n"
      "3: vmov r0, s4\n"
      "vmov r8, s5\n"
      "vmov r9, s7\n"
      "strb r2, [r4]\n"
      "strb r3, [r4, r0]\n"
      "add r4, r4, r8\n"
      "strb r5, [r4]\n"
      "strb r6, [r4, r0]\n"
      "add r4, r4, r8\n"
      "cmp r1, r9\n"
      "blo 0b\n"
      "vmov r0, s8\n"
      "cmp r1, r0\n"
      "bne 5f\n"
      "pop {r4-r11, pc}\n"
      "5: sub r4, r4, r8\n"
      "b 0b\n"
      "4: ldr r0, [r1], #4\n"
      "ldr r11, [r1], #4\n"
      "ldr r12, [r1], #4\n"
      "bic r8, r8, #0x80000000\n"
      "asr lr, r2, #31\n"
      "add lr, r0, lr, lsl #7\n"
      "smmla r2, r2, r8, lr\n"
      "asr lr, r3, #31\n"
      "add lr, r0, lr, lsl #7\n"
      "smmla r3, r3, r8, lr\n"
      "asr lr, r5, #31\n"
      "add lr, r11, lr, lsl #7\n"
      "smmla r5, r5, r9, lr\n"
      "asr lr, r6, #31\n"
      "add lr, r11, lr, lsl #7\n"
      "smmla r6, r6, r9, lr\n"
      "asr r2, r2, r12\n"
      "asr r3, r3, r12\n"
      "lsr r12, r12, #8\n"
      "asr r5, r5, r12\n"
      "asr r6, r6, r12\n"
      "ssat r2, #8, r2\n"
      "ssat r3, #8, r3\n"
      "ssat r5, #8, r5\n"
      "ssat r6, #8, r6\n"
      "b 3b\n");
}

#endif
