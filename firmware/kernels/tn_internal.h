/* What the kernels share. Not for callers. */
#ifndef TN_INTERNAL_H
#define TN_INTERNAL_H

#include "tn_kernels.h"

/* acc * multiplier / 2^31, rounded to nearest. Right shifts of negative numbers are arithmetic in every compiler for
 * the parts that we support; a unit test of the host build would fail otherwise. */
static inline int32_t tn_high_multiply(int32_t acc, int32_t multiplier) {
  return (int32_t)(((int64_t)acc * multiplier + ((int64_t)1 << 30)) >> 31);
}

/* value / 2^exponent, halves away from zero. */
static inline int32_t tn_round_shift(int32_t value, int32_t exponent) {
  if (exponent == 0) return value;
  return (((value + (value >> 31)) >> (exponent - 1)) + 1) >> 1;
}

/* acc * multiplier / 2^31 * 2^shift with LiteRT's two roundings, for any shift. */
int32_t tn_multiply_any(int32_t acc, int32_t multiplier, int32_t shift);

/* The same for a shift to the right by 2 + less_two. Both roundings are then one addition to the 64-bit product, of
 * 2^30 less 2^31 if it is negative, and one more after all but the last bit have been shifted out. */
static inline int32_t tn_multiply_short(int32_t acc, int32_t multiplier, uint32_t less_two) {
  uint32_t sign = acc < 0 ? ~(uint32_t)0 : 0;
  int64_t rounding = (int64_t)(((uint64_t)sign << 32) | (((uint32_t)1 << 30) + (sign << 31)));
  int64_t product = (int64_t)acc * multiplier + rounding;
  return (((int32_t)(product >> 32) >> less_two) + 1) >> 1;
}

static inline int8_t tn_clamp(int32_t value, int32_t minimum, int32_t maximum) {
  if (value < minimum) value = minimum;
  if (value > maximum) value = maximum;
  return (int8_t)value;
}

/* sum / count, halves away from zero. */
static inline int8_t tn_average(int32_t sum, int32_t count, int32_t minimum, int32_t maximum) {
  int32_t half = sum > 0 ? count / 2 : -(count / 2);
  return tn_clamp((sum + half) / count, minimum, maximum);
}

/* What turns one channel's accumulators into outputs. Kernels work on a copy of the layer's parameters: a store of an
 * int8 may alias the original, which would be loaded again for every output. */
typedef struct {
  int32_t multiplier, shift;
  int32_t zero_point, minimum, maximum;
} tn_scaling;

static inline int8_t tn_finish(const tn_scaling *s, int32_t scaled) {
  return tn_clamp(scaled + s->zero_point, s->minimum, s->maximum);
}

static inline int8_t tn_requantize(const tn_scaling *s, int32_t acc) {
  if (s->shift > -2) return tn_finish(s, tn_multiply_any(acc, s->multiplier, s->shift));
  return tn_finish(s, tn_multiply_short(acc, s->multiplier, ~(uint32_t)s->shift - 1));
}

/* Two accumulators of one channel. */
static inline void tn_requantize_two(const tn_scaling *s, int32_t acc0, int32_t acc1, int8_t *to0, int8_t *to1) {
  int32_t scaled0, scaled1;
  if (s->shift > -2) {
    scaled0 = tn_multiply_any(acc0, s->multiplier, s->shift);
    scaled1 = tn_multiply_any(acc1, s->multiplier, s->shift);
  } else {
    uint32_t less_two = ~(uint32_t)s->shift - 1;
    scaled0 = tn_multiply_short(acc0, s->multiplier, less_two);
    scaled1 = tn_multiply_short(acc1, s->multiplier, less_two);
  }
  *to0 = tn_finish(s, scaled0);
  *to1 = tn_finish(s, scaled1);
}

static inline tn_scaling tn_scaling_of(const tn_requantization *r) {
  tn_scaling s = {0, 0, r->output_zero_point, r->minimum, r->maximum};
  return s;
}

/* The part of a window, along one axis, that lies inside of the input: taps [first, last). */
typedef struct {
  int32_t origin; /* where tap 0 reads; may lie outside */
  int32_t first, last;
} tn_taps;

static inline tn_taps tn_clip(int32_t output, int32_t stride, int32_t padding, int32_t kernel, int32_t dilation,
                              int32_t size) {
  tn_taps taps = {output * stride - padding, 0, kernel};
  while (taps.first < kernel && taps.origin + taps.first * dilation < 0) taps.first++;
  while (taps.last > taps.first && taps.origin + (taps.last - 1) * dilation >= size) taps.last--;
  return taps;
}

/* The input rows of one window, as offsets in bytes into a ring: the first, the way from each to the next, and what to
 * go back by at the ring's end. Rows at a distance of the dilation fit in the ring together, if there are several. */
typedef struct {
  uint32_t first, step, ring;
} tn_ring_rows;

static inline tn_ring_rows tn_rows_of(const tn_taps *taps, uint32_t dilation, uint32_t ring, uint32_t row_bytes) {
  uint32_t row = (uint32_t)taps->origin + (uint32_t)taps->first * dilation;
  tn_ring_rows rows = {row % ring * row_bytes, dilation * row_bytes, ring * row_bytes};
  return rows;
}

static inline uint32_t tn_next_row(const tn_ring_rows *rows, uint32_t row) {
  row += rows->step;
  return row >= rows->ring ? row - rows->ring : row;
}

static inline void tn_copy(int8_t *to, const int8_t *from, uint32_t bytes) {
  for (; bytes >= 4; bytes -= 4) {
    int8_t a = from[0], b = from[1], c = from[2], d = from[3];
    to[0] = a;
    to[1] = b;
    to[2] = c;
    to[3] = d;
    from += 4;
    to += 4;
  }
  for (; bytes; bytes--) *to++ = *from++;
}

static inline void tn_fill(int8_t *to, int8_t value, uint32_t bytes) {
  for (; bytes >= 4; bytes -= 4) {
    to[0] = value;
    to[1] = value;
    to[2] = value;
    to[3] = value;
    to += 4;
  }
  for (; bytes; bytes--) *to++ = value;
}

/* What the convolutions of one group and of several, of one tap and of many, have in common. */
typedef struct {
  const int8_t *weights;
  const int32_t *bias;
  const tn_requantization *requantization;
  uint32_t depth;    /* bytes of one output's window */
  uint32_t channels; /* of the output */
} tn_dense;

/* Outputs of channels [first, first + count): of two pixels, whose windows follow each other, or of one. output points
 * at the (first) pixel's channel 0. */
void tn_matmul_two_s8(const tn_dense *layer, uint32_t first, uint32_t count, const int8_t *input, int8_t *output);
void tn_matmul_one_s8(const tn_dense *layer, uint32_t first, uint32_t count, const int8_t *input, int8_t *output);

/* The sums of all channels over input rows [first, first + rows), added to those before, which row 0 clears. */
void tn_sum_rows_s8(const tn_shape *shape, uint32_t ring, const int8_t *input, int32_t *sums, uint32_t first,
                    uint32_t rows);

/* What stays the same while an output row is computed; a copy of the layer, which an int8 store may alias. */
typedef struct {
  const int8_t *input, *weights;
  const int32_t *bias, *multipliers;
  const int8_t *shifts;
  int32_t zero_point;
  uint32_t channels, multiplier, output_channels;
  uint32_t kernel_columns, tap_step, pixel_step;
  tn_ring_rows rows;
  uint32_t rows_inside, taps_above, taps_below;
  tn_scaling scaling;
} tn_depthwise_row;

/* Outputs of one pixel from the taps [first, last) of its columns, the first of which is at input + corner; all others
 * lie outside of the input, and read the zero point. */
void tn_depthwise_one_s8(const tn_depthwise_row *row, uint32_t corner, uint32_t first, uint32_t last, int8_t *output);

/* Outputs of four neighbouring pixels none of whose windows reaches over the left or right border. */
void tn_depthwise_four_s8(const tn_depthwise_row *row, uint32_t corner, int8_t *output);

/* Adds to sums the products of four rows of weights, depth apart, with one input. */
static inline void tn_dot_four(const int8_t *input, const int8_t *weights, uint32_t depth, int32_t sums[4]) {
  const int8_t *w0 = weights, *w1 = w0 + depth, *w2 = w1 + depth, *w3 = w2 + depth;
  int32_t s0 = sums[0], s1 = sums[1], s2 = sums[2], s3 = sums[3];
  for (uint32_t n = depth >> 2; n; n--) {
    int32_t x = *input++;
    s0 += x * *w0++;
    s1 += x * *w1++;
    s2 += x * *w2++;
    s3 += x * *w3++;
    x = *input++;
    s0 += x * *w0++;
    s1 += x * *w1++;
    s2 += x * *w2++;
    s3 += x * *w3++;
    x = *input++;
    s0 += x * *w0++;
    s1 += x * *w1++;
    s2 += x * *w2++;
    s3 += x * *w3++;
    x = *input++;
    s0 += x * *w0++;
    s1 += x * *w1++;
    s2 += x * *w2++;
    s3 += x * *w3++;
  }
  for (uint32_t n = depth & 3; n; n--) {
    int32_t x = *input++;
    s0 += x * *w0++;
    s1 += x * *w1++;
    s2 += x * *w2++;
    s3 += x * *w3++;
  }
  sums[0] = s0;
  sums[1] = s1;
  sums[2] = s2;
  sums[3] = s3;
}

static inline int32_t tn_dot_one(const int8_t *input, const int8_t *weights, uint32_t depth, int32_t sum) {
  for (; depth; depth--) sum += *input++ * *weights++;
  return sum;
}

#endif
