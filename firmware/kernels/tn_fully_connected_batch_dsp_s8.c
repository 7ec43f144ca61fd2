#include "tn_fully_connected_dsp.h"

#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FP)

/* clang-format off */

/* With the even bytes flipped to unsigned ones, 128 larger, a word H of inputs holds 256 x1 + x0 and 256 x3 + x2. A word
 * B of weights holds 256 w0 - w1 and -(256 w2 - w3). With E = (x0, x2), which UXTB16 gives, and S = (w3, -w1), which
 * SXTB16 gives, SMLSD of E and B and SMLSDX of S and H add 256 times the four products.
 *
 * r0 input, r1 stream, r2-r4 B, r5 H, r6 end, r7-r12 accumulators, lr E. */
#define PRODUCTS(acc, weights)                                          \
  "smlsd " acc ", lr, " weights ", " acc "\n"                           \
  "sxtb16 " weights ", " weights ", ror #16\n"                          \
  "smlsdx " acc ", " weights ", r5, " acc "\n"
#define EXTEND_INPUT                                                    \
  "eor.w r5, r5, #0x00800080\n"                                         \
  "uxtb16 lr, r5\n"
#define STEP_OF_SIX                                                     \
  "ldr.w r5, [r0], #4\n"                                                \
  "ldr.n r2, [r1, #4]\n"                                                \
  "ldr.n r3, [r1, #8]\n"                                                \
  "ldr.n r4, [r1, #12]\n" EXTEND_INPUT                                  \
  PRODUCTS("r8", "r2") PRODUCTS("r9", "r3") PRODUCTS("r10", "r4")       \
  "ldr.n r3, [r1, #16]\n"                                               \
  "ldr.n r4, [r1, #20]\n"                                               \
  "ldr.w r2, [r1], #24\n"                                               \
  PRODUCTS("r7", "r2") PRODUCTS("r11", "r3") PRODUCTS("r12", "r4")
#define STEP_OF_TWO                                                     \
  "ldr.w r5, [r0], #4\n"                                                \
  "ldr.n r3, [r1, #4]\n"                                                \
  "ldr.w r2, [r1], #8\n" EXTEND_INPUT PRODUCTS("r11", "r2") PRODUCTS("r12", "r3")
#define STEP_OF_ONE                                                     \
  "ldr.w r5, [r0], #4\n"                                                \
  "ldr.w r2, [r1], #4\n" EXTEND_INPUT PRODUCTS("r12", "r2")
#define TWICE(steps) steps steps

/* Groups of as many channels, groups[index] of them: where they end in the stream, and where their loop is entered. Its
 * first round is entered late, so that the last round is whole. Where the input has a last word with fewer than four
 * inputs, that one comes first, and the first step is entered behind its load. steps is a power of 2; step_bytes is what
 * the assembler makes of a step.
 *
 * s0-s4 the batch, s5-s9 multiplier, rounding, shift, channel_bytes and address of the layer, s10 the groups' end in the
 * stream, s11 where the loop is entered, s12 where a group begins, s13 what comes after the groups. */
#define PREPARE(index, channels, steps, step_bytes, loop, next)         \
  "vmov r0, s9\n"                                                       \
  "ldrh r2, [r0, #6 + 2 * " index "]\n"                                 \
  "cmp r2, #0\n"                                                        \
  "beq.w " next "f\n"                                                   \
  "vmov r3, s8\n"                                                       \
  "movs r4, #" channels "\n"                                            \
  "mul r3, r3, r4\n"                                                    \
  "mla r2, r2, r3, r1\n"                                                \
  "vmov s10, r2\n"                                                      \
  "vmov r3, s3\n"                                                       \
  "and r3, r3, #" steps " - 1\n"                                        \
  "vmov r2, s4\n"                                                       \
  "movs r4, #" step_bytes "\n"                                          \
  "mla r3, r3, r4, r2\n"                                                \
  "adr.w r4, " loop "f\n"                                               \
  "add r4, r3\n"                                                        \
  "vmov s11, r4\n"                                                      \
  "adr.w r2, " next "f\n"                                               \
  "adds r2, #1\n"                                                       \
  "vmov s13, r2\n"
#define NEXT(to) "ldr.w " to ", [r1], #4\n"
#define BIAS_OF_SIX NEXT("r7") NEXT("r8") NEXT("r9") NEXT("r10") NEXT("r11") NEXT("r12")
#define ENTER                                                           \
  "vmov r5, s1\n"                                                       \
  "vmov lr, s11\n"                                                      \
  "bx lr\n"
#define LOOP(label, steps)                                              \
  label ":\n" steps                                                     \
  "cmp r0, r6\n"                                                        \
  "bne.w " label "b\n"                                                  \
  "vmov r0, s2\n"                                                       \
  "vmov r5, s5\n"                                                       \
  "vmov r2, s6\n"                                                       \
  "vmov r3, s7\n"
#define FINISH(acc)                                                     \
  "smmla r4, " acc ", r5, r2\n"                                         \
  "asrs r4, r3\n"                                                       \
  "ssat r4, #8, r4\n"                                                   \
  "strb r4, [r0], #1\n"
/* With the channel's own multiplier, and its own shift less 1 in the lowest byte of the accumulator. */
#define FINISH_OWN(acc)                                                 \
  NEXT("r5")                                                            \
  "bic r4, " acc ", #255\n"                                             \
  "smmul r4, r4, r5\n"                                                  \
  "asr.w r4, r4, " acc "\n"                                             \
  "add r4, r2\n"                                                        \
  "ssat r4, #8, r4, asr #1\n"                                           \
  "strb r4, [r0], #1\n"

__attribute__((naked)) void tn_fully_connected_batch_dsp_s8(
    const tn_fully_connected_dsp_batch *batch __attribute__((unused)),
    const tn_fully_connected_dsp_layer *layer __attribute__((unused))) {
  __asm volatile(
      "push {r4-r11, lr}\n"
      "vldmia r0!, {s0-s4}\n"
      "ldr r6, [r0]\n"
      "vmov s9, r1\n"
      "adds r1, #12\n"
      "vldmia r1!, {s5-s8}\n" /* the fields before the stream */
      "ldr r1, [r1]\n"

      PREPARE("0", "6", "8", "98", "63", "2")
      "cmp r3, #1\n"
      "adr.w r4, 62f\n"
      "beq 3f\n"
      "adr.w r4, 61f\n"
      "3: adds r4, #1\n"
      "vmov s12, r4\n"
      "bx r4\n"
      "61:\n"
      "vmov r0, s0\n" BIAS_OF_SIX ENTER
      "62:\n" /* all rounds are whole */
      "vmov r0, s0\n" BIAS_OF_SIX
      LOOP("63", TWICE(TWICE(TWICE(STEP_OF_SIX))))
      "cbz r5, 86f\n"
      FINISH("r7") FINISH("r8") FINISH("r9") FINISH("r10")
      "72:\n" FINISH("r11")
      "71:\n" FINISH("r12")
      "7:\n"
      "vmov s2, r0\n"
      "vmov r2, s10\n"
      "vmov r3, s12\n"
      "cmp r1, r2\n"
      "it ne\n"
      "bxne r3\n"
      "vmov r3, s13\n"
      "bx r3\n"
      "86:\n"
      FINISH_OWN("r7") FINISH_OWN("r8") FINISH_OWN("r9") FINISH_OWN("r10")
      "82:\n" FINISH_OWN("r11")
      "81:\n" FINISH_OWN("r12")
      "b 7b\n"

      "2:\n" PREPARE("1", "2", "8", "42", "22", "1")
      "adr.w r4, 21f\n"
      "adds r4, #1\n"
      "vmov s12, r4\n"
      "21:\n"
      "vmov r0, s0\n" NEXT("r11") NEXT("r12") ENTER
      LOOP("22", TWICE(TWICE(TWICE(STEP_OF_TWO))))
      "cmp r5, #0\n"
      "bne 72b\n"
      "b 82b\n"

      "1:\n" PREPARE("2", "1", "2", "28", "12", "9")
      "adr.w r4, 11f\n"
      "adds r4, #1\n"
      "vmov s12, r4\n"
      "11:\n"
      "vmov r0, s0\n" NEXT("r12") ENTER
      LOOP("12", TWICE(STEP_OF_ONE))
      "cmp r5, #0\n"
      "bne 71b\n"
      "b 81b\n"
      "9: pop {r4-r11, pc}\n");
}

/* clang-format on */

#endif
