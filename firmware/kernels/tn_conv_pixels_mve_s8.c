#include "tn_mve.h"

#if defined(__ARM_FEATURE_MVE)

#include "tn_mve_internal.h"

enum { CHANNELS = 64 /* whose sums are kept at a time */, PIXELS = 3 };

#define AWAY               \
  "vshr.s32 q4, q3, #31\n" \
  "vadd.i32 q3, q3, q4\n"

/* Four channels of one pixel at a time, whose sums lie as many words apart as there are pixels. */
#define FINISH(away)                                                                                             \
  __asm volatile(                                                                                                \
      "dlstp.32 lr, %[count]\n"                                                                                  \
      "1:\n"                                                                                                     \
      "vldrw.u32 q0, [%[bias]], #16\n"                                                                           \
      "vldrw.u32 q1, [%[multiplier]], #16\n"                                                                     \
      "vldrb.s32 q2, [%[shift]], #4\n"                                                                           \
      "vldrw.u32 q3, [%q[sums]]\n"                                                                               \
      "vadd.i32 %q[sums], %q[sums], %[step]\n"                                                                   \
      "vadd.i32 q3, q3, q0\n"                                                                                    \
      "vqrdmulh.s32 q3, q3, q1\n" away                                                                           \
      "vrshl.s32 q3, q3, q2\n"                                                                                   \
      "vqadd.s32 q3, q3, %[zero_point]\n"                                                                        \
      "vmax.s32 q3, q3, %q[minimum]\n"                                                                           \
      "vmin.s32 q3, q3, %q[maximum]\n"                                                                           \
      "vstrb.32 q3, [%[to]], #4\n"                                                                               \
      "letp lr, 1b\n"                                                                                            \
      : [bias] "+r"(bias), [multiplier] "+r"(multiplier), [shift] "+l"(shift), [sums] "+w"(lanes), [to] "+l"(to) \
      : [count] "r"(job->channels), [step] "r"(step), [zero_point] "r"(job->zero_point), [minimum] "w"(minimum), \
        [maximum] "w"(maximum)                                                                                   \
      : "q0", "q1", "q2", "q3", "q4", "lr", "memory")

static void finish(const tn_conv_mve_job *job, uint32_t away, uint32_t pixels, uint32_t pixel) {
  const int32_t *bias = job->bias, *multiplier = job->multipliers;
  const int8_t *shift = job->shifts;
  int8_t *to = job->output + pixel * job->pitch;
  int32x4_t minimum = vldrwq_s32(job->minimum), maximum = vldrwq_s32(job->maximum);
  uint32x4_t lanes = vmlasq_n_u32(vidupq_n_u32(0, 4), vdupq_n_u32(pixels), (uint32_t)(uintptr_t)(job->sums + pixel));
  uint32_t step = 16 * pixels;
  if (away) {
    FINISH(AWAY);
  } else {
    FINISH("");
  }
}

/* One or two pixels. */
static void rest(tn_conv_mve_job *job, uint32_t away, uint32_t pixels) {
  void (*dot)(const tn_dot_mve *, const int8_t *, int32_t *) = pixels == 1 ? tn_dot_one_mve_s8 : tn_dot_two_mve_s8;
  job->dot.end = job->sums + (job->channels - job->odd) * pixels;
  dot(&job->dot, job->weights, job->sums);
  if (job->odd) {
    job->dot.end += pixels;
    dot(&job->dot, job->weights + (job->channels - 2) * job->dot.depth, job->dot.end - 2 * pixels);
  }
  for (uint32_t pixel = 0; pixel < pixels; pixel++) finish(job, away, pixels, pixel);
}

static void shallow_pixels(const tn_conv_mve_layer *layer, const int8_t *window, uint32_t step, uint32_t depth,
                           uint32_t pixels, int8_t *output) {
  tn_conv_shallow_mve shallow = {
      .depth = depth,
      .input = window,
      .step = step,
      .zero_point = layer->output_zero_point,
      .pitch = layer->output.channels,
      .pixels = pixels,
  };
  uint32_t first = 0, fours = layer->output.channels / 4;
  do {
    shallow.weights = layer->weights + first * depth;
    shallow.bias = layer->bias + first;
    shallow.multipliers = layer->multipliers + first;
    shallow.shifts = layer->shifts + first;
    shallow.output = output + first;
    shallow.fours = fours;
    tn_conv_shallow_mve_s8(&shallow);
    first += 4 * fours;
    if (first != layer->output.channels) first = layer->output.channels - 4; /* computes some again */
    fours = 1;
  } while (first != layer->output.channels);
}

void tn_conv_pixels_mve_s8(const tn_conv_mve_layer *layer, const int8_t *window, uint32_t step, uint32_t depth,
                           uint32_t pixels, int8_t *output) {
  if (depth <= 16 && layer->output.channels >= 4 && !layer->away && layer->minimum == INT8_MIN &&
      layer->maximum == INT8_MAX) {
    shallow_pixels(layer, window, step, depth, pixels, output);
    return;
  }
  int32_t sums[CHANNELS * PIXELS];
  uint32_t all_channels = layer->output.channels, groups = pixels / PIXELS, away = layer->away;
  tn_conv_mve_job job; /* set field by field, for an initializer would clear it first */
  job.dot.zero0 = job.dot.zero1 = job.dot.zero2 = job.dot.zero3 = job.dot.zero4 = job.dot.zero5 = 0;
  job.dot.rewind = (int32_t)(depth - ((depth + 15) & ~15u));
  job.dot.depth = depth;
  job.sums = sums;
  job.groups = groups;
  job.step = PIXELS * step;
  job.zero_point = layer->output_zero_point;
  job.pitch = all_channels;
  vstrwq_s32(job.minimum, vdupq_n_s32(layer->minimum));
  vstrwq_s32(job.maximum, vdupq_n_s32(layer->maximum));
  vstrwq_u32(job.lanes, vmlasq_n_u32(vidupq_n_u32(0, 4), vdupq_n_u32(PIXELS), (uint32_t)(uintptr_t)sums - 48));
  for (uint32_t first = 0, count; first < all_channels; first += count) {
    count = all_channels - first;
    if (count > CHANNELS) count = count == CHANNELS + 1 ? CHANNELS - 1 : CHANNELS; /* never leaves one */
    job.weights = layer->weights + first * depth - job.dot.rewind;
    job.odd = count & 1;
    job.bias = layer->bias + first;
    job.multipliers = layer->multipliers + first;
    job.shifts = layer->shifts + first;
    job.output = output + first;
    job.channels = count;
    job.dot.vector0 = window;
    job.dot.vector1 = window + step;
    job.dot.vector2 = window + 2 * step;
    job.dot.end = sums + (count - job.odd) * PIXELS;
    if (groups) {
      (away ? tn_conv_three_away_mve_s8 : tn_conv_three_mve_s8)(&job);
      job.dot.vector0 += groups * job.step;
      job.dot.vector1 += groups * job.step;
    }
    if (pixels % PIXELS) rest(&job, away, pixels % PIXELS);
  }
}

#endif
