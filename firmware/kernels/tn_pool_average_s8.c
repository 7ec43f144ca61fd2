#include "tn_internal.h"

void tn_pool_average_s8(const tn_pool_layer *layer, const int8_t *input, int8_t *output, uint32_t first,
                        uint32_t rows) {
  const tn_window *w = &layer->window;
  const uint32_t channels = layer->input.channels, row_bytes = layer->input.columns * channels;
  const uint32_t output_columns = layer->output.columns;
  for (uint32_t y = first; y < first + rows; y++) {
    tn_taps inside = tn_clip((int32_t)y, w->stride_rows, w->padding_top, w->kernel_rows, 1, layer->input.rows);
    tn_ring_rows ring = tn_rows_of(&inside, 1, layer->input_ring, row_bytes);
    int8_t *to = output + y % layer->output_ring * output_columns * channels;
    for (uint32_t x = 0; x < output_columns; x++) {
      tn_taps columns =
          tn_clip((int32_t)x, w->stride_columns, w->padding_left, w->kernel_columns, 1, layer->input.columns);
      int32_t height = inside.last - inside.first, width = columns.last - columns.first, count = height * width;
      const int8_t *source = input + (uint32_t)(columns.origin + columns.first) * channels;
      for (uint32_t c = 0; c < channels; c++, source++) {
        int32_t sum = 0;
        for (uint32_t n = (uint32_t)height, row = ring.first; n; n--, row = tn_next_row(&ring, row)) {
          const int8_t *tap = source + row;
          for (uint32_t m = (uint32_t)width; m; m--, tap += channels) sum += *tap;
        }
        *to++ = tn_average(sum, count, layer->minimum, layer->maximum);
      }
    }
  }
}
