/* A row of the depthwise kernel that computes four channels at a time. Not for callers. */
#ifndef TN_DEPTHWISE_CHANNELS_DSP_INTERNAL_H
#define TN_DEPTHWISE_CHANNELS_DSP_INTERNAL_H

#include "tn_depthwise_channels_dsp.h"

/* A row of outputs. The assembly loads the fields in this order, and steps column, corner, output and outputs. */
typedef struct {
  const int8_t **taps;   /* filled by the core: where each tap's pixel lies */
  const int8_t *corner;  /* input row of the first tap inside, column of the first tap, be it inside or not */
  uint32_t column;       /* of the first tap; columns before the input's first are beyond its last */
  uint32_t columns;      /* of the input */
  const int8_t *outside; /* what taps outside of the input read */
  uint32_t row_bytes;
  const int8_t *ring_end;
  uint32_t ring_bytes;
  uint32_t before, inside, after; /* rows of the window; at least one is inside */
  uint32_t kernel_columns;
  uint32_t channels;
  const int8_t **taps_end;
  const int32_t *groups;
  uint32_t last_group; /* its first channel */
  int8_t *output;
  int32_t rounding; /* twice the output's zero point, and one */
  uint32_t outputs;
  uint32_t stride, stride_bytes;
} tn_depthwise_channels_row;

void tn_depthwise_channels_row_dsp_s8(tn_depthwise_channels_row *row);

#endif
