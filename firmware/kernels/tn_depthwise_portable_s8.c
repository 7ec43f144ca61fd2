#if !(defined(__ARM_FEATURE_DSP) && defined(__ARM_FP))
#include "tn_depthwise_dsp_internal.h"

/* tn_depthwise_dsp_s8 for all other targets: the same constants, but one output at a time. */
void tn_depthwise_dsp_s8(const tn_depthwise_dsp_layer *layer, const int8_t *input, int8_t *output, int8_t *scratch,
                         uint32_t first, uint32_t rows) {
  const tn_window *w = &layer->window;
  const tn_requantization *r = &layer->requantization;
  const uint32_t channels = layer->output.channels, columns = layer->output.columns;
  const uint32_t taps = (uint32_t)w->kernel_rows * w->kernel_columns;
  const uint32_t weight_bytes = taps % 4 == 1 ? taps : (taps + 3) / 4 * 4;
  const tn_depthwise_source source = {input, layer->input, layer->input_ring, layer->input_planes,
                                      (int8_t)layer->input_zero_point};
  tn_scaling scaling = tn_scaling_of(r);
  (void)scratch;
  for (uint32_t y = first; y < first + rows; y++) {
    const int32_t top = (int32_t)y * w->stride_rows - w->padding_top;
    int8_t *to = output + y % layer->output_ring * columns * channels;
    for (uint32_t c = 0; c < channels; c++) {
      scaling.multiplier = r->multipliers[c];
      scaling.shift = r->shifts[c];
      for (uint32_t x = 0; x < columns; x++) {
        const int32_t left = (int32_t)x * w->stride_columns - w->padding_left;
        const int8_t *weight = layer->weights + c * weight_bytes;
        int32_t sum = layer->bias[c];
        for (int32_t column = 0; column < w->kernel_columns; column++) {
          for (int32_t row = 0; row < w->kernel_rows; row++) {
            sum += *weight++ * tn_depthwise_pixel(&source, top + row, left + column, c);
          }
        }
        to[x * channels + c] = tn_requantize(&scaling, sum);
      }
    }
  }
}

#endif
