#include "tn_internal.h"

/* Rows are finished one by one, though the map could be treated as one long row: the planner relies on it. */
void tn_conv_1x1_s8(const tn_conv_1x1_layer *layer, const int8_t *input, int8_t *output) {
  const uint32_t depth = layer->input_channels, channels = layer->output_channels;
  const tn_dense dense = {layer->weights, layer->bias, &layer->requantization, depth, channels};
  for (uint32_t rows = layer->rows; rows; rows--) {
    uint32_t columns = layer->columns;
    for (; columns >= 2; columns -= 2) {
      tn_matmul_two_s8(&dense, 0, channels, input, output);
      input += 2 * depth;
      output += 2 * channels;
    }
    if (columns) {
      tn_matmul_one_s8(&dense, 0, channels, input, output);
      input += depth;
      output += channels;
    }
  }
}
