#include "tn_internal.h"

/* Writes the input window of one output pixel and group as one vector, with the zero point where it lies outside.
 * inside: the rows of the window that lie within the input, and where. */
static void gather(const tn_conv_layer *layer, const int8_t *input, const tn_taps *inside, const tn_ring_rows *rows,
                   uint32_t x, uint32_t group, int8_t *to) {
  const tn_window *w = &layer->window;
  uint32_t stride = layer->input.channels, depth = stride / layer->groups;
  tn_taps columns = tn_clip((int32_t)x, w->stride_columns, w->padding_left, w->kernel_columns, w->dilation_columns,
                            layer->input.columns);
  uint32_t row = rows->first;
  for (int32_t ky = 0; ky < w->kernel_rows; ky++) {
    if (ky < inside->first || ky >= inside->last || columns.first == columns.last) {
      tn_fill(to, (int8_t)layer->input_zero_point, w->kernel_columns * depth);
      to += w->kernel_columns * depth;
      continue;
    }
    uint32_t before = (uint32_t)columns.first * depth, after = (uint32_t)(w->kernel_columns - columns.last) * depth;
    uint32_t column = (uint32_t)(columns.origin + columns.first * w->dilation_columns);
    const int8_t *from = input + row + column * stride + group * depth;
    row = tn_next_row(rows, row);
    tn_fill(to, (int8_t)layer->input_zero_point, before);
    to += before;
    if (w->dilation_columns == 1 && layer->groups == 1) {
      uint32_t bytes = (uint32_t)(columns.last - columns.first) * depth;
      tn_copy(to, from, bytes);
      to += bytes;
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

void tn_conv_generic_s8(const tn_conv_layer *layer, const int8_t *input, int8_t *output, int8_t *scratch,
                        uint32_t first, uint32_t rows) {
  const tn_window *w = &layer->window;
  const uint32_t channels = layer->output.channels, columns = layer->output.columns, groups = layer->groups;
  const uint32_t depth = (uint32_t)w->kernel_rows * w->kernel_columns * (layer->input.channels / groups);
  const uint32_t row_bytes = (uint32_t)layer->input.columns * layer->input.channels, count = channels / groups;
  const tn_dense dense = {layer->weights, layer->bias, &layer->requantization, depth, channels};
  for (uint32_t y = first; y < first + rows; y++) {
    tn_taps inside =
        tn_clip((int32_t)y, w->stride_rows, w->padding_top, w->kernel_rows, w->dilation_rows, layer->input.rows);
    tn_ring_rows ring = tn_rows_of(&inside, w->dilation_rows, layer->input_ring, row_bytes);
    int8_t *to = output + y % layer->output_ring * columns * channels;
    for (uint32_t x = 0; x < columns; x += 2) {
      for (uint32_t group = 0; group < groups; group++) {
        gather(layer, input, &inside, &ring, x, group, scratch);
        if (x + 1 < columns) {
          gather(layer, input, &inside, &ring, x + 1, group, scratch + depth);
          tn_matmul_two_s8(&dense, group * count, count, scratch, to);
        } else {
          tn_matmul_one_s8(&dense, group * count, count, scratch, to);
        }
      }
      to += 2 * channels;
    }
  }
}
