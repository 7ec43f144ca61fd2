#include "tn_conv_dsp.h"

#if !(defined(__ARM_FEATURE_DSP) && defined(__ARM_FP))

#include "tn_internal.h"

/* One pixel's window in the order in which its weights are packed: run by run, whole words first, what is left of all
 * runs behind them. Bytes of the last word for which there is no tap have weights of 0, and may be anything. */
static void gather(const tn_conv_dsp_layer *layer, const int8_t *input, int32_t y, int32_t x, int8_t *to) {
  const tn_window *w = &layer->window;
  const int32_t channels = layer->input.channels, row_bytes = layer->input.columns * channels;
  const int32_t tail = layer->run_bytes % 4, whole = layer->run_bytes - tail;
  int8_t *tails = to + w->kernel_rows * layer->runs_per_row * whole;
  for (int32_t ky = 0; ky < w->kernel_rows; ky++) {
    int32_t row = y * w->stride_rows - w->padding_top + ky * w->dilation_rows;
    int inside = row >= 0 && row < layer->input.rows;
    const int8_t *from = inside ? input + row % layer->input_ring * row_bytes : input;
    int32_t offset = (x * w->stride_columns - w->padding_left) * channels; /* of the run's first byte in the row */
    for (int32_t run = 0; run < layer->runs_per_row; run++) {
      for (int32_t i = offset; i < offset + layer->run_bytes; i++) {
        int8_t value = inside && i >= 0 && i < row_bytes ? from[i] : layer->input_zero_point;
        if (i - offset < whole) {
          *to++ = value;
        } else {
          *tails++ = value;
        }
      }
      offset += w->dilation_columns * channels;
    }
  }
}

/* 256 times the sum of four inputs' products with the weights in one word, where 128 is added to inputs 0 and 2. */
static inline uint32_t products(const int8_t *inputs, uint32_t weights) {
  int32_t low = (int16_t)(weights & 0xFFFF), high = (int16_t)(weights >> 16);
  int32_t w1 = -(int8_t)(weights & 0xFF), w3 = (int8_t)(weights >> 16 & 0xFF);
  int32_t w0 = (low + w1) / 256, w2 = (w3 - high) / 256;
  return (uint32_t)(256 * (w0 * (inputs[0] + 128) + w1 * inputs[1] + w2 * (inputs[2] + 128) + w3 * inputs[3]));
}

/* Outputs of one pixel. Sums may leave 32 bits on the way, and wrap around; at the end they fit. */
static void multiply(const tn_conv_dsp_layer *layer, const int8_t *window, int8_t *output, uint32_t channel_step) {
  const uint32_t *stream = layer->stream, *stream_end = stream + layer->stream_words;
  for (uint32_t channel = 0; stream < stream_end; channel += 2) {
    uint32_t sums[2] = {stream[0], stream[1]};
    stream += 2;
    for (uint32_t step = 0; step < layer->steps; step++) {
      sums[0] += products(window + 4 * step, stream[0]);
      sums[1] += products(window + 4 * step, stream[1]);
      stream += 2;
    }
    int two_roundings = stream[0] >> 31;
    if (channel + 1 == layer->output.channels) channel--; /* an odd one, paired with the one before */
    for (uint32_t i = 0; i < 2; i++) {
      int32_t sum = (int32_t)sums[i];
      int64_t product = (int64_t)sum * (stream[i] & 0x7FFFFFFF);
      int64_t value;
      if (two_roundings) {
        value = ((product >> 32) + (int32_t)stream[2 + i] - (sum < 0 ? 128 : 0)) >> (stream[4] >> 8 * i & 0xFF);
      } else {
        value = product >> 44;
      }
      output[(channel + i) * channel_step] = tn_clamp((int32_t)value, layer->minimum, layer->maximum);
    }
    stream += two_roundings ? 5 : 2;
  }
}

void tn_conv_dsp_s8(const tn_conv_dsp_layer *layer, const int8_t *input, int8_t *output, int8_t *scratch,
                    uint32_t first, uint32_t rows) {
  const uint32_t columns = layer->output.columns, channels = layer->output.channels;
  const uint32_t pixel_step = layer->output_planes ? 1 : channels, channel_step = layer->output_planes ? columns : 1;
  for (uint32_t y = first; y < first + rows; y++) {
    int8_t *to = output + y % layer->output_ring * columns * channels;
    for (uint32_t x = 0; x < columns; x++) {
      gather(layer, input, (int32_t)y, (int32_t)x, scratch);
      multiply(layer, scratch, to + x * pixel_step, channel_step);
    }
  }
}

#endif
