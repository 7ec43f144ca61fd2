/* Fully connected layers on Armv7E-M (DSP and floating-point extensions). */
#ifndef TN_FULLY_CONNECTED_DSP_H
#define TN_FULLY_CONNECTED_DSP_H

#include "tn_kernels.h"

/* export/dsp_fully_connected.py fills this in, after it has shown for every accumulator that the layer can have that
 * (acc * multiplier / 2^24 + rounding) >> shift, once clamped, is the output of LiteRT's double product.
 *
 * The output channels come in groups, first of five, then of three, then of one. The stream holds, group by group:
 * 256 * bias of each channel; for each word of four inputs one word of weights of each channel, beginning with the last
 * word; and, if multiplier is 0, the multiplier of each channel. The bias is folded for
 * inputs whose even elements are 128 larger than stored. */
typedef struct {
  uint16_t batches, inputs; /* 4 inputs or more */
  uint16_t groups[3];
  uint8_t shift;
  int8_t minimum, maximum;
  int32_t multiplier, rounding;
  const uint32_t *stream;
} tn_fully_connected_dsp_layer;

void tn_fully_connected_dsp_s8(const tn_fully_connected_dsp_layer *layer, const int8_t *input, int8_t *output);

#endif
