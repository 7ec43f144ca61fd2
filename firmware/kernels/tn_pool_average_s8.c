#include "tn_internal.h"

void tn_pool_average_s8(const tn_pool_layer *layer, const int8_t *input, int8_t *output) {
  const tn_window *w = &layer->window;
  int32_t channels = layer->input.channels, row_step = layer->input.columns * channels;
  for (int32_t y = 0; y < layer->output.rows; y++) {
    tn_taps rows = tn_clip(y, w->stride_rows, w->padding_top, w->kernel_rows, 1, layer->input.rows);
    for (int32_t x = 0; x < layer->output.columns; x++) {
      tn_taps columns = tn_clip(x, w->stride_columns, w->padding_left, w->kernel_columns, 1, layer->input.columns);
      int32_t height = rows.last - rows.first, width = columns.last - columns.first, count = height * width;
      const int8_t *corner =
          input + (rows.origin + rows.first) * row_step + (columns.origin + columns.first) * channels;
      for (int32_t c = 0; c < channels; c++) {
        int32_t sum = 0;
        for (int32_t ky = 0; ky < height; ky++) {
          const int8_t *tap = corner + ky * row_step + c;
          for (int32_t kx = 0; kx < width; kx++, tap += channels) sum += *tap;
        }
        int32_t half = sum > 0 ? count / 2 : -(count / 2);
        *output++ = tn_clamp((sum + half) / count, layer->minimum, layer->maximum);
      }
    }
  }
}
