#include "tn_conv_dsp.h"

#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FP)

#include <stddef.h>

/* Three pixels by two channels. r0 windows, r1 stream, r2-r4 sums of the first channel, r5-r7 of the second, r8-r10
 * inputs, r11-r12 weights. s0-s9 hold the block's first ten words, but s2 and s9 the addresses at which the unrolled
 * loops are entered, and s3 where the next outputs go; s10 points to the block. */

typedef char block_is_as_the_code_below_reads_it[offsetof(tn_conv_dsp_block, output) == 12 &&
                                                         offsetof(tn_conv_dsp_block, from) == 40 &&
                                                         offsetof(tn_conv_dsp_block, tail) == 72 &&
                                                         offsetof(tn_conv_dsp_block, blocks) == 80
                                                     ? 1
                                                     : -1];

#define LOADS           \
  "ldr r11, [r1], #4\n" \
  "ldr r12, [r1], #4\n" \
  "ldr r8, [r0], #4\n"  \
  "ldr r9, [r0], #4\n"  \
  "ldr r10, [r0], #4\n"

/* The arguments are what the even products are added to: the sums, or biases. */
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

#define FLIP_BYTES      \
  "eor r4, r4, #0x80\n" \
  "eor r5, r5, #0x80\n" \
  "eor r6, r6, #0x80\n"

/* Two words and a byte of three pixels. The bytes of three rows share a word, which lies behind all others. */
#define COLOR_ROW(tail0, tail1, tail2, flip)         \
  "ldr r4, [r0], #4\n"                               \
  "ldr r5, [r1], #4\n"                               \
  "ldr r6, [r2], #4\n"                               \
  "ldr r7, [r0], #4\n"                               \
  "ldr r11, [r1], #4\n"                              \
  "ldr r12, [r2], #4\n"                              \
  "eor r4, r4, #0x00800080\n"                        \
  "eor r5, r5, #0x00800080\n"                        \
  "eor r6, r6, #0x00800080\n"                        \
  "eor r7, r7, #0x00800080\n"                        \
  "eor r11, r11, #0x00800080\n"                      \
  "eor r12, r12, #0x00800080\n"                      \
  "str r5, [r3, #4]\n"                               \
  "str r6, [r3, #8]\n"                               \
  "str r7, [r3, #12]\n"                              \
  "str r11, [r3, #16]\n"                             \
  "str r12, [r3, #20]\n"                             \
  "str r4, [r3], #24\n"                              \
  "ldrb r4, [r0], #1\n"                              \
  "ldrb r5, [r1], #1\n"                              \
  "ldrb r6, [r2], #1\n" flip "strb r4, [r3, #" tail0 \
  "]\n"                                              \
  "strb r5, [r3, #" tail1                            \
  "]\n"                                              \
  "strb r6, [r3, #" tail2 "]\n"

#define NEXT_COLOR_ROW  \
  "add r0, r0, r8\n"    \
  "add r1, r1, r8\n"    \
  "add r2, r2, r8\n"    \
  "cmp r0, r9\n"        \
  "ittt hs\n"           \
  "subhs r0, r0, r10\n" \
  "subhs r1, r1, r10\n" \
  "subhs r2, r2, r10\n"

__attribute__((naked)) void tn_matmul_three_dsp_s8(tn_conv_dsp_block *block __attribute__((unused))) {
  __asm volatile(
      ".syntax unified\n"
      "push {r4-r11, lr}\n"
      "vldmia r0, {s0-s9}\n"
      "vmov s10, r0\n"
      "adr.w r2, 2f\n"
      "vmov r3, s2\n"
      "subs r2, r2, r3\n"
      "vmov s2, r2\n"
      "adr.w r2, 12f\n"
      "vmov r3, s9\n"
      "subs r2, r2, r3\n"
      "vmov s9, r2\n"
      /* A block's windows: three runs (r0-r2) for each row (r10), words to r3 and what is left to r11. */
      "10: vmov lr, s10\n"
      "add r12, lr, #40\n"
      "ldmia r12, {r0, r1, r3, r7-r11}\n"
      "add r4, r1, r1, lsl #1\n"
      "add r4, r4, r0\n"
      "str r4, [lr, #40]\n"
      "add r2, r0, r1, lsl #1\n"
      "add r1, r1, r0\n"
      "vmov r12, s9\n"
      "cmp r10, #0\n"
      "ble 19f\n"
      "11: mov lr, r7\n"
      "bx r12\n"
      ".balign 4\n"
      "13:\n"
      ".rept 4\n"
      "ldr r4, [r0], #4\n"
      "ldr r5, [r1], #4\n"
      "ldr r6, [r2], #4\n"
      "eor r4, r4, #0x00800080\n"
      "eor r5, r5, #0x00800080\n"
      "eor r6, r6, #0x00800080\n"
      "str.w r5, [r3, #4]\n"
      "str.w r6, [r3, #8]\n"
      "str r4, [r3], #12\n"
      ".endr\n"
      "12: subs lr, lr, #1\n"
      "bgt 13b\n"
      "cmp r11, #0\n"
      "bne 14f\n"
      "15: add r0, r0, r8\n"
      "add r1, r1, r8\n"
      "add r2, r2, r8\n"
      "cmp r0, r9\n"
      "bhs 18f\n"
      "16: subs r10, r10, #1\n"
      "bne 11b\n"
      "vmov lr, s10\n"
      "17: ldr r4, [lr, #12]\n"
      "vmov s3, r4\n"
      "vmov r5, s4\n"
      "add r5, r5, r5, lsl #1\n"
      "add r4, r4, r5\n"
      "str r4, [lr, #12]\n"
      "vmov r1, s6\n"
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
      "ldr r8, [r1], #4\n"
      "ldr r9, [r1], #4\n"
      "cmp r8, #0\n"
      "blt 4f\n"
      "smmul r2, r2, r8\n"
      "smmul r3, r3, r8\n"
      "smmul r4, r4, r8\n"
      "smmul r5, r5, r9\n"
      "smmul r6, r6, r9\n"
      "smmul r7, r7, r9\n"
      "ssat r2, #8, r2, asr #12\n"
      "ssat r3, #8, r3, asr #12\n"
      "ssat r4, #8, r4, asr #12\n"
      "ssat r5, #8, r5, asr #12\n"
      "ssat r6, #8, r6, asr #12\n"
      "ssat r7, #8, r7, asr #12\n"
      "3: vmov lr, s3\n"
      "vmov r0, s4\n"
      "vmov r8, s5\n"
      "vmov r9, s7\n"
      "strb r2, [lr]\n"
      "strb r3, [lr, r0]\n"
      "strb r4, [lr, r0, lsl #1]\n"
      "add lr, lr, r8\n"
      "strb r5, [lr]\n"
      "strb r6, [lr, r0]\n"
      "strb r7, [lr, r0, lsl #1]\n"
      "add lr, lr, r8\n"
      "vmov s3, lr\n"
      "cmp r1, r9\n"
      "blo 0b\n"
      "vmov r0, s8\n"
      "cmp r1, r0\n"
      "bne 5f\n"
      "vmov lr, s10\n"
      "ldr r0, [lr, #80]\n"
      "subs r0, r0, #1\n"
      "str r0, [lr, #80]\n"
      "bne 10b\n"
      "pop {r4-r11, pc}\n"
      /* An odd channel, after the one that it is paired with. */
      "5: sub lr, lr, r8\n"
      "vmov s3, lr\n"
      "b 0b\n"
      /* A run's last bytes. */
      "14: vmov lr, s10\n"
      "ldr r4, [lr, #72]\n"
      "20: ldrb r5, [r0], #1\n"
      "ldrb r6, [r1], #1\n"
      "ldrb r12, [r2], #1\n"
      "tst r11, #1\n"
      "ittt eq\n"
      "eoreq r5, r5, #0x80\n"
      "eoreq r6, r6, #0x80\n"
      "eoreq r12, r12, #0x80\n"
      "strb r6, [r11, #4]\n"
      "strb r12, [r11, #8]\n"
      "strb r5, [r11], #1\n"
      "tst r11, #3\n"
      "it eq\n"
      "addeq r11, r11, #8\n"
      "subs r4, r4, #1\n"
      "bne 20b\n"
      "vmov r12, s9\n"
      "b 15b\n"
      /* Three rows of 9 bytes; or nothing. */
      "19: beq 17b\n"
      "ldr r10, [lr, #76]\n"
      COLOR_ROW("48", "52", "56", FLIP_BYTES) NEXT_COLOR_ROW
      COLOR_ROW("25", "29", "33", "") NEXT_COLOR_ROW
      COLOR_ROW("2", "6", "10", FLIP_BYTES)
      "b 17b\n"
      /* The next row lies at the ring's start. */
      "18: vmov lr, s10\n"
      "ldr r4, [lr, #76]\n"
      "sub r0, r0, r4\n"
      "sub r1, r1, r4\n"
      "sub r2, r2, r4\n"
      "b 16b\n"
      /* Two roundings. The first one adds one half; before the second one, 1, which is 128 in the multiplication's
       * unit, is taken from negative sums. */
      "4: ldr r10, [r1], #4\n"
      "ldr r11, [r1], #4\n"
      "ldr r12, [r1], #4\n"
      "bic r8, r8, #0x80000000\n"
      "asr r0, r2, #31\n"
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
      "asr r2, r2, r12\n"
      "asr r3, r3, r12\n"
      "asr r4, r4, r12\n"
      "lsr r12, r12, #8\n"
      "asr r5, r5, r12\n"
      "asr r6, r6, r12\n"
      "asr r7, r7, r12\n"
      "ssat r2, #8, r2\n"
      "ssat r3, #8, r3\n"
      "ssat r4, #8, r4\n"
      "ssat r5, #8, r5\n"
      "ssat r6, #8, r6\n"
      "ssat r7, #8, r7\n"
      "b 3b\n");
}

#endif
