#include "tn_internal.h"

/* One output pixel at the left or right border: taps outside of the input read the zero point. */
static void border_pixel(const tn_depthwise_layer *layer, const int8_t *input, tn_taps rows, uint32_t x,
                         int8_t *output) {
  const tn_window *w = &layer->window;
  int32_t kernel_columns = w->kernel_columns, step = w->dilation_columns * layer->input.channels;
  int32_t row_step = w->dilation_rows * layer->input.columns * layer->input.channels;
  tn_taps columns = tn_clip((int32_t)x, w->stride_columns, w->padding_left, kernel_columns, w->dilation_columns,
                            layer->input.columns);
  int32_t corner = (rows.origin + rows.first * w->dilation_rows) * layer->input.columns + columns.origin +
                   columns.first * w->dilation_columns;
  const int8_t *source = input + corner * layer->input.channels;
  const int8_t *weights = layer->weights;
  uint32_t channel = 0;
  for (uint32_t c = 0; c < layer->input.channels; c++, source++) {
    for (uint32_t m = 0; m < layer->multiplier; m++, channel++) {
      int32_t sum = layer->bias[channel], outside = 0;
      const int8_t *row = source;
      for (int32_t ky = 0; ky < w->kernel_rows; ky++) {
        if (ky < rows.first || ky >= rows.last) {
          for (int32_t kx = 0; kx < kernel_columns; kx++) outside += *weights++;
          continue;
        }
        const int8_t *tap = row;
        for (int32_t kx = 0; kx < columns.first; kx++) outside += *weights++;
        for (int32_t kx = columns.first; kx < columns.last; kx++, tap += step) sum += *tap * *weights++;
        for (int32_t kx = columns.last; kx < kernel_columns; kx++) outside += *weights++;
        row += row_step;
      }
      output[channel] = tn_requantize(&layer->requantization, channel, sum + outside * layer->input_zero_point);
    }
  }
}

/* Four output pixels whose windows lie between the left and right border. */
static void inner_four(const tn_depthwise_layer *layer, const int8_t *input, tn_taps rows, uint32_t x, int8_t *output) {
  const tn_window *w = &layer->window;
  const tn_requantization *r = &layer->requantization;
  uint32_t channels = layer->output.channels, kernel_columns = w->kernel_columns;
  uint32_t step = (uint32_t)w->dilation_columns * layer->input.channels;
  uint32_t row_step = (uint32_t)w->dilation_rows * layer->input.columns * layer->input.channels;
  uint32_t pixel = (uint32_t)w->stride_columns * layer->input.channels;
  uint32_t above = (uint32_t)rows.first * kernel_columns;
  uint32_t below = (uint32_t)(w->kernel_rows - rows.last) * kernel_columns;
  uint32_t top = (uint32_t)(rows.origin + rows.first * w->dilation_rows);
  uint32_t left = x * w->stride_columns - w->padding_left;
  const int8_t *source = input + (top * layer->input.columns + left) * layer->input.channels;
  const int8_t *weights = layer->weights;
  uint32_t channel = 0;
  for (uint32_t c = 0; c < layer->input.channels; c++, source++) {
    for (uint32_t m = 0; m < layer->multiplier; m++, channel++) {
      int32_t outside = 0;
      for (uint32_t n = above; n; n--) outside += *weights++;
      int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
      const int8_t *row = source;
      for (int32_t n = rows.last - rows.first; n > 0; n--) {
        const int8_t *tap = row, *end = weights + kernel_columns;
        do {
          int32_t weight = *weights++;
          s0 += tap[0] * weight;
          s1 += tap[pixel] * weight;
          s2 += tap[2 * pixel] * weight;
          s3 += tap[3 * pixel] * weight;
          tap += step;
        } while (weights != end);
        row += row_step;
      }
      for (uint32_t n = below; n; n--) outside += *weights++;
      outside = layer->bias[channel] + outside * layer->input_zero_point;
      int8_t *to = output + channel;
      to[0] = tn_requantize(r, channel, s0 + outside);
      to[channels] = tn_requantize(r, channel, s1 + outside);
      to[2 * channels] = tn_requantize(r, channel, s2 + outside);
      to[3 * channels] = tn_requantize(r, channel, s3 + outside);
    }
  }
}

void tn_depthwise_generic_s8(const tn_depthwise_layer *layer, const int8_t *input, int8_t *output) {
  const tn_window *w = &layer->window;
  uint32_t channels = layer->output.channels, columns = layer->output.columns;
  int32_t last_tap = (w->kernel_columns - 1) * w->dilation_columns - w->padding_left;
  for (uint32_t y = 0; y < layer->output.rows; y++) {
    tn_taps rows =
        tn_clip((int32_t)y, w->stride_rows, w->padding_top, w->kernel_rows, w->dilation_rows, layer->input.rows);
    uint32_t x = 0;
    while (x < columns) {
      int32_t right = (int32_t)(x + 3) * w->stride_columns + last_tap;
      if (x * w->stride_columns >= w->padding_left && x + 4 <= columns && right < layer->input.columns) {
        inner_four(layer, input, rows, x, output);
        output += 4 * channels;
        x += 4;
      } else {
        border_pixel(layer, input, rows, x, output);
        output += channels;
        x++;
      }
    }
  }
}
