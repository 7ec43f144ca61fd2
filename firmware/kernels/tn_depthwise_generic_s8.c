#include "tn_internal.h"

void tn_depthwise_generic_s8(const tn_depthwise_layer *layer, const int8_t *input, int8_t *output, uint32_t first,
                             uint32_t rows) {
  const tn_window *w = &layer->window;
  const tn_requantization *r = &layer->requantization;
  const uint32_t row_bytes = (uint32_t)layer->input.columns * layer->input.channels;
  tn_depthwise_row state = {
      .input = input,
      .weights = layer->weights,
      .bias = layer->bias,
      .multipliers = r->multipliers,
      .shifts = r->shifts,
      .zero_point = layer->input_zero_point,
      .channels = layer->input.channels,
      .multiplier = layer->multiplier,
      .output_channels = layer->output.channels,
      .kernel_columns = w->kernel_columns,
      .tap_step = (uint32_t)w->dilation_columns * layer->input.channels,
      .pixel_step = (uint32_t)w->stride_columns * layer->input.channels,
      .scaling = tn_scaling_of(r),
  };
  /* Output columns [inner, inner_end) need no tap beyond the left and right border. */
  const int32_t stride = w->stride_columns, columns = layer->output.columns;
  const int32_t room =
      layer->input.columns - 1 - (w->kernel_columns - 1) * w->dilation_columns + w->padding_left; /* for x * stride */
  int32_t inner = (w->padding_left + stride - 1) / stride, inner_end = room < 0 ? 0 : room / stride + 1;
  if (inner_end > columns) inner_end = columns;
  for (uint32_t y = first; y < first + rows; y++) {
    tn_taps inside =
        tn_clip((int32_t)y, w->stride_rows, w->padding_top, w->kernel_rows, w->dilation_rows, layer->input.rows);
    state.rows = tn_rows_of(&inside, w->dilation_rows, layer->input_ring, row_bytes);
    state.rows_inside = (uint32_t)(inside.last - inside.first);
    state.taps_above = (uint32_t)inside.first * w->kernel_columns;
    state.taps_below = (uint32_t)(w->kernel_rows - inside.last) * w->kernel_columns;
    int8_t *to = output + y % layer->output_ring * (uint32_t)columns * state.output_channels;
    int32_t x = 0;
    while (x < columns) {
      if (x >= inner && x < inner_end && inner_end - inner >= 4) {
        /* The last four may overlap those before: to compute a pixel again costs less than to compute it alone. */
        int32_t start = x + 4 <= inner_end ? x : inner_end - 4;
        uint32_t corner = (uint32_t)(start * stride - w->padding_left) * layer->input.channels;
        tn_depthwise_four_s8(&state, corner, to + (uint32_t)start * state.output_channels);
        x = start + 4;
      } else {
        tn_taps taps =
            tn_clip(x, stride, w->padding_left, w->kernel_columns, w->dilation_columns, layer->input.columns);
        uint32_t corner = (uint32_t)(taps.origin + taps.first * w->dilation_columns) * layer->input.channels;
        tn_depthwise_one_s8(&state, corner, (uint32_t)taps.first, (uint32_t)taps.last,
                            to + (uint32_t)x * state.output_channels);
        x++;
      }
    }
  }
}
