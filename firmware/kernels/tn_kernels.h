/* Portable int8 kernels, bit-identical to LiteRT's reference kernels.
 *
 * Tensors are NHWC with a batch of 1. A layer is one constant struct, filled in by the code generator, which has also
 * checked it: kernels check nothing. export/numerics.py derives every figure in these structs and sizes the scratch
 * memory of those kernels that take some.
 *
 * Windowed kernels (convolutions, pools, pad) compute output rows [first, first + rows). Their buffers may be rings
 * that hold a few rows: row r lies at base + (r % ring) * bytes of a row. A buffer that holds the whole tensor has a
 * ring of the tensor's height. A call for several rows takes whole tensors only; so does an element-wise kernel, whose
 * layer counts the elements of one call, be they a tensor's or a row's.
 *
 * Reductions (the mean or average of all rows and columns) take input rows [first, first + rows) in the same way, the
 * input being a ring or whole. Calls follow each other from row 0 to the last; the first clears the sums in scratch,
 * which must keep their content between the calls, and the last writes the output.
 *
 * Scratch memory is the caller's, 4-byte aligned. No kernel reads or writes a byte outside of its buffers.
 *
 * What the memory planner relies on:
 * - Windowed kernels compute output rows from top to bottom. Once a byte of row y is written, no input row above the
 * first one of row y's window is read any more. So an output row may lie on input rows above its window.
 * - Element-wise kernels (add, requantize) read element i of every input before they write element i, and go upwards.
 * So the output may be one of the inputs.
 * - All other kernels need their output apart from their inputs.
 *
 * "Folded" bias: the generator has already subtracted input_zero_point * sum(weights of that channel), so that kernels
 * multiply raw input values; taps outside of the input read input_zero_point.
 */
#ifndef TN_KERNELS_H
#define TN_KERNELS_H

#include <stdint.h>

typedef struct {
  uint16_t rows, columns, channels;
} tn_shape;

typedef struct {
  uint8_t kernel_rows, kernel_columns;
  uint8_t stride_rows, stride_columns;
  uint8_t dilation_rows, dilation_columns;
  uint8_t padding_top, padding_left;
} tn_window;

/* Requantization of 32-bit accumulators with two roundings: one multiplier (31 fraction bits) and shift (positive is
 * left) per output channel. */
typedef struct {
  const int32_t *multipliers;
  const int8_t *shifts;
  int16_t output_zero_point;
  int8_t minimum, maximum;
} tn_requantization;

typedef struct {
  tn_shape input, output;
  uint16_t input_ring, output_ring; /* rows that the buffers hold */
  tn_window window;
  uint16_t groups;
  int16_t input_zero_point;
  const int8_t *weights; /* output channel, kernel row, kernel column, input channel of the group */
  const int32_t *bias;   /* folded, never null */
  tn_requantization requantization;
} tn_conv_layer;

/* scratch: 2 * kernel_rows * kernel_columns * (input channels / groups) bytes. */
void tn_conv_generic_s8(const tn_conv_layer *layer, const int8_t *input, int8_t *output, int8_t *scratch,
                        uint32_t first, uint32_t rows);

/* Kernel 1x1, stride 1, no padding, one group. The pixels of one call: a tensor's, or those of one of its rows. */
typedef struct {
  uint32_t rows, columns;
  uint16_t input_channels, output_channels;
  const int8_t *weights; /* output channel, input channel */
  const int32_t *bias;   /* folded, never null */
  tn_requantization requantization;
} tn_conv_1x1_layer;

void tn_conv_1x1_s8(const tn_conv_1x1_layer *layer, const int8_t *input, int8_t *output);

typedef struct {
  tn_shape input, output;
  uint16_t input_ring, output_ring; /* rows that the buffers hold */
  tn_window window;
  uint16_t multiplier; /* output channels per input channel */
  int16_t input_zero_point;
  const int8_t *weights; /* output channel, kernel row, kernel column */
  const int32_t *bias;   /* folded, never null */
  tn_requantization requantization;
} tn_depthwise_layer;

void tn_depthwise_generic_s8(const tn_depthwise_layer *layer, const int8_t *input, int8_t *output, uint32_t first,
                             uint32_t rows);

/* Requantization with one rounding of a 62-bit multiplier, high * 2^31 + low: acc * multiplier / 2^(31 + shift), halves
 * away from zero. LiteRT's fully connected layers multiply in double precision; this rounds to the same integers. */
typedef struct {
  const uint32_t *high, *low; /* 31 bits each */
  const uint8_t *shifts;      /* 1 ... 63, right */
  uint8_t per_channel;        /* 0: one element serves all channels; 1: one for each */
  int8_t minimum, maximum;
  int16_t output_zero_point;
} tn_wide_requantization;

typedef struct {
  uint16_t batches, inputs, outputs;
  const int8_t *weights; /* output, input */
  const int32_t *bias;   /* folded, never null */
  tn_wide_requantization requantization;
} tn_fully_connected_layer;

void tn_fully_connected_generic_s8(const tn_fully_connected_layer *layer, const int8_t *input, int8_t *output);

typedef struct {
  uint32_t elements;
  int16_t zero_points[2];
  int32_t multipliers[2];
  int8_t shifts[2]; /* never positive */
  int32_t output_multiplier;
  int8_t output_shift; /* never positive */
  int16_t output_zero_point;
  int8_t minimum, maximum;
} tn_add_layer;

void tn_add_generic_s8(const tn_add_layer *layer, const int8_t *input_a, const int8_t *input_b, int8_t *output);

typedef struct {
  tn_shape input, output;
  uint16_t input_ring, output_ring; /* rows that the buffers hold */
  tn_window window;                 /* dilation is 1 */
  int8_t minimum, maximum;
} tn_pool_layer;

/* Padding is left out of the average. */
void tn_pool_average_s8(const tn_pool_layer *layer, const int8_t *input, int8_t *output, uint32_t first, uint32_t rows);
void tn_pool_max_s8(const tn_pool_layer *layer, const int8_t *input, int8_t *output, uint32_t first, uint32_t rows);

/* A reduction: an average pool whose one window is the whole input. The output is [1, 1, channels]. */
typedef struct {
  tn_shape input;
  uint16_t input_ring;
  int8_t minimum, maximum;
} tn_pool_global_layer;

/* scratch: an int32 for every channel. */
void tn_pool_global_s8(const tn_pool_global_layer *layer, const int8_t *input, int8_t *output, int8_t *scratch,
                       uint32_t first, uint32_t rows);

/* The input is [outer, reduced, inner], the output [outer, inner]. */
typedef struct {
  uint32_t outer, reduced, inner;
  int16_t input_zero_point, output_zero_point;
  int32_t multiplier; /* includes 1 / reduced */
  int8_t shift;
} tn_mean_layer;

void tn_mean_generic_s8(const tn_mean_layer *layer, const int8_t *input, int8_t *output);

/* A reduction: the mean over rows and columns. The output has one element for every channel. */
typedef struct {
  tn_shape input;
  uint16_t input_ring;
  int16_t input_zero_point, output_zero_point;
  int32_t multiplier; /* includes 1 / (rows * columns) */
  int8_t shift;
} tn_mean_rows_layer;

/* scratch: an int32 for every channel. */
void tn_mean_rows_s8(const tn_mean_rows_layer *layer, const int8_t *input, int8_t *output, int8_t *scratch,
                     uint32_t first, uint32_t rows);

typedef struct {
  tn_shape input, output;
  uint16_t input_ring, output_ring; /* rows that the buffers hold */
  uint16_t top, left, front; /* rows, columns and channels before the input; what follows it fills the output's shape */
  int8_t value;              /* the zero point */
} tn_pad_layer;

void tn_pad_generic_s8(const tn_pad_layer *layer, const int8_t *input, int8_t *output, uint32_t first, uint32_t rows);

typedef struct {
  uint32_t rows, columns; /* the softmax is over columns */
  const int32_t *exps;    /* element d: exp(-d * scale * beta), 31 fraction bits */
  uint16_t exps_count;    /* larger differences give a probability of 0 */
} tn_softmax_layer;

void tn_softmax_generic_s8(const tn_softmax_layer *layer, const int8_t *input, int8_t *output);

/* Copies one input of a concatenation: outer blocks of inner_bytes, each to output_stride_bytes after the last; the
 * caller passes the output at this input's offset within a block. */
typedef struct {
  uint32_t outer, inner_bytes, output_stride_bytes;
} tn_concatenation_layer;

void tn_concatenation_part_s8(const tn_concatenation_layer *layer, const int8_t *input, int8_t *output);

/* QUANTIZE from int8, RELU and RELU6. */
typedef struct {
  uint32_t elements;
  int16_t input_zero_point, output_zero_point;
  int32_t multiplier;
  int8_t shift;
  int8_t minimum, maximum;
} tn_requantize_layer;

void tn_requantize_generic_s8(const tn_requantize_layer *layer, const int8_t *input, int8_t *output);

/* QUANTIZE from float and DEQUANTIZE to float. */
typedef struct {
  uint32_t elements;
  float scale;
  int16_t zero_point;
} tn_affine_layer;

void tn_quantize_float_s8(const tn_affine_layer *layer, const float *input, int8_t *output);
void tn_dequantize_float_s8(const tn_affine_layer *layer, const int8_t *input, float *output);

#endif
