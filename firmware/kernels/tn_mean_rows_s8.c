#include "tn_internal.h"

void tn_mean_rows_s8(const tn_mean_rows_layer *layer, const int8_t *input, int8_t *output, int8_t *scratch,
                     uint32_t first, uint32_t rows) {
  int32_t *sums = (int32_t *)(void *)scratch;
  tn_sum_rows_s8(&layer->input, layer->input_ring, input, sums, first, rows);
  if (first + rows < layer->input.rows) return;
  int32_t offset = (int32_t)layer->input.rows * layer->input.columns * layer->input_zero_point;
  for (uint32_t c = 0; c < layer->input.channels; c++) {
    int32_t scaled = tn_multiply_any(sums[c] - offset, layer->multiplier, layer->shift);
    *output++ = tn_clamp(scaled + layer->output_zero_point, INT8_MIN, INT8_MAX);
  }
}
