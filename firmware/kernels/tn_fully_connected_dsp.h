/* Fully connected layers on Armv7E-M (DSP and floating-point extensions); tn_fully_connected_portable_s8 is the same in
 * plain C, for all other cores. */
#ifndef TN_FULLY_CONNECTED_DSP_H
#define TN_FULLY_CONNECTED_DSP_H

#include "tn_kernels.h"

/* export/kernels/dsp_fully_connected.py fills this in, after it has shown for every accumulator that the layer can have
 * that (acc * multiplier / 2^24 + rounding) >> shift, once clamped, is the output of LiteRT's double product. If
 * multiplier is 0, each channel has a multiplier and a shift of its own, and rounding is 2 * zero point + 1.
 *
 * The output channels come in groups, first of six, then of two, then of one. The stream holds, group by group: 256 *
 * bias of each channel, plus its own shift less 1; for each word of four inputs one word of weights of each channel,
 * beginning with the last word if it has fewer inputs; and the channels' own multipliers. The bias is folded for inputs
 * whose even elements are 128 larger than stored. */
typedef struct {
  uint16_t batches, inputs, outputs; /* 4 inputs or more */
  uint16_t groups[3];                /* of six, two and one */
  int32_t multiplier, rounding, shift;
  uint32_t channel_bytes; /* of the stream */
  const uint32_t *stream;
  int8_t minimum, maximum;
} tn_fully_connected_dsp_layer; /* assembly reads it */

void tn_fully_connected_dsp_s8(const tn_fully_connected_dsp_layer *layer, const int8_t *input, int8_t *output);

/* What the assembly reads, in this order, besides the layer. */
typedef struct {
  const int8_t *input;
  uint32_t last; /* the word with the last inputs, if they are fewer than four */
  int8_t *output;
  uint32_t minus_words; /* of the input, the last one included */
  uint32_t entry;       /* of the first step to run, in bytes from its start, plus the Thumb bit */
  const int8_t *end;    /* of the whole words of the input */
} tn_fully_connected_dsp_batch;

/* A step begins with the load of the input, which is skipped for the last word. */
#define TN_FULLY_CONNECTED_DSP_LOAD_BYTES 4

void tn_fully_connected_batch_dsp_s8(const tn_fully_connected_dsp_batch *batch,
                                     const tn_fully_connected_dsp_layer *layer);

#endif
