#include "tn_mve.h"

#if defined(__ARM_FEATURE_MVE)

#include "tn_mve_internal.h"

void tn_conv_1x1_mve_s8(const tn_conv_mve_layer *layer, const int8_t *input, int8_t *output, uint32_t first,
                        uint32_t rows) {
  const tn_window *w = &layer->window;
  uint32_t channels = layer->input.channels, columns = layer->output.columns;
  uint32_t input_row = layer->input.columns * channels, output_row = columns * layer->output.channels;
  for (uint32_t y = first; y < first + rows; y++) {
    const int8_t *from = input + y * w->stride_rows % layer->input_ring * input_row;
    int8_t *to = output + y % layer->output_ring * output_row;
    tn_conv_pixels_mve_s8(layer, from, w->stride_columns * channels, channels, columns, to);
  }
}

#endif
