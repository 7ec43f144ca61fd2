#include "tn_internal.h"

/* What stays the same while an output row is computed; copied from the layer, which an int8 store may alias. */
typedef struct {
  const int8_t *input, *weights;
  const int32_t *bias, *multipliers;
  const int8_t *shifts;
  int32_t zero_point;
  uint32_t channels, multiplier, output_channels;
  uint32_t kernel_columns, tap_step, row_step, pixel_step;
  uint32_t rows_inside, taps_above, taps_below;
  tn_scaling scaling;
} row_state;

/* Outputs of one pixel from the taps [first, last) of its columns, the first of which is at input + corner; all others
 * lie outside of the input, and read the zero point. */
static void one_pixel(const row_state *state, uint32_t corner, uint32_t first, uint32_t last, int8_t *output) {
  row_state s = *state;
  const int8_t *source = s.input + corner;
  uint32_t inside = last - first, right = s.kernel_columns - last;
  for (uint32_t channels = s.channels; channels; channels--, source++) {
    for (uint32_t m = s.multiplier; m; m--) {
      int32_t sum = *s.bias++, outside = 0;
      for (uint32_t n = s.taps_above; n; n--) outside += *s.weights++;
      const int8_t *row = source;
      for (uint32_t rows = s.rows_inside; rows; rows--) {
        const int8_t *tap = row;
        for (uint32_t n = first; n; n--) outside += *s.weights++;
        for (uint32_t n = inside; n; n--) {
          sum += *tap * *s.weights++;
          tap += s.tap_step;
        }
        for (uint32_t n = right; n; n--) outside += *s.weights++;
        row += s.row_step;
      }
      for (uint32_t n = s.taps_below; n; n--) outside += *s.weights++;
      s.scaling.multiplier = *s.multipliers++;
      s.scaling.shift = *s.shifts++;
      *output++ = tn_requantize(&s.scaling, sum + outside * s.zero_point);
    }
  }
}

/* Outputs of four neighbouring pixels none of whose windows reaches over the left or right border. */
static void four_pixels(const row_state *state, uint32_t corner, int8_t *output) {
  row_state s = *state;
  const int8_t *source = s.input + corner;
  for (uint32_t channels = s.channels; channels; channels--, source++) {
    for (uint32_t m = s.multiplier; m; m--) {
      int32_t outside = 0;
      for (uint32_t n = s.taps_above; n; n--) outside += *s.weights++;
      int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
      const int8_t *row = source, *weights = s.weights;
      for (uint32_t rows = s.rows_inside; rows; rows--) {
        const int8_t *tap = row;
        for (uint32_t n = s.kernel_columns; n; n--) {
          int32_t weight = *weights++;
          s0 += tap[0] * weight;
          s1 += tap[s.pixel_step] * weight;
          s2 += tap[2 * s.pixel_step] * weight;
          s3 += tap[3 * s.pixel_step] * weight;
          tap += s.tap_step;
        }
        row += s.row_step;
      }
      s.weights = weights;
      for (uint32_t n = s.taps_below; n; n--) outside += *s.weights++;
      int32_t start = *s.bias++ + outside * s.zero_point;
      s.scaling.multiplier = *s.multipliers++;
      s.scaling.shift = *s.shifts++;
      int8_t *to = output++;
      tn_requantize_two(&s.scaling, s0 + start, s1 + start, to, to + s.output_channels);
      to += 2 * s.output_channels;
      tn_requantize_two(&s.scaling, s2 + start, s3 + start, to, to + s.output_channels);
    }
  }
}

void tn_depthwise_generic_s8(const tn_depthwise_layer *layer, const int8_t *input, int8_t *output) {
  const tn_window *w = &layer->window;
  const tn_requantization *r = &layer->requantization;
  const uint32_t row_bytes = (uint32_t)layer->input.columns * layer->input.channels;
  row_state state = {
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
      .row_step = w->dilation_rows * row_bytes,
      .pixel_step = (uint32_t)w->stride_columns * layer->input.channels,
      .scaling = tn_scaling_of(r),
  };
  /* Output columns [inner, inner_end) need no tap beyond the left and right border. */
  const int32_t stride = w->stride_columns, columns = layer->output.columns;
  const int32_t room =
      layer->input.columns - 1 - (w->kernel_columns - 1) * w->dilation_columns + w->padding_left; /* for x * stride */
  int32_t inner = (w->padding_left + stride - 1) / stride, inner_end = room < 0 ? 0 : room / stride + 1;
  if (inner_end > columns) inner_end = columns;
  for (int32_t y = 0; y < layer->output.rows; y++) {
    tn_taps rows = tn_clip(y, w->stride_rows, w->padding_top, w->kernel_rows, w->dilation_rows, layer->input.rows);
    state.input = input + (uint32_t)(rows.origin + rows.first * w->dilation_rows) * row_bytes;
    state.rows_inside = (uint32_t)(rows.last - rows.first);
    state.taps_above = (uint32_t)rows.first * w->kernel_columns;
    state.taps_below = (uint32_t)(w->kernel_rows - rows.last) * w->kernel_columns;
    int32_t x = 0;
    while (x < columns) {
      if (x >= inner && x < inner_end && inner_end - inner >= 4) {
        /* The last four may overlap those before: to compute a pixel again costs less than to compute it alone. */
        int32_t start = x + 4 <= inner_end ? x : inner_end - 4;
        uint32_t corner = (uint32_t)(start * stride - w->padding_left) * layer->input.channels;
        four_pixels(&state, corner, output + (uint32_t)start * state.output_channels);
        x = start + 4;
      } else {
        tn_taps taps =
            tn_clip(x, stride, w->padding_left, w->kernel_columns, w->dilation_columns, layer->input.columns);
        uint32_t corner = (uint32_t)(taps.origin + taps.first * w->dilation_columns) * layer->input.channels;
        one_pixel(&state, corner, (uint32_t)taps.first, (uint32_t)taps.last,
                  output + (uint32_t)x * state.output_channels);
        x++;
      }
    }
    output += (uint32_t)columns * state.output_channels;
  }
}
