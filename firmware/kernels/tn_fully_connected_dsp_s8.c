#include "tn_fully_connected_dsp.h"

#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FP)

#include <string.h>

#include "tn_internal.h"

/* What the core reads from floating-point registers, s0 and up. */
typedef struct {
  const int8_t *input, *end; /* of the words that are read from memory */
  uint32_t last;             /* the one word that is not */
  uint32_t entry;            /* of the unrolled loop, in bytes from its start, plus the Thumb bit */
  const uint32_t *stream, *stream_end;
  int8_t *output;
  int32_t multiplier, rounding;
  uint32_t shift;
} run_of_groups;

/* With the even bytes flipped to unsigned ones, 128 larger, a word H of inputs holds 256 x1 + x0 and 256 x3 + x2. A
 * word B of weights holds 256 w0 - w1 and -(256 w2 - w3). With E = (x0, x2), which UXTB16 gives, and S = (w3, -w1),
 * which SXTB16 gives, SMLSD of E and B and SMLSDX of S and H add 256 times the four products.
 *
 * r0 input, r1 stream, r2-r6 B, r7 H, r8-r12 accumulators, lr E. */
#define PRODUCTS(acc, weights)           \
  "smlsd " acc ", lr, " weights ", " acc \
  "\n"                                   \
  "sxtb16 " weights ", " weights         \
  ", ror #16\n"                          \
  "smlsdx " acc ", " weights ", r7, " acc "\n"
#define STEP(weights, products)  \
  "ldr.w r7, [r0], #4\n" weights \
  "eor.w r7, r7, #0x00800080\n"  \
  "uxtb16 lr, r7\n" products
#define STEP_5                 \
  STEP(                        \
      "ldr.n r3, [r1, #4]\n"   \
      "ldr.n r4, [r1, #8]\n"   \
      "ldr.n r5, [r1, #12]\n"  \
      "ldr.n r6, [r1, #16]\n"  \
      "ldr.w r2, [r1], #20\n", \
      PRODUCTS("r12", "r2") PRODUCTS("r11", "r3") PRODUCTS("r10", "r4") PRODUCTS("r9", "r5") PRODUCTS("r8", "r6"))
#define STEP_3                 \
  STEP(                        \
      "ldr.n r3, [r1, #4]\n"   \
      "ldr.n r4, [r1, #8]\n"   \
      "ldr.w r2, [r1], #12\n", \
      PRODUCTS("r10", "r2") PRODUCTS("r9", "r3") PRODUCTS("r8", "r4"))
#define STEP_1 STEP("ldr.w r2, [r1], #4\n", PRODUCTS("r8", "r2"))
#define TWICE(steps) steps steps

/* One group. The loop is entered where the steps of its first round begin, behind their load: they begin with the last
 * word. */
#define NEXT(to) "ldr.w " to ", [r1], #4\n"
#define GROUP(group, loop, bias, steps) \
  group                                 \
      ":\n"                             \
      "vmov r0, s0\n" bias              \
      "vmov r7, s2\n"                   \
      "vmov lr, s3\n"                   \
      "bx lr\n" loop ":\n" steps        \
      "vmov lr, s1\n"                   \
      "cmp r0, lr\n"                    \
      "bne.w " loop                     \
      "b\n"                             \
      "vmov r0, s6\n"                   \
      "vmov r7, s7\n"                   \
      "vmov r2, s8\n"                   \
      "vmov r3, s9\n"
#define FINISH(acc)   \
  "smmla r4, " acc    \
  ", r7, r2\n"        \
  "asrs r4, r3\n"     \
  "ssat r4, #8, r4\n" \
  "strb r4, [r0], #1\n"

/* Computes groups of five, three or one channels. */
__attribute__((naked)) static void compute_groups(const run_of_groups *run, uint32_t channels) {
  (void)run;
  (void)channels;
  __asm volatile(
      "push {r4-r11, lr}\n"
      "vldmia r0, {s0-s9}\n"
      "cmp r1, #3\n"
      "vmov r3, s3\n"
      "adr.w r2, 50f\n"
      "adr.w r4, 51f\n"
      "bhi 2f\n"
      "adr.w r2, 30f\n"
      "adr.w r4, 31f\n"
      "beq 2f\n"
      "adr.w r2, 10f\n"
      "adr.w r4, 11f\n"
      "2:\n"
      "add r4, r3\n"
      "vmov s3, r4\n"
      "adds r2, #1\n"
      "vmov s10, r2\n"
      "vmov r1, s4\n"
      "bx r2\n"

      GROUP("10", "11", NEXT("r8"), TWICE(STEP_1))
      "cbz r7, 61f\n"
      "b 71f\n"
      "61: b 81f\n"
      GROUP("30", "31", NEXT("r10") NEXT("r9") NEXT("r8"), TWICE(TWICE(STEP_3)))
      "cbz r7, 63f\n"
      "b 73f\n"
      "63: b 83f\n"
      GROUP("50", "51", NEXT("r12") NEXT("r11") NEXT("r10") NEXT("r9") NEXT("r8"), TWICE(TWICE(TWICE(STEP_5))))
      "cbz r7, 85f\n"
      FINISH("r12")
      FINISH("r11")
      "73:\n"
      FINISH("r10")
      FINISH("r9")
      "71:\n"
      FINISH("r8")
      "4:\n"
      "vmov s6, r0\n"
      "vmov r2, s5\n"
      "vmov r7, s10\n"
      "cmp r1, r2\n"
      "it ne\n"
      "bxne r7\n"
      "pop {r4-r11, pc}\n"
      "85:\n"
      NEXT("r7") FINISH("r12")
      NEXT("r7") FINISH("r11")
      "83:\n"
      NEXT("r7") FINISH("r10")
      NEXT("r7") FINISH("r9")
      "81:\n"
      NEXT("r7") FINISH("r8")
      "b 4b\n");
}

/* Channels, and of the unrolled loop the steps (a power of 2) and the bytes of a step and of its first load. */
static const struct { uint8_t channels, steps, step_bytes; } groups[] = {{5, 8, 84}, {3, 4, 56}, {1, 2, 28}};
enum { FIRST_LOAD_BYTES = 4 };

void tn_fully_connected_dsp_s8(const tn_fully_connected_dsp_layer *layer, const int8_t *input, int8_t *output) {
  uint32_t inputs = layer->inputs, words = (inputs + 3) / 4;
  uint32_t channel_words = (uint32_t)(layer->multiplier == 0) + 1 + words;
  run_of_groups run;
  run.multiplier = layer->multiplier;
  run.rounding = layer->rounding;
  run.shift = layer->shift;
  run.output = output;
  for (uint32_t batch = layer->batches; batch; batch--) {
    memcpy(&run.last, input + inputs - 4, sizeof run.last);
    run.last >>= (4 * words - inputs) * 8;
    run.input = input;
    run.end = input + 4 * words - 4;
    run.stream = layer->stream;
    for (uint32_t i = 0; i < 3; i++) {
      if (!layer->groups[i]) continue;
      uint32_t channels = layer->groups[i] * groups[i].channels;
      run.entry = (-words & (groups[i].steps - 1u)) * groups[i].step_bytes + FIRST_LOAD_BYTES + 1;
      run.stream_end = run.stream + channels * channel_words;
      compute_groups(&run, groups[i].channels);
      run.stream = run.stream_end;
      run.output += channels;
    }
    input += inputs;
  }
  if (layer->minimum > INT8_MIN || layer->maximum < INT8_MAX) {
    for (; output != run.output; output++) *output = tn_clamp(*output, layer->minimum, layer->maximum);
  }
}

#endif
