#include "tn_mve.h"

#if defined(__ARM_FEATURE_MVE)

#include "tn_mve_internal.h"

enum { LANES = 16 };

typedef void run_function(const tn_depthwise_run *run, const int8_t *const *taps);

typedef struct {
  const tn_depthwise_mve_layer *layer;
  tn_depthwise_run run;
  run_function *function;
  const int8_t **rows; /* of the window, null where it lies outside of the input */
  const int8_t **taps;
  int8_t *vectors; /* aligned */
  uint32_t channels, taps_count;
} depthwise_state;

/* The rows of the window are laid side by side, padded, so that all taps of 16 successive outputs are 16 bytes. */
static void flat_row(depthwise_state *s, int8_t *output) {
  const tn_depthwise_mve_layer *layer = s->layer;
  const tn_window *w = &layer->window;
  uint32_t channels = s->channels, outputs = layer->output.columns * channels;
  uint32_t tap_step = w->dilation_columns * channels, before = w->padding_left * channels;
  uint32_t length = outputs + (w->kernel_columns - 1) * tap_step, inside = layer->input.columns * channels;
  if (inside > length - before) inside = length - before;
  int8x16_t outside = vdupq_n_s8((int8_t)layer->input_zero_point);
  int8_t *row = s->vectors;
  const int8_t **taps = s->taps;
  for (uint32_t ky = 0; ky < w->kernel_rows; ky++) {
    if (s->rows[ky]) {
      tn_fill_mve(row, outside, before);
      tn_copy_mve(row + before, s->rows[ky], inside);
      tn_fill_mve(row + before + inside, outside, length - before - inside);
    } else {
      tn_fill_mve(row, outside, length);
    }
    for (uint32_t kx = 0; kx < w->kernel_columns; kx++) *taps++ = row + kx * tap_step;
    row += length;
  }
  s->run.output = output;
  s->run.count = outputs / LANES;
  s->run.offset = 0;
  s->function(&s->run, s->taps);
  if (outputs % LANES) {
    uint32_t last = outputs - LANES;
    for (uint32_t i = 0; i < s->taps_count; i++) s->taps[i] += last;
    s->run.output = output + last;
    s->run.count = 1;
    s->function(&s->run, s->taps);
  }
}

/* All channels of one pixel; at least 16. */
static void pixel(depthwise_state *s, int8_t *output) {
  s->run.block = s->layer->blocks;
  s->run.output = output;
  s->run.count = s->channels / LANES;
  s->function(&s->run, s->taps);
  if (s->channels % LANES) { /* computes some channels again, to the same effect */
    uint32_t last = s->channels - LANES;
    s->run.block += s->run.count * (2 * LANES + LANES / 4 * (s->taps_count + 1));
    s->run.output = output + last;
    s->run.count = 1;
    for (uint32_t i = 0; i < s->taps_count; i++) s->taps[i] += last;
    s->function(&s->run, s->taps);
    for (uint32_t i = 0; i < s->taps_count; i++) s->taps[i] -= last;
  }
}

/* Fewer than 16 channels: their bytes are copied, so that no vector reads beyond the input. */
static void narrow_pixel(depthwise_state *s, int8_t *output) {
  int8_t outputs[LANES], *vector = s->vectors + LANES;
  for (uint32_t i = 0; i < s->taps_count; i++) {
    tn_copy_mve(vector, s->taps[i], s->channels);
    s->taps[i] = vector;
    vector += LANES;
  }
  s->run.output = outputs;
  s->run.count = 1;
  s->function(&s->run, s->taps);
  tn_copy_mve(output, outputs, s->channels);
}

static void set_taps(depthwise_state *s, int32_t origin) {
  const tn_window *w = &s->layer->window;
  const int8_t **taps = s->taps;
  for (uint32_t ky = 0; ky < w->kernel_rows; ky++) {
    const int8_t *row = s->rows[ky];
    int32_t x = origin;
    for (uint32_t kx = w->kernel_columns; kx; kx--) {
      int inside = row && x >= 0 && x < s->layer->input.columns;
      *taps++ = inside ? row + (uint32_t)x * s->channels : s->vectors;
      x += w->dilation_columns;
    }
  }
}

/* Moves those taps that lie in the input from one pixel to the next. */
static void move_taps(depthwise_state *s, uint32_t step) {
  const int8_t **taps = s->taps;
  for (uint32_t ky = 0; ky < s->layer->window.kernel_rows; ky++) {
    uint32_t row_step = s->rows[ky] ? step : 0;
    for (uint32_t kx = s->layer->window.kernel_columns; kx; kx--) *taps++ += row_step;
  }
}

static void wide_row(depthwise_state *s, int8_t *output) {
  const tn_window *w = &s->layer->window;
  int32_t origin = -w->padding_left, stride = w->stride_columns, last_origin = -1; /* of the taps, if all are inside */
  int32_t room = s->layer->input.columns - (w->kernel_columns - 1) * w->dilation_columns;
  for (uint32_t x = s->layer->output.columns; x; x--) {
    if (last_origin >= 0 && origin < room) {
      move_taps(s, w->stride_columns * s->channels);
    } else {
      set_taps(s, origin);
    }
    if (s->channels >= LANES) {
      pixel(s, output);
      last_origin = origin;
    } else {
      narrow_pixel(s, output);
    }
    origin += stride;
    output += s->channels;
  }
}

void tn_depthwise_mve_s8(const tn_depthwise_mve_layer *layer, const int8_t *input, int8_t *output, int8_t *scratch,
                         uint32_t first, uint32_t rows) {
  const tn_window *w = &layer->window;
  depthwise_state s = {
      .layer = layer,
      .run = {.zero_point = layer->output_zero_point, .block = layer->blocks},
      .rows = (const int8_t **)(void *)scratch,
      .channels = layer->input.channels,
      .taps_count = w->kernel_rows * w->kernel_columns,
  };
  s.taps = s.rows + w->kernel_rows;
  s.vectors = (int8_t *)(s.taps + s.taps_count);
  s.run.pairs = s.taps_count / 2;
  s.run.odd = s.taps_count % 2;
  s.run.next_block = layer->flat ? -(int32_t)(9 * LANES + s.taps_count * LANES) : 0;
  tn_fill_mve(s.run.minimum, vdupq_n_s8(layer->minimum), LANES);
  tn_fill_mve(s.run.maximum, vdupq_n_s8(layer->maximum), LANES);
  if (s.taps_count == 9) {
    s.function = layer->away ? tn_depthwise_nine_away_mve_s8 : tn_depthwise_nine_mve_s8;
  } else {
    s.function = layer->away ? tn_depthwise_taps_away_mve_s8 : tn_depthwise_taps_mve_s8;
  }
  if (!layer->flat) tn_fill_mve(s.vectors, vdupq_n_s8((int8_t)layer->input_zero_point), s.channels);
  for (uint32_t y = first; y < first + rows; y++) {
    for (uint32_t ky = 0; ky < w->kernel_rows; ky++) {
      int32_t row = (int32_t)(y * w->stride_rows + ky * w->dilation_rows) - w->padding_top;
      int inside = row >= 0 && row < layer->input.rows;
      uint32_t row_bytes = layer->input.columns * s.channels;
      s.rows[ky] = inside ? input + (uint32_t)row % layer->input_ring * row_bytes : 0;
    }
    int8_t *to = output + y % layer->output_ring * layer->output.columns * s.channels;
    if (layer->flat) {
      flat_row(&s, to);
    } else {
      wide_row(&s, to);
    }
  }
}

#endif
