/* Depthwise convolutions with a multiplier and dilation of 1 for the DSP extension of Armv7E-M, four channels at a
 * time: for narrow maps, signals of one column among them. tn_depthwise_channels_portable_s8 is the same in plain C,
 * for all other cores, and needs no scratch.
 *
 * Row r of a buffer starts at base + (r % ring) * row bytes; rows are NHWC. Scratch is 4-byte aligned;
 * export/kernels/dsp_depthwise_channels.py sizes it and packs the constants.
 */
#ifndef TN_DEPTHWISE_CHANNELS_DSP_H
#define TN_DEPTHWISE_CHANNELS_DSP_H

#include "tn_kernels.h"

typedef struct {
  tn_shape input, output; /* at least four channels */
  tn_window window;
  int16_t input_zero_point, output_zero_point;
  int8_t minimum, maximum;
  uint16_t input_ring, output_ring;
  uint16_t taps; /* of a window, column by column, and one or two more of weight zero: an odd count, at least 3 */
  /* Groups of four channels, the last one first; the last group to come overlaps the one before it if four does not
   * divide the channels. A group is the first tap's weights, those of pairs of taps (channels 0 and 1 of the first tap,
   * of the second; then channels 2 and 3), a word of four shifts, and four pairs of bias and multiplier. Shifts of zero
   * say that one multiplication is all the requantization. */
  const int32_t *groups;
} tn_depthwise_channels_dsp_layer;

void tn_depthwise_channels_dsp_s8(const tn_depthwise_channels_dsp_layer *layer, const int8_t *input, int8_t *output,
                                  int8_t *scratch, uint32_t first, uint32_t rows);

#endif
