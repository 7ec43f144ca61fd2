/* Kernels for the vector extension of Armv8.1-M (Helium), as in the Cortex-M55.
 *
 * All of them are bit-identical to the generic kernels. "Folded" bias: input_zero_point * sum(weights of that channel)
 * has been subtracted, so that kernels multiply raw input values. export/kernels/helium.py fills in these structs,
 * checks what they assume, and sizes the scratch memory.
 *
 * Requantization is LiteRT's: VQRDMULH is its first rounding. VRSHL, the second, rounds halves up; LiteRT rounds them
 * away from zero, which is the same after one has been subtracted from negative values. That may be left out if
 * negative values end below the lower clamp either way (away = 0).
 */
#ifndef TN_MVE_H
#define TN_MVE_H

#include "tn_kernels.h"

typedef struct {
  tn_shape input, output;
  tn_window window;
  uint16_t input_ring, output_ring;
  uint16_t block; /* output columns whose windows are gathered at a time */
  uint8_t
      columns_first; /* order of a window's taps: 0 is row, column, channel; 1 is column, row, channel, not dilated */
  uint8_t away;      /* 1: all shifts are negative */
  int16_t input_zero_point, output_zero_point;
  int8_t minimum, maximum;
  const int8_t *weights; /* output channel, then in the window's order */
  const int32_t *bias;   /* folded */
  const int32_t *multipliers;
  const int8_t *shifts; /* never positive */
} tn_conv_mve_layer;

/* scratch: 4 * kernel_rows bytes and block windows; those of neighbouring columns overlap if columns_first. */
void tn_conv_mve_s8(const tn_conv_mve_layer *layer, const int8_t *input, int8_t *output, int8_t *scratch,
                    uint32_t first, uint32_t rows);

/* Kernel 1x1, any stride, no padding. */
void tn_conv_1x1_mve_s8(const tn_conv_mve_layer *layer, const int8_t *input, int8_t *output, uint32_t first,
                        uint32_t rows);

/* Not for callers. Sums of products of vectors, the windows of neighbouring pixels, with pairs of weight rows. The
 * order of the fields is that of the registers that one LDM loads. */
typedef struct {
  int32_t zero0;
  const int8_t *vector0;
  int32_t zero1;
  const int8_t *vector1;
  int32_t zero2;
  const int8_t *vector2;
  int32_t zero3, zero4, zero5;
  int32_t rewind; /* depth less depth rounded up to 16 */
  uint32_t depth;
  int32_t *end; /* of the sums */
} tn_dot_mve;

/* Writes sums [row][vector] up to dot->end, of two rows at a time, and two vectors, or one. weights: the first row,
 * less dot->rewind. */
void tn_dot_two_mve_s8(const tn_dot_mve *dot, const int8_t *weights, int32_t *sums);
void tn_dot_one_mve_s8(const tn_dot_mve *dot, const int8_t *weights, int32_t *sums);

/* Not for callers. Some channels, two or more, of groups of three pixels. */
typedef struct {
  tn_dot_mve dot;
  const int8_t *weights; /* less dot.rewind */
  int32_t *sums;
  uint32_t odd; /* channels: the last one is computed with its predecessor, once more */
  uint32_t groups;
  uint32_t step; /* bytes from one group's windows to the next one's */
  const int32_t *bias, *multipliers;
  const int8_t *shifts;
  int8_t *output; /* moves on */
  int32_t zero_point;
  uint32_t pitch; /* bytes of an output pixel */
  uint32_t channels;
  int32_t minimum[4], maximum[4];
  uint32_t lanes[4]; /* addresses of the first pixel's sums of four channels, less 48 */
} tn_conv_mve_job;

void tn_conv_three_mve_s8(tn_conv_mve_job *job);
void tn_conv_three_away_mve_s8(tn_conv_mve_job *job);

/* Not for callers. Windows of 16 bytes or fewer, four channels at a time, with clamps of -128 and 127 and no shift or
 * negative values that would need to be rounded away from zero. */
typedef struct {
  uint32_t depth;
  const int8_t *weights; /* these five move on */
  const int32_t *bias, *multipliers;
  const int8_t *input;
  int8_t *output;
  uint32_t step; /* bytes from one pixel's window to the next one's */
  int32_t zero_point;
  uint32_t pitch; /* bytes of an output pixel */
  const int8_t *shifts;
  uint32_t pixels, fours;
} tn_conv_shallow_mve;

void tn_conv_shallow_mve_s8(tn_conv_shallow_mve *shallow);

typedef struct {
  tn_shape input, output;
  tn_window window;
  uint16_t input_ring, output_ring;
  uint8_t plain; /* 1: zero_point and minimum are -128, maximum is 127; 0: all shifts are negative */
  uint8_t
      flat; /* 1: fewer than 16 channels, or 16, that divide 16, stride_columns is 1, a row has 16 outputs or more */
  int16_t input_zero_point, output_zero_point;
  int8_t minimum, maximum;
  /* For each 16 channels: 16 biases (folded), 16 weights for each tap, 16 multipliers, 16 shifts, never positive, one
   * byte each. Weights, none of which is -128, are in the order of the channels; biases and multipliers in that of
   * channels 0, 4, 8, 12, 2, 6, 10, 14, 1, 5, 9, 13, 3, 7, 11, 15; shifts in that of 0, 2, 1, 3, 4, 6, 5, 7 and so on.
   * The last block is that of the last 16 channels; if there are fewer than 16, of those that there are, over and over
   * again if flat, else with zeros. */
  const int32_t *blocks;
} tn_depthwise_mve_layer;

/* One output for each channel. scratch: 4 bytes for each kernel row, and twice for each tap, rounded up to four taps;
 * then the padded rows of a window if flat; else one vector of the channels' bytes, and if they are fewer than 16, 16
 * bytes for that and for each tap. */
void tn_depthwise_mve_s8(const tn_depthwise_mve_layer *layer, const int8_t *input, int8_t *output, int8_t *scratch,
                         uint32_t first, uint32_t rows);

/* Not for callers: neighbouring pixels, block by block. */
typedef struct {
  int8_t minimum[16], maximum[16];
  int32_t zero_point;
  const int32_t *blocks;
  int32_t next_block; /* bytes from the end of a block to the next one */
  int8_t *output;
  uint32_t count;  /* of blocks, less the last one if that starts elsewhere */
  int32_t tail;    /* bytes from where the other blocks end to where the last one starts; 0: it is like the others */
  uint32_t pixels; /* never 0 */
  uint32_t *taps;  /* addresses */
  const int32_t *steps; /* from each tap to that of the next pixel */
  uint32_t taps_count;
} tn_depthwise_run;

/* With nine taps, or any number. Moves the taps along. */
void tn_depthwise_nine_plain_mve_s8(const tn_depthwise_run *run);
void tn_depthwise_nine_mve_s8(const tn_depthwise_run *run);
void tn_depthwise_taps_plain_mve_s8(const tn_depthwise_run *run);
void tn_depthwise_taps_mve_s8(const tn_depthwise_run *run);

typedef struct {
  uint16_t batches, inputs, outputs; /* two outputs at least */
  uint8_t per_channel;
  int8_t minimum, maximum;
  int32_t rounding;           /* includes the zero point */
  int32_t shift;              /* negative: to the right */
  const int8_t *weights;      /* output, input */
  const int32_t *bias;        /* folded; |sums| are less than 2^23 */
  const int32_t *multipliers; /* one, or one for each output */
} tn_fully_connected_mve_layer;

/* Outputs are ((256 * sum * multiplier >> 32) + rounding) >> -shift; export/kernels/helium.py proves that LiteRT gives
 * the same. */
void tn_fully_connected_mve_s8(const tn_fully_connected_mve_layer *layer, const int8_t *input, int8_t *output);

/* Not for callers. Writes the sums of products of the vector with rows of weights, six rows at a time, up to end.
 * The order of the fields is that of registers. */
typedef struct {
  int32_t zero0;
  const int8_t *vector;
  int32_t zero1, zero2, zero3, zero4;
  int32_t rewind; /* depth less depth rounded up to 16 */
  uint32_t depth;
  int32_t *end;
} tn_dot_six_mve;

void tn_dot_six_mve_s8(const tn_dot_six_mve *dot, const int8_t *weights, int32_t *sums);

/* (a * factors[0] + b * factors[1] + offset) >> -shift, clamped. export/kernels/helium.py has compared this with
 * LiteRT's arithmetic for all pairs of inputs. */
typedef struct {
  uint32_t elements;
  int32_t factors[2];
  int32_t offset;
  int32_t shift; /* negative: to the right */
  int8_t minimum, maximum;
} tn_add_mve_layer;

void tn_add_mve_s8(const tn_add_mve_layer *layer, const int8_t *input_a, const int8_t *input_b, int8_t *output);

#endif
