#include "tn_internal.h"

void tn_pool_global_s8(const tn_pool_global_layer *layer, const int8_t *input, int8_t *output, int8_t *scratch,
                       uint32_t first, uint32_t rows) {
  int32_t *sums = (int32_t *)(void *)scratch;
  tn_sum_rows_s8(&layer->input, layer->input_ring, input, sums, first, rows);
  if (first + rows < layer->input.rows) return;
  int32_t count = (int32_t)layer->input.rows * layer->input.columns;
  for (uint32_t c = 0; c < layer->input.channels; c++) {
    *output++ = tn_average(sums[c], count, layer->minimum, layer->maximum);
  }
}
