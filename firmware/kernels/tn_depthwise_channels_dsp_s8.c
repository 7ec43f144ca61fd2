#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FP)
#include "tn_depthwise_channels_dsp_internal.h"
#include "tn_depthwise_dsp_internal.h"

void tn_depthwise_channels_dsp_s8(const tn_depthwise_channels_dsp_layer *layer, const int8_t *input, int8_t *output,
                                  int8_t *scratch, uint32_t first, uint32_t rows) {
  const tn_window *w = &layer->window;
  const uint32_t channels = layer->input.channels, kernel_rows = w->kernel_rows;
  const uint32_t in_bytes = layer->input.columns * channels, out_bytes = layer->output.columns * channels;
  const int8_t **taps = (const int8_t **)(void *)scratch, **taps_end = taps + layer->taps;
  const uint32_t zero_point = (uint8_t)layer->input_zero_point * 0x01010101u;
  uint32_t *zero_points = (uint32_t *)(void *)taps_end;
  tn_depthwise_channels_row row = {
      .taps = taps,
      .columns = layer->input.columns,
      .outside = (const int8_t *)taps_end,
      .row_bytes = in_bytes,
      .ring_end = input + layer->input_ring * in_bytes,
      .ring_bytes = layer->input_ring * in_bytes,
      .kernel_columns = w->kernel_columns,
      .channels = channels,
      .taps_end = taps_end,
      .groups = layer->groups,
      .last_group = channels - 4,
      .rounding = 2 * layer->output_zero_point + 1,
      .stride = w->stride_columns,
      .stride_bytes = w->stride_columns * channels,
  };
  /* Taps that are added to the window's. */
  taps_end[-1] = taps_end[-2] = row.outside;
  for (uint32_t c = 0; c < channels; c += 4) *zero_points++ = zero_point;
  for (uint32_t y = first; rows; y++, rows--) {
    const int32_t top = (int32_t)(y * w->stride_rows) - w->padding_top, below = layer->input.rows - top;
    const uint32_t before = top < 0 ? (uint32_t)-top : 0;
    const uint32_t end = below < (int32_t)kernel_rows ? (uint32_t)below : kernel_rows;
    row.before = before;
    row.inside = end - before;
    row.after = kernel_rows - end;
    row.column = 0u - w->padding_left;
    row.corner = input + ((uint32_t)top + before) % layer->input_ring * in_bytes - w->padding_left * channels;
    row.outputs = layer->output.columns;
    row.output = output + y % layer->output_ring * out_bytes;
    int8_t *const to = row.output;
    tn_depthwise_channels_row_dsp_s8(&row);
    if (layer->minimum > -128 || layer->maximum < 127) {
      tn_depthwise_clamp_dsp_s8(to, out_bytes, layer->minimum, layer->maximum);
    }
  }
}

#endif
