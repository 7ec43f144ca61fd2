#include "tn_internal.h"

void tn_pad_generic_s8(const tn_pad_layer *layer, const int8_t *input, int8_t *output, uint32_t first, uint32_t rows) {
  const uint32_t channels = layer->input.channels, wide = layer->output.channels;
  const uint32_t columns = layer->input.columns, row_bytes = layer->output.columns * wide;
  for (uint32_t y = first; y < first + rows; y++) {
    int8_t *to = output + y % layer->output_ring * row_bytes;
    if (y < layer->top || y >= (uint32_t)layer->top + layer->input.rows) {
      tn_fill(to, layer->value, row_bytes);
      continue;
    }
    const int8_t *from = input + (y - layer->top) % layer->input_ring * columns * channels;
    tn_fill(to, layer->value, layer->left * wide);
    to += layer->left * wide;
    for (uint32_t x = 0; x < columns; x++) {
      tn_fill(to, layer->value, layer->front);
      tn_copy(to + layer->front, from, channels);
      tn_fill(to + layer->front + channels, layer->value, wide - layer->front - channels);
      from += channels;
      to += wide;
    }
    tn_fill(to, layer->value, row_bytes - (layer->left + columns) * wide);
  }
}
