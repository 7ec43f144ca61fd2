#include "tn_internal.h"

void tn_pad_generic_s8(const tn_pad_layer *layer, const int8_t *input, int8_t *output) {
  uint32_t channels = layer->input.channels, wide = layer->output.channels;
  uint32_t right = (uint32_t)layer->output.columns - layer->left - layer->input.columns;
  for (uint32_t y = 0; y < layer->output.rows; y++) {
    if (y < layer->top || y >= (uint32_t)layer->top + layer->input.rows) {
      tn_fill(output, layer->value, layer->output.columns * wide);
      output += layer->output.columns * wide;
      continue;
    }
    tn_fill(output, layer->value, layer->left * wide);
    output += layer->left * wide;
    for (uint32_t x = 0; x < layer->input.columns; x++) {
      tn_fill(output, layer->value, layer->front);
      tn_copy(output + layer->front, input, channels);
      tn_fill(output + layer->front + channels, layer->value, wide - layer->front - channels);
      input += channels;
      output += wide;
    }
    tn_fill(output, layer->value, right * wide);
    output += right * wide;
  }
}
