/* What the kernels for the vector extension share. Not for callers. */
#ifndef TN_MVE_INTERNAL_H
#define TN_MVE_INTERNAL_H

#include <arm_mve.h>

#include "tn_internal.h"
#include "tn_mve.h"

/* Vector loops of their own: compilers make calls of memcpy and memset, or no loops with a predicated tail. */
static inline void tn_copy_mve(int8_t *to, const int8_t *from, uint32_t bytes) {
  __asm volatile(
      "wlstp.8 lr, %[bytes], 2f\n"
      "1:\n"
      "vldrb.8 q0, [%[from]], #16\n"
      "vstrb.8 q0, [%[to]], #16\n"
      "letp lr, 1b\n"
      "2:\n"
      : [to] "+r"(to), [from] "+r"(from)
      : [bytes] "r"(bytes)
      : "q0", "lr", "memory");
}

static inline void tn_fill_mve(int8_t *to, int8x16_t value, uint32_t bytes) {
  __asm volatile(
      "wlstp.8 lr, %[bytes], 2f\n"
      "1:\n"
      "vstrb.8 %q[value], [%[to]], #16\n"
      "letp lr, 1b\n"
      "2:\n"
      : [to] "+r"(to)
      : [bytes] "r"(bytes), [value] "w"(value)
      : "lr", "memory");
}

/* A copy of the layer's parameters, which a store of an int8 might change for all that the compiler knows. */
typedef struct {
  tn_dot_mve dot;
  const int8_t *weights;
  const int32_t *bias, *multipliers;
  const int8_t *shifts;
  uint32_t channels, zero_point, away;
  int32x4_t minimum, maximum;
} tn_conv_mve_state;

static inline tn_conv_mve_state tn_conv_mve_state_of(const tn_conv_mve_layer *layer, uint32_t depth) {
  tn_conv_mve_state state = {
      .dot = {.rewind = (int32_t)(depth - ((depth + 15) & ~15u)), .depth = depth},
      .bias = layer->bias,
      .multipliers = layer->multipliers,
      .shifts = layer->shifts,
      .channels = layer->output.channels,
      .zero_point = (uint32_t)layer->output_zero_point,
      .away = layer->away,
      .minimum = vdupq_n_s32(layer->minimum),
      .maximum = vdupq_n_s32(layer->maximum),
  };
  state.weights = layer->weights - state.dot.rewind;
  return state;
}

/* All channels of neighbouring pixels, whose windows lie step bytes apart. */
void tn_conv_pixels_mve_s8(tn_conv_mve_state *state, const int8_t *window, uint32_t step, uint32_t pixels,
                           int8_t *output);

#endif
