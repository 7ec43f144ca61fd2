#include "tn_fully_connected_dsp.h"

#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FP)

#include <string.h>

#include "tn_internal.h"

void tn_fully_connected_dsp_s8(const tn_fully_connected_dsp_layer *layer, const int8_t *input, int8_t *output) {
  uint32_t inputs = layer->inputs, rest = inputs & 3;
  tn_fully_connected_dsp_batch batch;
  batch.output = output;
  batch.minus_words = -((inputs + 3) / 4);
  batch.entry = (rest ? TN_FULLY_CONNECTED_DSP_LOAD_BYTES : 0) + 1;
  for (uint32_t n = layer->batches; n; n--) {
    batch.input = input;
    memcpy(&batch.last, input + inputs - 4, sizeof batch.last);
    batch.last >>= (-rest & 3) * 8;
    batch.end = input + inputs - rest;
    tn_fully_connected_batch_dsp_s8(&batch, layer);
    input += inputs;
    batch.output += layer->outputs;
  }
  if (layer->minimum > INT8_MIN || layer->maximum < INT8_MAX) {
    for (; output != batch.output; output++) *output = tn_clamp(*output, layer->minimum, layer->maximum);
  }
}

#endif
