#include "tn_mve.h"

#if defined(__ARM_FEATURE_MVE)

#include "tn_mve_internal.h"

enum { LANES = 16 };

typedef struct {
  const tn_depthwise_mve_layer *layer;
  tn_depthwise_run run;
  void (*compute)(const tn_depthwise_run *run);
  const int8_t **rows; /* of the window, null where it lies outside of the input */
  int32_t *steps;
  int8_t *vectors;
  uint32_t channels;
} depthwise_state;

static uint32_t address(const int8_t *pointer) { return (uint32_t)(uintptr_t)pointer; }

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
  uint32_t *taps = s->run.taps;
  for (uint32_t ky = 0; ky < w->kernel_rows; ky++) {
    if (s->rows[ky]) {
      tn_fill_mve(row, outside, before);
      tn_copy_mve(row + before, s->rows[ky], inside);
      tn_fill_mve(row + before + inside, outside, length - before - inside);
    } else {
      tn_fill_mve(row, outside, length);
    }
    for (uint32_t kx = 0; kx < w->kernel_columns; kx++) *taps++ = address(row + kx * tap_step);
    row += length;
  }
  uint32_t rest = outputs % LANES;
  s->run.output = output;
  s->run.count = outputs / LANES;
  s->run.tail = rest ? (int32_t)rest - LANES : 0;
  s->run.pixels = 1;
  s->compute(&s->run);
}

/* Points the taps at the window that starts at column origin; those outside of the input at the zero point. */
static void set_taps(depthwise_state *s, int32_t origin) {
  const tn_window *w = &s->layer->window;
  uint32_t kernel_rows = w->kernel_rows, kernel_columns = w->kernel_columns;
  uint32x4_t outside = vdupq_n_u32(address(s->vectors));
  for (uint32_t kx = 0; kx < kernel_columns; kx += 4) {
    mve_pred16_t taps = vctp32q(kernel_columns - kx);
    int32x4_t x = vaddq_n_s32(vmulq_n_s32(vreinterpretq_s32_u32(vidupq_n_u32(kx, 1)), w->dilation_columns), origin);
    mve_pred16_t inside = vcmpltq_m_n_s32(x, s->layer->input.columns, vcmpgeq_n_s32(x, 0));
    uint32x4_t offsets = vreinterpretq_u32_s32(vmulq_n_s32(x, (int32_t)s->channels));
    uint32_t *to = s->run.taps + kx;
    for (uint32_t ky = 0; ky < kernel_rows; ky++) {
      uint32x4_t pointers = outside;
      uint32_t row = address(s->rows[ky]);
      if (row) pointers = vpselq_u32(vaddq_n_u32(offsets, row), outside, inside);
      vstrwq_p_u32(to, pointers, taps);
      to += kernel_columns;
    }
  }
}

/* From the taps of one pixel to those of the next. */
static void set_steps(depthwise_state *s) {
  const tn_window *w = &s->layer->window;
  uint32_t kernel_rows = w->kernel_rows, kernel_columns = w->kernel_columns;
  int32_t *to = s->steps, step = (int32_t)(w->stride_columns * s->channels);
  for (uint32_t ky = 0; ky < kernel_rows; ky++) {
    int32x4_t steps = vdupq_n_s32(s->rows[ky] ? step : 0);
    for (uint32_t kx = 0; kx < kernel_columns; kx += 4) vstrwq_p_s32(to + kx, steps, vctp32q(kernel_columns - kx));
    to += kernel_columns;
  }
}

/* One pixel of fewer than 16 channels: their bytes are copied, so that no vector reads beyond the input. */
static void narrow_pixel(depthwise_state *s, int8_t *output) {
  int8_t outputs[LANES], *vector = s->vectors + LANES;
  for (uint32_t i = 0; i < s->run.taps_count; i++) {
    tn_copy_mve(vector, (const int8_t *)(uintptr_t)s->run.taps[i], s->channels);
    s->run.taps[i] = address(vector);
    vector += LANES;
  }
  s->run.output = outputs;
  s->compute(&s->run);
  tn_copy_mve(output, outputs, s->channels);
}

static void row_of_pixels(depthwise_state *s, int8_t *output) {
  const tn_window *w = &s->layer->window;
  set_steps(s);
  int32_t origin = -w->padding_left;
  int32_t room = s->layer->input.columns - (w->kernel_columns - 1) * w->dilation_columns - 1;
  for (uint32_t left = s->layer->output.columns; left;) {
    set_taps(s, origin);
    if (s->channels < LANES) {
      s->run.pixels = 1;
      narrow_pixel(s, output);
    } else {
      uint32_t inside = 1; /* pixels from here on whose windows reach over neither border */
      if (origin >= 0 && origin <= room) inside = (uint32_t)(room - origin) / w->stride_columns + 1;
      s->run.pixels = inside < left ? inside : left;
      s->run.output = output;
      s->compute(&s->run);
    }
    left -= s->run.pixels;
    origin += (int32_t)(s->run.pixels * w->stride_columns);
    output += s->run.pixels * s->channels;
  }
}

void tn_depthwise_mve_s8(const tn_depthwise_mve_layer *layer, const int8_t *input, int8_t *output, int8_t *scratch,
                         uint32_t first, uint32_t rows) {
  const tn_window *w = &layer->window;
  uint32_t taps = (uint32_t)w->kernel_rows * w->kernel_columns, list = (taps + 3) & ~3u;
  uint32_t channels = layer->input.channels, row_bytes = layer->input.columns * channels;
  depthwise_state s; /* set field by field, for an initializer would clear it first */
  s.layer = layer;
  s.channels = channels;
  s.rows = (const int8_t **)(void *)scratch;
  s.run.zero_point = layer->output_zero_point;
  s.run.blocks = layer->blocks;
  s.run.next_block = 0;
  s.run.count = 1;
  s.run.tail = 0;
  s.run.taps_count = taps;
  s.run.taps = (uint32_t *)(void *)(s.rows + w->kernel_rows);
  s.run.steps = s.steps = (int32_t *)(void *)(s.run.taps + list);
  s.vectors = (int8_t *)(s.steps + list);
  vstrbq_s8(s.run.minimum, vdupq_n_s8(layer->minimum));
  vstrbq_s8(s.run.maximum, vdupq_n_s8(layer->maximum));
  if (taps == 9) {
    s.compute = layer->plain ? tn_depthwise_nine_plain_mve_s8 : tn_depthwise_nine_mve_s8;
  } else {
    s.compute = layer->plain ? tn_depthwise_taps_plain_mve_s8 : tn_depthwise_taps_mve_s8;
  }
  if (layer->flat) {
    s.run.next_block = -(int32_t)((4 + taps + 4 + 1) * LANES);
  } else {
    tn_fill_mve(s.vectors, vdupq_n_s8((int8_t)layer->input_zero_point), channels);
    if (channels > LANES) {
      s.run.count = channels / LANES;
      if (channels % LANES) s.run.tail = (int32_t)(channels % LANES) - LANES;
    }
  }
  for (uint32_t y = first; y < first + rows; y++) {
    for (uint32_t ky = 0; ky < w->kernel_rows; ky++) {
      int32_t row = (int32_t)(y * w->stride_rows + ky * w->dilation_rows) - w->padding_top;
      int inside = row >= 0 && row < layer->input.rows;
      s.rows[ky] = inside ? input + (uint32_t)row % layer->input_ring * row_bytes : 0;
    }
    int8_t *to = output + y % layer->output_ring * layer->output.columns * channels;
    if (layer->flat) {
      flat_row(&s, to);
    } else {
      row_of_pixels(&s, to);
    }
  }
}

#endif
