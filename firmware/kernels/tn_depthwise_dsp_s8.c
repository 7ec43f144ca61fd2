#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FP)
#include "tn_depthwise_dsp_internal.h"

/* A channel's columns are gathered so that its rows alternate: then a window is one run of bytes. */
void tn_depthwise_dsp_s8(const tn_depthwise_dsp_layer *layer, const int8_t *input, int8_t *output, int8_t *scratch,
                         uint32_t first, uint32_t rows) {
  const tn_window *w = &layer->window;
  const tn_requantization *r = &layer->requantization;
  const uint32_t channels = layer->input.channels, in_columns = layer->input.columns;
  const uint32_t out_columns = layer->output.columns;
  const uint32_t in_bytes = in_columns * channels, out_bytes = out_columns * channels;
  const uint32_t kernel_rows = w->kernel_rows, taps = kernel_rows * w->kernel_columns;
  const uint32_t padded_columns = (out_columns - 1) * w->stride_columns + w->kernel_columns;
  const uint32_t inside = padded_columns - w->padding_left;
  const uint32_t columns = inside < in_columns ? inside : in_columns;
  const uint32_t single = (taps & 3) == 1, word_bytes = (taps + 2) & ~(uint32_t)3;
  const uint32_t from_step = layer->input_planes ? 1 : channels;
  const uint32_t channel_step = layer->input_planes ? in_columns : 1;
  tn_depthwise_window_row row = {
      .pixels = scratch,
      .step = w->stride_columns * kernel_rows,
      .three_steps = 3 * w->stride_columns * kernel_rows,
      .single = single,
      .output_step = channels,
      .count = out_columns,
  };
  for (uint32_t y = first; rows; y++, rows--) {
    const tn_taps taps_inside =
        tn_clip((int32_t)y, w->stride_rows, w->padding_top, (int32_t)kernel_rows, 1, layer->input.rows);
    int8_t *to = output + y % layer->output_ring * out_bytes;
    tn_fill(scratch, (int8_t)layer->input_zero_point, padded_columns * kernel_rows);
    row.weights = layer->weights;
    row.output = to;
    /* The rows inside of the input are one run of the ring, or two. */
    const uint32_t inside_rows = (uint32_t)(taps_inside.last - taps_inside.first);
    const uint32_t slot = (uint32_t)(taps_inside.origin + taps_inside.first) % layer->input_ring;
    const uint32_t to_end = layer->input_ring - slot;
    const uint32_t run = inside_rows < to_end ? inside_rows : to_end;
    const int8_t *from = input + slot * in_bytes, *rest = input;
    int8_t *gathered = scratch + w->padding_left * kernel_rows + (uint32_t)taps_inside.first;
    for (uint32_t c = 0; c < channels; c++) {
      if (run) tn_depthwise_spread_dsp_s8(from, from_step, gathered, kernel_rows, columns, run, in_bytes);
      if (inside_rows > run) {
        tn_depthwise_spread_dsp_s8(rest, from_step, gathered + run, kernel_rows, columns, inside_rows - run, in_bytes);
      }
      from += channel_step;
      rest += channel_step;
      const uint32_t exponent = (uint32_t)-r->shifts[c];
      row.weights_end = row.weights + word_bytes;
      row.bias = layer->bias[c];
      row.multiplier = r->multipliers[c];
      row.shift = (int32_t)exponent + 7;
      row.rounding = 64 + (int32_t)((uint32_t)r->output_zero_point << (exponent + 7));
      row.correction = 0;
      if (exponent) {
        row.rounding += 64 << exponent;
        row.correction = 128;
      }
      tn_depthwise_window_dsp_s8(&row);
      row.weights = row.weights_end + single;
      row.output++;
    }
    if (r->minimum > -128 || r->maximum < 127) tn_depthwise_clamp_dsp_s8(to, out_bytes, r->minimum, r->maximum);
  }
}

#endif
