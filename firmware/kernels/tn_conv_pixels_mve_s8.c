#include "tn_mve.h"

#if defined(__ARM_FEATURE_MVE)

#include "tn_mve_internal.h"

enum { CHANNELS = 64 /* whose sums are kept at a time */, PIXELS = 3 };

#define PARAMETERS                       \
  "vldrw.u32 q0, [%[bias]], #16\n"       \
  "vldrw.u32 q1, [%[multiplier]], #16\n" \
  "vldrb.s32 q2, [%[shift]], #4\n"

#define AWAY               \
  "vshr.s32 q4, q3, #31\n" \
  "vadd.i32 q3, q3, q4\n"

#define OUTPUT(away, to)              \
  "vadd.i32 q3, q3, q0\n"             \
  "vqrdmulh.s32 q3, q3, q1\n" away    \
  "vrshl.s32 q3, q3, q2\n"            \
  "vqadd.s32 q3, q3, %[zero_point]\n" \
  "vmax.s32 q3, q3, %q[minimum]\n"    \
  "vmin.s32 q3, q3, %q[maximum]\n"    \
  "vstrb.32 q3, [" to "], #4\n"

/* Four channels of three pixels at a time, whose sums lie 12 bytes apart. */
#define THREE_PIXELS(away)                                                                                          \
  __asm volatile(                                                                                                   \
      "dlstp.32 lr, %[count]\n"                                                                                     \
      "1:\n" PARAMETERS                                                                                             \
      "vldrw.u32 q3, [%q[sums], #48]!\n" OUTPUT(away, "%[to0]") "vldrw.u32 q3, [%q[sums], #4]\n" OUTPUT(            \
          away, "%[to1]") "vldrw.u32 q3, [%q[sums], #8]\n" OUTPUT(away, "%[to2]") "letp lr, 1b\n"                   \
      : [bias] "+r"(bias), [multiplier] "+r"(multiplier), [shift] "+l"(shift), [sums] "+w"(lanes), [to0] "+l"(to0), \
        [to1] "+l"(to1), [to2] "+l"(to2)                                                                            \
      : [count] "r"(count), [zero_point] "r"(state->zero_point), [minimum] "w"(state->minimum),                     \
        [maximum] "w"(state->maximum)                                                                               \
      : "q0", "q1", "q2", "q3", "q4", "lr", "memory")

#define ONE_PIXEL(away)                                                                                            \
  __asm volatile(                                                                                                  \
      "dlstp.32 lr, %[count]\n"                                                                                    \
      "1:\n" PARAMETERS                                                                                            \
      "vldrw.u32 q3, [%q[sums]]\n"                                                                                 \
      "vadd.i32 %q[sums], %q[sums], %[step]\n" OUTPUT(away, "%[to0]") "letp lr, 1b\n"                              \
      : [bias] "+r"(bias), [multiplier] "+r"(multiplier), [shift] "+l"(shift), [sums] "+w"(lanes), [to0] "+l"(to0) \
      : [count] "r"(count), [step] "r"(step), [zero_point] "r"(state->zero_point), [minimum] "w"(state->minimum),  \
        [maximum] "w"(state->maximum)                                                                              \
      : "q0", "q1", "q2", "q3", "q4", "lr", "memory")

/* Channels [first, first + count) of three pixels, or of one. */
static inline void finish_three(const tn_conv_mve_state *state, const int32_t *sums, uint32_t first, uint32_t count,
                                int8_t *output) {
  const int32_t *bias = state->bias + first, *multiplier = state->multipliers + first;
  const int8_t *shift = state->shifts + first;
  int8_t *to0 = output + first, *to1 = to0 + state->channels, *to2 = to1 + state->channels;
  uint32x4_t lanes = vmlasq_n_u32(vidupq_n_u32(0, 4), vdupq_n_u32(PIXELS), (uint32_t)(uintptr_t)sums - 48);
  if (state->away) {
    THREE_PIXELS(AWAY);
  } else {
    THREE_PIXELS("");
  }
}

static void finish_one(const tn_conv_mve_state *state, const int32_t *sums, uint32_t pixels, uint32_t first,
                       uint32_t count, int8_t *output) {
  const int32_t *bias = state->bias + first, *multiplier = state->multipliers + first;
  const int8_t *shift = state->shifts + first;
  int8_t *to0 = output + first;
  uint32x4_t lanes = vmlasq_n_u32(vidupq_n_u32(0, 4), vdupq_n_u32(pixels), (uint32_t)(uintptr_t)sums);
  uint32_t step = 16 * pixels;
  if (state->away) {
    ONE_PIXEL(AWAY);
  } else {
    ONE_PIXEL("");
  }
}

static inline void dot(const tn_conv_mve_state *state, uint32_t pixels, const int8_t *weights, int32_t *sums) {
  if (pixels == 3) {
    tn_dot_three_mve_s8(&state->dot, weights, sums);
  } else if (pixels == 2) {
    tn_dot_two_mve_s8(&state->dot, weights, sums);
  } else {
    tn_dot_one_mve_s8(&state->dot, weights, sums);
  }
}

/* All channels of one to three pixels, whose windows the dot holds. */
static void multiply(tn_conv_mve_state *state, uint32_t pixels, int8_t *output) {
  int32_t memory[(CHANNELS + 1) * PIXELS],
      *sums = memory + PIXELS; /* an odd channel is computed with its predecessor */
  for (uint32_t first = 0; first < state->channels; first += CHANNELS) {
    uint32_t count = state->channels - first;
    if (count > CHANNELS) count = CHANNELS;
    uint32_t depth = state->dot.depth;
    const int8_t *weights = state->weights + first * depth;
    state->dot.end = sums + (count & ~1u) * pixels;
    if (count > 1) dot(state, pixels, weights, sums);
    if (count & 1) {
      state->dot.end += pixels;
      dot(state, pixels, weights + (count - 2) * depth, state->dot.end - 2 * pixels);
    }
    if (pixels == PIXELS) {
      finish_three(state, sums, first, count, output);
    } else {
      for (uint32_t pixel = 0; pixel < pixels; pixel++) {
        finish_one(state, sums + pixel, pixels, first, count, output + pixel * state->channels);
      }
    }
  }
}

void tn_conv_pixels_mve_s8(tn_conv_mve_state *state, const int8_t *window, uint32_t step, uint32_t pixels,
                           int8_t *output) {
  while (pixels) {
    uint32_t count = pixels < PIXELS ? pixels : PIXELS;
    state->dot.vector0 = window;
    state->dot.vector1 = window + step;
    state->dot.vector2 = window + 2 * step;
    multiply(state, count, output);
    window += count * step;
    output += count * state->channels;
    pixels -= count;
  }
}

#endif
