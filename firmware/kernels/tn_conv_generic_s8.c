#include "tn_internal.h"

/* Writes the input window of one output pixel and group as one vector, with the zero point where it lies outside. */
static void gather(const tn_conv_layer *layer, const int8_t *input, tn_taps rows, uint32_t x, uint32_t group,
                   int8_t *to) {
  const tn_window *w = &layer->window;
  uint32_t stride = layer->input.channels, depth = stride / layer->groups;
  tn_taps columns = tn_clip((int32_t)x, w->stride_columns, w->padding_left, w->kernel_columns, w->dilation_columns,
                            layer->input.columns);
  for (int32_t ky = 0; ky < w->kernel_rows; ky++) {
    if (ky < rows.first || ky >= rows.last || columns.first == columns.last) {
      tn_fill(to, (int8_t)layer->input_zero_point, w->kernel_columns * depth);
      to += w->kernel_columns * depth;
      continue;
    }
    uint32_t before = (uint32_t)columns.first * depth, after = (uint32_t)(w->kernel_columns - columns.last) * depth;
    uint32_t row = (uint32_t)(rows.origin + ky * w->dilation_rows);
    uint32_t column = (uint32_t)(columns.origin + columns.first * w->dilation_columns);
    const int8_t *from = input + (row * layer->input.columns + column) * stride + group * depth;
    tn_fill(to, (int8_t)layer->input_zero_point, before);
    to += before;
    if (w->dilation_columns == 1 && layer->groups == 1) {
      uint32_t inside = (uint32_t)(columns.last - columns.first) * depth;
      tn_copy(to, from, inside);
      to += inside;
    } else {
      for (int32_t kx = columns.first; kx < columns.last; kx++) {
        tn_copy(to, from, depth);
        to += depth;
        from += w->dilation_columns * stride;
      }
    }
    tn_fill(to, (int8_t)layer->input_zero_point, after);
    to += after;
  }
}

void tn_conv_generic_s8(const tn_conv_layer *layer, const int8_t *input, int8_t *output, int8_t *scratch) {
  const tn_window *w = &layer->window;
  uint32_t channels = layer->output.channels, columns = layer->output.columns, groups = layer->groups;
  uint32_t depth = (uint32_t)w->kernel_rows * w->kernel_columns * (layer->input.channels / groups);
  for (uint32_t y = 0; y < layer->output.rows; y++) {
    tn_taps rows =
        tn_clip((int32_t)y, w->stride_rows, w->padding_top, w->kernel_rows, w->dilation_rows, layer->input.rows);
    for (uint32_t x = 0; x < columns; x += 2) {
      for (uint32_t group = 0; group < groups; group++) {
        uint32_t count = channels / groups, first = group * count;
        gather(layer, input, rows, x, group, scratch);
        if (x + 1 < columns) {
          gather(layer, input, rows, x + 1, group, scratch + depth);
          tn_matmul_two_s8(layer, first, count, depth, scratch, output);
        } else {
          tn_matmul_one_s8(layer, first, count, depth, scratch, output);
        }
      }
      output += (x + 1 < columns ? 2 : 1) * channels;
    }
  }
}
