#include "tn_internal.h"

void tn_quantize_float_s8(const tn_affine_layer *layer, const float *input, int8_t *output) {
  for (uint32_t i = 0; i < layer->elements; i++) {
    float ratio = input[i] / layer->scale;
    /* Cut far beyond the int8 range, where every value is clamped alike, so that the conversion cannot overflow. */
    if (ratio > 1024.0f) ratio = 1024.0f;
    if (ratio < -1024.0f) ratio = -1024.0f;
    int32_t whole = (int32_t)ratio;
    float rest = ratio - (float)whole; /* exact */
    if (rest >= 0.5f) whole++;
    if (rest <= -0.5f) whole--;
    output[i] = tn_clamp(whole + layer->zero_point, INT8_MIN, INT8_MAX);
  }
}
