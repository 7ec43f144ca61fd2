#include "tn_internal.h"

void tn_dequantize_float_s8(const tn_affine_layer *layer, const int8_t *input, float *output) {
  for (uint32_t i = 0; i < layer->elements; i++) output[i] = layer->scale * (float)(input[i] - layer->zero_point);
}
