#if !(defined(__ARM_FEATURE_DSP) && defined(__ARM_FP))
#include "tn_depthwise_dsp_internal.h"

/* The 3x3 kernels of tn_depthwise_dsp.h for all other targets: the same constants, but one output at a time. */

enum { CHANNEL_WORDS = 5, BIAS = 3, MULTIPLIER = 4 };

/* Weights, multiplied as the channel's rounding needs them. */
static void unpack(const int32_t *channel, int32_t weights[3][3]) {
  static const uint8_t bytes[3][3] = {{1, 0, 5}, {3, 2, 7}, {6, 4, 11}};
  const int32_t unit = channel[MULTIPLIER] < 0 ? 1 : 256;
  for (uint32_t row = 0; row < 3; row++) {
    for (uint32_t column = 0; column < 3; column++) {
      const uint32_t byte = bytes[row][column];
      weights[row][column] = unit * (int8_t)((uint32_t)channel[byte / 4] >> byte % 4 * 8 & 0xFF);
    }
  }
}

static void compute(const tn_depthwise_3x3_dsp_layer *layer, const int8_t *input, int8_t *output, uint32_t first,
                    uint32_t rows) {
  const tn_window *w = &layer->window;
  const uint32_t channels = layer->output.channels, columns = layer->output.columns;
  const tn_depthwise_source source = {input, layer->input, layer->input_ring, layer->input_planes,
                                      (int8_t)layer->input_zero_point};
  for (uint32_t y = first; y < first + rows; y++) {
    const int32_t top = (int32_t)y * w->stride_rows - w->padding_top;
    int8_t *to = output + y % layer->output_ring * columns * channels;
    for (uint32_t c = 0; c < channels; c++) {
      const int32_t *channel = layer->channels + c * CHANNEL_WORDS;
      const int32_t multiplier = channel[MULTIPLIER] & INT32_MAX;
      int32_t weights[3][3];
      unpack(channel, weights);
      for (uint32_t x = 0; x < columns; x++) {
        const int32_t left = (int32_t)x * w->stride_columns - w->padding_left;
        int64_t sum = channel[BIAS];
        for (int32_t row = 0; row < 3; row++) {
          for (int32_t column = 0; column < 3; column++) {
            sum += weights[row][column] * tn_depthwise_pixel(&source, top + row, left + column, c);
          }
        }
        /* The sum has 32 bits, as export/kernels/single_rounding.py has seen to. */
        to[x * channels + c] = tn_clamp((int32_t)(sum * multiplier >> 42), layer->minimum, layer->maximum);
      }
    }
  }
}

void tn_depthwise_3x3_dsp_s8(const tn_depthwise_3x3_dsp_layer *layer, const int8_t *input, int8_t *output,
                             int8_t *scratch, uint32_t first, uint32_t rows) {
  (void)scratch;
  compute(layer, input, output, first, rows);
}

void tn_depthwise_3x3_narrow_dsp_s8(const tn_depthwise_3x3_dsp_layer *layer, const int8_t *input, int8_t *output,
                                    int8_t *scratch, uint32_t first, uint32_t rows) {
  (void)scratch;
  compute(layer, input, output, first, rows);
}

void tn_depthwise_3x3_stride2_dsp_s8(const tn_depthwise_3x3_dsp_layer *layer, const int8_t *input, int8_t *output,
                                     int8_t *scratch, uint32_t first, uint32_t rows) {
  (void)scratch;
  compute(layer, input, output, first, rows);
}

#endif
