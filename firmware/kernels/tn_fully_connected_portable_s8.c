#if !(defined(__ARM_FEATURE_DSP) && defined(__ARM_FP))

#include "tn_fully_connected_dsp.h"
#include "tn_internal.h"

/* 256 times the products of a word of weights with its inputs, four or fewer, of which the even ones are 128 larger
 * than stored. */
static uint32_t products(uint32_t word, const int8_t *input, uint32_t inputs) {
  int32_t low = (int16_t)word, high = (int16_t)(word >> 16); /* 256 w0 - w1, w3 - 256 w2 */
  int32_t minus_w1 = (int8_t)low, w3 = (int8_t)high;
  int32_t weights[4] = {(low - minus_w1) / 256, -minus_w1, (w3 - high) / 256, w3};
  int32_t sum = 0;
  for (uint32_t i = 0; i < inputs; i++) sum += weights[i] * (input[i] + (i % 2 ? 0 : 128));
  return 256 * (uint32_t)sum;
}

/* One output, from what the stream holds of its channel: every word is size words after the one before it. */
static int8_t channel(const tn_fully_connected_dsp_layer *layer, const uint32_t *stream, uint32_t size,
                      const int8_t *input) {
  uint32_t whole = layer->inputs / 4, rest = layer->inputs % 4, sum = *stream;
  if (rest) sum += products(*(stream += size), input + 4 * whole, rest);
  for (uint32_t i = 0; i < whole; i++) sum += products(*(stream += size), input + 4 * i, 4);
  int32_t scaled;
  if (layer->multiplier) {
    scaled = ((int32_t)((int64_t)(int32_t)sum * layer->multiplier >> 32) + layer->rounding) >> layer->shift;
  } else {
    int32_t multiplier = (int32_t)stream[size];
    scaled = (int32_t)((int64_t)(int32_t)(sum & ~(uint32_t)255) * multiplier >> 32);
    scaled = ((scaled >> (sum & 255)) + layer->rounding) >> 1;
  }
  return tn_clamp(scaled, layer->minimum, layer->maximum);
}

void tn_fully_connected_dsp_s8(const tn_fully_connected_dsp_layer *layer, const int8_t *input, int8_t *output) {
  const uint32_t sizes[3] = {6, 2, 1}, channel_words = layer->channel_bytes / 4;
  for (uint32_t batch = 0; batch < layer->batches; batch++, input += layer->inputs) {
    const uint32_t *stream = layer->stream;
    for (uint32_t kind = 0; kind < 3; kind++) {
      for (uint32_t group = 0; group < layer->groups[kind]; group++) {
        for (uint32_t c = 0; c < sizes[kind]; c++) *output++ = channel(layer, stream + c, sizes[kind], input);
        stream += sizes[kind] * channel_words;
      }
    }
  }
}

#endif
