#if !defined(__ARM_FEATURE_DSP)

#include "tn_add_dsp.h"
#include "tn_internal.h"

void tn_add_dsp_s8(const tn_add_dsp_layer *layer, const int8_t *input_a, const int8_t *input_b, int8_t *output) {
  for (uint32_t i = 0; i < layer->elements; i++) {
    int64_t a = (int64_t)input_a[i] * layer->factors[0] >> 8, b = (int64_t)input_b[i] * layer->factors[1] >> 8;
    output[i] = tn_clamp((int32_t)((a + b + layer->offset) >> 20), layer->minimum, layer->maximum);
  }
}

#endif
