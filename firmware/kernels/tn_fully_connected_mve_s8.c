#include "tn_mve.h"

#if defined(__ARM_FEATURE_MVE)

#include "tn_mve_internal.h"

enum { OUTPUTS = 96 /* whose sums are kept at a time */, ROWS = 6 };

#define FINISH(each_multiplier)                                                                                 \
  __asm volatile(                                                                                               \
      "dlstp.32 lr, %[count]\n"                                                                                 \
      "1:\n"                                                                                                    \
      "vldrw.u32 q0, [%[sums]], #16\n"                                                                          \
      "vldrw.u32 q1, [%[bias]], #16\n"                                                                          \
      "vadd.i32 q0, q0, q1\n"                                                                                   \
      "vshl.i32 q0, q0, #8\n" each_multiplier                                                                   \
      "vmulh.s32 q0, q0, %q[multiplier]\n"                                                                      \
      "vadd.i32 q0, q0, %[rounding]\n"                                                                          \
      "vshl.s32 q0, %[shift]\n"                                                                                 \
      "vmax.s32 q0, q0, %q[minimum]\n"                                                                          \
      "vmin.s32 q0, q0, %q[maximum]\n"                                                                          \
      "vstrb.32 q0, [%[output]], #4\n"                                                                          \
      "letp lr, 1b\n"                                                                                           \
      : [sums] "+r"(sums), [bias] "+r"(bias), [multipliers] "+r"(multipliers), [multiplier] "+w"(multiplier),   \
        [output] "+l"(output)                                                                                   \
      : [count] "r"(count), [rounding] "r"(layer->rounding), [shift] "r"(layer->shift), [minimum] "w"(minimum), \
        [maximum] "w"(maximum)                                                                                  \
      : "q0", "q1", "lr", "memory")

/* Outputs [first, first + count) from their sums. */
static void finish(const tn_fully_connected_mve_layer *layer, const int32_t *sums, uint32_t first, uint32_t count,
                   int8_t *output) {
  const int32_t *bias = layer->bias + first, *multipliers = layer->multipliers;
  int32x4_t minimum = vdupq_n_s32(layer->minimum), maximum = vdupq_n_s32(layer->maximum);
  int32x4_t multiplier = vdupq_n_s32(*multipliers);
  output += first;
  if (layer->per_channel) {
    multipliers += first;
    FINISH("vldrw.u32 %q[multiplier], [%[multipliers]], #16\n");
  } else {
    FINISH("");
  }
}

void tn_fully_connected_mve_s8(const tn_fully_connected_mve_layer *layer, const int8_t *input, int8_t *output) {
  int32_t memory[OUTPUTS + 1], *sums = memory + 1; /* an odd output is computed with its predecessor */
  uint32_t depth = layer->inputs, outputs = layer->outputs;
  int32_t rewind = (int32_t)(depth - ((depth + 15) & ~15u));
  for (uint32_t batch = layer->batches; batch; batch--) {
    tn_dot_six_mve six = {.vector = input, .rewind = rewind, .depth = depth};
    tn_dot_mve two = {.vector0 = input, .rewind = rewind, .depth = depth};
    const int8_t *weights = layer->weights - rewind;
    for (uint32_t first = 0; first < outputs; first += OUTPUTS) {
      uint32_t count = outputs - first < OUTPUTS ? outputs - first : OUTPUTS, sixes = count - count % ROWS;
      six.end = sums + sixes;
      if (sixes) tn_dot_six_mve_s8(&six, weights, sums);
      two.end = sums + (count & ~1u);
      if (six.end != two.end) tn_dot_one_mve_s8(&two, weights + sixes * depth, six.end);
      if (count & 1) {
        two.end++;
        tn_dot_one_mve_s8(&two, weights + (count - 2) * depth, two.end - 2);
      }
      finish(layer, sums, first, count, output);
      weights += OUTPUTS * depth;
    }
    input += depth;
    output += outputs;
  }
}

#endif
