/* Depthwise convolutions with a multiplier and dilation of 1 for the DSP extension of Armv7E-M.
 *
 * Row r of a buffer starts at base + (r % ring) * row bytes. With input_planes set, an input row holds one run of
 * input.columns bytes for each channel; else it is NHWC, like all outputs. Scratch is 4-byte aligned;
 * export/kernels/dsp_depthwise.py sizes it and packs the constants.
 *
 * For all other targets the same functions are in tn_depthwise_3x3_portable_s8.c and tn_depthwise_portable_s8.c.
 */
#ifndef TN_DEPTHWISE_DSP_H
#define TN_DEPTHWISE_DSP_H

#include "tn_kernels.h"

/* Kernel 3x3, at most one row or column of padding on any side. The channels' requantization is one multiplication
 * (export/kernels/single_rounding.py). */
typedef struct {
  tn_shape input, output;
  tn_window window;
  int16_t input_zero_point;
  int8_t minimum, maximum;
  uint8_t start;           /* before the blocks: 0 the plain start, 1 one column, 2 one of padding and one column */
  uint8_t tail;            /* columns after the blocks */
  uint8_t right;           /* 1: a column of padding follows them */
  uint8_t reaching;        /* last channels the last word of whose rows may reach beyond what follows them */
  uint16_t block_columns;  /* a multiple of 4 */
  uint8_t gather_channels; /* as many as scratch holds three rows of */
  uint8_t input_planes;
  uint16_t input_ring, output_ring;
  const int32_t *channels; /* five words each: weights (three), bias, multiplier */
} tn_depthwise_3x3_dsp_layer;

/* stride_columns is 1. */
void tn_depthwise_3x3_dsp_s8(const tn_depthwise_3x3_dsp_layer *layer, const int8_t *input, int8_t *output,
                             int8_t *scratch, uint32_t first, uint32_t rows);

/* stride_columns is 1, and there are 5 to 7 columns, with one of padding on either side. */
void tn_depthwise_3x3_narrow_dsp_s8(const tn_depthwise_3x3_dsp_layer *layer, const int8_t *input, int8_t *output,
                                    int8_t *scratch, uint32_t first, uint32_t rows);

/* stride_columns is 2. */
void tn_depthwise_3x3_stride2_dsp_s8(const tn_depthwise_3x3_dsp_layer *layer, const int8_t *input, int8_t *output,
                                     int8_t *scratch, uint32_t first, uint32_t rows);

/* Any kernel and stride. */
typedef struct {
  tn_shape input, output;
  tn_window window;
  int16_t input_zero_point;
  uint8_t input_planes;
  uint16_t input_ring, output_ring;
  const int8_t *weights; /* channel, kernel column, kernel row; zeros fill the last word unless one byte is left */
  const int32_t *bias;   /* folded */
  tn_requantization requantization; /* no left shifts */
} tn_depthwise_dsp_layer;

void tn_depthwise_dsp_s8(const tn_depthwise_dsp_layer *layer, const int8_t *input, int8_t *output, int8_t *scratch,
                         uint32_t first, uint32_t rows);

#endif
