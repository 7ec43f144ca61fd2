#if !(defined(__ARM_FEATURE_DSP) && defined(__ARM_FP))

#include "tn_depthwise_channels_dsp.h"
#include "tn_internal.h"

#define GROUP_CHANNELS 4

/* Of one of a group's channels. The first tap's weights are a word; a pair of taps has two, of two channels each. */
static int32_t weight(const int32_t *group, uint32_t tap, uint32_t channel) {
  uint32_t word = 0, byte = channel;
  if (tap) {
    word = 1 + (tap - 1) / 2 * 2 + channel / 2;
    byte = (tap - 1) % 2 * 2 + channel % 2;
  }
  return (int8_t)((uint32_t)group[word] >> 8 * byte);
}

/* The products of the window whose first tap is at (top, left), where those outside of the input read the zero point.
 */
static uint32_t products(const tn_depthwise_channels_dsp_layer *layer, const int32_t *group, const int8_t *input,
                         int32_t top, int32_t left, uint32_t first_channel, uint32_t channel) {
  const tn_shape *shape = &layer->input;
  const int32_t rows = layer->window.kernel_rows, columns = layer->window.kernel_columns;
  int32_t sum = 0;
  uint32_t tap = 0;
  for (int32_t x = left; x < left + columns; x++) {
    for (int32_t y = top; y < top + rows; y++, tap++) {
      int32_t value = layer->input_zero_point;
      if (y >= 0 && y < shape->rows && x >= 0 && x < shape->columns) {
        uint32_t pixel = (uint32_t)y % layer->input_ring * shape->columns + (uint32_t)x;
        value = input[pixel * shape->channels + first_channel + channel];
      }
      sum += value * weight(group, tap, channel);
    }
  }
  return (uint32_t)sum;
}

static int8_t requantize(const tn_depthwise_channels_dsp_layer *layer, const int32_t *group, uint32_t channel,
                         uint32_t sum) {
  const int32_t *finish = group + layer->taps;
  const uint32_t shifts = (uint32_t)finish[0], bias = (uint32_t)finish[1 + 2 * channel];
  const int32_t multiplier = finish[2 + 2 * channel];
  int64_t scaled;
  if (shifts == 0) {
    scaled = (int64_t)(int32_t)(256 * sum + bias) * multiplier >> (32 + 10);
  } else {
    /* The shift less one; halves are rounded away from zero. */
    const uint32_t shift = shifts >> 8 * channel & 255;
    const int64_t rounding = (2 * layer->output_zero_point + 1) * ((int64_t)1 << shift);
    sum += bias;
    scaled = (int64_t)(int32_t)(256 * sum) * multiplier >> 32;
    scaled = (scaled + rounding + ((int32_t)sum < 0 ? -64 : 64)) >> shift >> 1;
  }
  return tn_clamp((int32_t)scaled, layer->minimum, layer->maximum);
}

void tn_depthwise_channels_dsp_s8(const tn_depthwise_channels_dsp_layer *layer, const int8_t *input, int8_t *output,
                                  int8_t *scratch, uint32_t first, uint32_t rows) {
  const tn_window *w = &layer->window;
  const uint32_t channels = layer->output.channels, group_words = layer->taps + 1 + 2 * GROUP_CHANNELS;
  (void)scratch;
  for (uint32_t y = first; y < first + rows; y++) {
    const int32_t top = (int32_t)(y * w->stride_rows) - w->padding_top;
    int8_t *pixel = output + y % layer->output_ring * layer->output.columns * channels;
    for (uint32_t x = 0; x < layer->output.columns; x++, pixel += channels) {
      const int32_t left = (int32_t)(x * w->stride_columns) - w->padding_left;
      const int32_t *group = layer->groups;
      for (uint32_t end = channels; end; group += group_words) {
        const uint32_t from = end > GROUP_CHANNELS ? end - GROUP_CHANNELS : 0;
        for (uint32_t c = 0; c < GROUP_CHANNELS; c++) {
          uint32_t sum = products(layer, group, input, top, left, from, c);
          pixel[from + c] = requantize(layer, group, c, sum);
        }
        end = from;
      }
    }
  }
}

#endif
