#include "tn_mve.h"

#if defined(__ARM_FEATURE_MVE)

#include "tn_mve_internal.h"

static inline void clip(int32_t origin, int32_t columns, int32_t size, uint32_t *before, uint32_t *inside) {
  int32_t first = origin < 0 ? -origin : 0, last = size - origin;
  if (first > columns) first = columns;
  if (last > columns) last = columns;
  *before = (uint32_t)first;
  *inside = last > first ? (uint32_t)(last - first) : 0;
}

/* Windows of neighbouring pixels one after the other, row by row. */
static void gather_windows(const tn_conv_mve_layer *layer, const int8_t *const *rows, uint32_t x, uint32_t pixels,
                           int8_t *to) {
  const tn_window *w = &layer->window;
  uint32_t channels = layer->input.channels, run = w->kernel_columns * channels, kernel_rows = w->kernel_rows;
  int8x16_t outside = vdupq_n_s8((int8_t)layer->input_zero_point);
  int32_t origin = (int32_t)x * w->stride_columns - w->padding_left;
  for (; pixels; pixels--) {
    uint32_t before, inside;
    clip(origin, w->kernel_columns, layer->input.columns, &before, &inside);
    before *= channels;
    inside *= channels;
    uint32_t after = run - before - inside;
    uint32_t offset = (uint32_t)(origin * (int32_t)channels) + before;
    for (uint32_t ky = 0; ky < kernel_rows; ky++) {
      const int8_t *row = rows[ky];
      if (row && inside == run) {
        tn_copy_mve(to, row + offset, run);
      } else if (row) {
        tn_fill_mve(to, outside, before);
        tn_copy_mve(to + before, row + offset, inside);
        tn_fill_mve(to + before + inside, outside, after);
      } else {
        tn_fill_mve(to, outside, run);
      }
      to += run;
    }
    origin += w->stride_columns;
  }
}

/* Copies, or fills, pieces of channels bytes, one for each column. */
static void copy_columns(int8_t *to, uint32_t step, const int8_t *from, uint32_t channels, uint32_t columns) {
  if (channels > 16) {
    for (; columns; columns--) {
      tn_copy_mve(to, from, channels);
      from += channels;
      to += step;
    }
  } else {
    __asm volatile(
        "vctp.8 %[channels]\n"
        "wls lr, %[columns], 2f\n"
        "1:\n"
        "vpstt\n"
        "vldrbt.8 q0, [%[from]]\n"
        "vstrbt.8 q0, [%[to]]\n"
        "add %[from], %[from], %[channels]\n"
        "add %[to], %[to], %[step]\n"
        "le lr, 1b\n"
        "2:\n"
        : [to] "+r"(to), [from] "+r"(from)
        : [channels] "r"(channels), [step] "r"(step), [columns] "r"(columns)
        : "q0", "lr", "memory");
  }
}

static void fill_columns(int8_t *to, uint32_t step, int8x16_t value, uint32_t channels, uint32_t columns) {
  for (; columns; columns--) {
    tn_fill_mve(to, value, channels);
    to += step;
  }
}

/* Columns of the input one after the other, each with all the rows of a window. */
static void gather_columns(const tn_conv_mve_layer *layer, const int8_t *const *rows, uint32_t x, uint32_t pixels,
                           int8_t *to) {
  const tn_window *w = &layer->window;
  uint32_t channels = layer->input.channels, step = w->kernel_rows * channels;
  int8x16_t outside = vdupq_n_s8((int8_t)layer->input_zero_point);
  int32_t origin = (int32_t)x * w->stride_columns - w->padding_left;
  uint32_t columns = (pixels - 1) * w->stride_columns + w->kernel_columns, before, inside;
  clip(origin, (int32_t)columns, layer->input.columns, &before, &inside);
  uint32_t after = columns - before - inside;
  uint32_t offset = (uint32_t)(origin * (int32_t)channels) + before * channels;
  for (uint32_t ky = 0; ky < w->kernel_rows; ky++) {
    const int8_t *row = rows[ky];
    if (row) {
      fill_columns(to, step, outside, channels, before);
      copy_columns(to + before * step, step, row + offset, channels, inside);
      fill_columns(to + (before + inside) * step, step, outside, channels, after);
    } else {
      fill_columns(to, step, outside, channels, columns);
    }
    to += channels;
  }
}

void tn_conv_mve_s8(const tn_conv_mve_layer *layer, const int8_t *input, int8_t *output, int8_t *scratch,
                    uint32_t first, uint32_t rows) {
  const tn_window *w = &layer->window;
  uint32_t channels = layer->input.channels, columns = layer->output.columns, kernel_rows = w->kernel_rows;
  uint32_t input_row = layer->input.columns * channels;
  tn_conv_mve_state state = tn_conv_mve_state_of(layer, kernel_rows * w->kernel_columns * channels);
  uint32_t step = layer->columns_first ? w->stride_columns * kernel_rows * channels : state.dot.depth;
  const int8_t **pointers = (const int8_t **)(void *)scratch;
  int8_t *windows = scratch + sizeof *pointers * kernel_rows;
  for (uint32_t y = first; y < first + rows; y++) {
    for (uint32_t ky = 0; ky < kernel_rows; ky++) {
      int32_t row = (int32_t)(y * w->stride_rows + ky * w->dilation_rows) - w->padding_top;
      int inside = row >= 0 && row < layer->input.rows;
      pointers[ky] = inside ? input + (uint32_t)row % layer->input_ring * input_row : 0;
    }
    int8_t *to = output + y % layer->output_ring * columns * state.channels;
    for (uint32_t x = 0; x < columns; x += layer->block) {
      uint32_t pixels = columns - x;
      if (pixels > layer->block) pixels = layer->block;
      if (layer->columns_first) {
        gather_columns(layer, pointers, x, pixels, windows);
      } else {
        gather_windows(layer, pointers, x, pixels, windows);
      }
      tn_conv_pixels_mve_s8(&state, windows, step, pixels, to);
      to += pixels * state.channels;
    }
  }
}

#endif
