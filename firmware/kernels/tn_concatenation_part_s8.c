#include "tn_internal.h"

void tn_concatenation_part_s8(const tn_concatenation_layer *layer, const int8_t *input, int8_t *output) {
  for (uint32_t n = layer->outer; n; n--) {
    tn_copy(output, input, layer->inner_bytes);
    input += layer->inner_bytes;
    output += layer->output_stride_bytes;
  }
}
