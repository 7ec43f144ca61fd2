#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FP)
#include "tn_depthwise_channels_dsp_internal.h"

/* Groups: r0 position among the taps, r1 among the constants, r2 group's first channel, r3 end of the taps, r4 ... r7
 * sums; s0 channels, s1 end of the taps, s2 constants, s3 last group, s4 output, s5 rounding, s6 taps, s7 the field
 * channels. The taps before them: r0 rows that are left, r1 ... r12 the first fields of the row, lr pixel. */
/* clang-format off */
#define PAIR(pixels, weights, even, odd, spare) \
  "  sxtb16 lr, " pixels "\n" \
  "  sxtb16 " spare ", " weights "\n" \
  "  sxtb16 " pixels ", " pixels ", ror #8\n" \
  "  sxtb16 " weights ", " weights ", ror #8\n" \
  "  smlad " even ", lr, " spare ", " even "\n" \
  "  smlad " odd ", " pixels ", " weights ", " odd "\n"

#define SCALE(sum, bias, multiplier) \
  "  add " sum ", " bias ", " sum ", lsl #8\n" \
  "  smmul " sum ", " sum ", " multiplier "\n" \
  "  ssat " sum ", #8, " sum ", asr #10\n"

/* Halves are rounded away from zero. r0 shift less one, r3 rounding. */
#define ROUND(sum, bias, multiplier) \
  "  adds " sum ", " sum ", " bias "\n" \
  "  lsl " bias ", r3, r0\n" \
  "  ite pl\n" \
  "  addpl " bias ", " bias ", #64\n" \
  "  submi " bias ", " bias ", #64\n" \
  "  lsl " sum ", " sum ", #8\n" \
  "  smmla " sum ", " sum ", " multiplier ", " bias "\n" \
  "  asr " sum ", " sum ", r0\n" \
  "  ssat " sum ", #8, " sum ", asr #1\n"

__attribute__((naked)) void tn_depthwise_channels_row_dsp_s8(__attribute__((unused)) tn_depthwise_channels_row *row) {
  __asm volatile(
      "  push {r4-r11, lr}\n"
      "1:\n"
      "  ldm r0!, {r1-r12}\n"
      "  vldm r0, {s0-s5}\n"
      "  vmov s6, r1\n"
      "  vmov s7, r0\n"
      /* A column of the window. */
      "2:\n"
      "  cmp r3, r4\n"
      "  bhs 6f\n"
      "  mov lr, r2\n"
      "  movs r0, r9\n"
      "  beq 4f\n"
      "3:\n"
      "  str r5, [r1], #4\n"
      "  subs r0, r0, #1\n"
      "  bne 3b\n"
      "4:\n"
      "  mov r0, r10\n"
      "5:\n"
      "  str lr, [r1], #4\n"
      "  add lr, lr, r6\n"
      "  cmp lr, r7\n"
      "  it hs\n"
      "  subhs lr, lr, r8\n"
      "  subs r0, r0, #1\n"
      "  bne 5b\n"
      "  movs r0, r11\n"
      "  beq 8f\n"
      "  b 7f\n"
      "6:\n"
      "  add r0, r9, r10\n"
      "  add r0, r0, r11\n"
      "7:\n"
      "  str r5, [r1], #4\n"
      "  subs r0, r0, #1\n"
      "  bne 7b\n"
      "8:\n"
      "  vmov r0, s0\n"
      "  add r2, r2, r0\n"
      "  add r3, r3, #1\n"
      "  subs r12, r12, #1\n"
      "  bne 2b\n"
      "  vmov r3, s1\n"
      "  vmov r1, s2\n"
      "  vmov r2, s3\n"
      /* A group of channels. */
      "9:\n"
      "  vmov r0, s6\n"
      "  ldr r8, [r0], #4\n"
      "  ldr r9, [r1], #4\n"
      "  ldr r8, [r8, r2]\n"
      "  sxtb16 r12, r9\n"
      "  sxtb16 r9, r9, ror #8\n"
      "  sxtb16 lr, r8\n"
      "  sxtb16 r8, r8, ror #8\n"
      "  smulbb r4, lr, r12\n"
      "  smulbb r5, r8, r9\n"
      "  smultt r6, lr, r12\n"
      "  smultt r7, r8, r9\n"
      "10:\n"
      "  ldr r8, [r0], #4\n"
      "  ldr r9, [r0], #4\n"
      "  ldr r10, [r1], #4\n"
      "  ldr r11, [r1], #4\n"
      "  ldr r8, [r8, r2]\n"
      "  ldr r9, [r9, r2]\n"
      "  cmp r0, r3\n"
      "  pkhtb r12, r9, r8, asr #16\n"
      "  pkhbt r8, r8, r9, lsl #16\n"
      PAIR("r8", "r10", "r4", "r5", "r9")
      PAIR("r12", "r11", "r6", "r7", "r8")
      "  bne 10b\n"
      "  ldm r1!, {r0, r8, r9, r10, r11, r12, lr}\n"
      "  cbnz r0, 12f\n"
      SCALE("r4", "r8", "r9")
      SCALE("r5", "r10", "r11")
      SCALE("r6", "r12", "lr")
      "  ldm r1!, {r8, r9}\n"
      SCALE("r7", "r8", "r9")
      "11:\n"
      "  vmov r0, s4\n"
      "  add r0, r0, r2\n"
      "  strb r4, [r0]\n"
      "  strb r5, [r0, #1]\n"
      "  strb r6, [r0, #2]\n"
      "  strb r7, [r0, #3]\n"
      "  subs r2, r2, #4\n"
      "  bpl 9b\n"
      "  cmn r2, #4\n"
      "  mov r2, #0\n"
      "  bne 9b\n"
      "  b 13f\n"
      "12:\n"
      "  vmov r3, s5\n"
      ROUND("r4", "r8", "r9")
      "  lsr r0, r0, #8\n"
      ROUND("r5", "r10", "r11")
      "  lsr r0, r0, #8\n"
      ROUND("r6", "r12", "lr")
      "  lsr r0, r0, #8\n"
      "  ldm r1!, {r8, r9}\n"
      ROUND("r7", "r8", "r9")
      "  vmov r3, s1\n"
      "  b 11b\n"
      "13:\n"
      /* The next pixel. */
      "  vmov r0, s7\n"
      "  ldr r1, [r0, #24]\n"
      "  subs r1, r1, #1\n"
      "  beq 14f\n"
      "  str r1, [r0, #24]\n"
      "  ldrd r1, r2, [r0, #28]\n"
      "  ldr r3, [r0, #16]\n"
      "  ldr r4, [r0, #-40]\n"
      "  ldr r5, [r0, #-44]\n"
      "  vmov r6, s0\n"
      "  add r3, r3, r6\n"
      "  add r4, r4, r1\n"
      "  add r5, r5, r2\n"
      "  str r3, [r0, #16]\n"
      "  str r4, [r0, #-40]\n"
      "  str r5, [r0, #-44]\n"
      "  sub r0, r0, #48\n"
      "  b 1b\n"
      "14:\n"
      "  pop {r4-r11, pc}\n");
}
/* clang-format on */

#endif
