#include "tn_internal.h"

/* Rows are finished one by one, though the map could be treated as one long row: the planner relies on it. */
void tn_conv_1x1_s8(const tn_conv_layer *layer, const int8_t *input, int8_t *output) {
  uint32_t depth = layer->input.channels, channels = layer->output.channels;
  for (uint32_t y = 0; y < layer->output.rows; y++) {
    uint32_t columns = layer->output.columns;
    for (; columns >= 2; columns -= 2) {
      tn_matmul_two_s8(layer, 0, channels, depth, input, output);
      input += 2 * depth;
      output += 2 * channels;
    }
    if (columns) {
      tn_matmul_one_s8(layer, 0, channels, depth, input, output);
      input += depth;
      output += channels;
    }
  }
}
