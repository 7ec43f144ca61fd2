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

/* Copies count pieces, whose starts are from_step and to_step bytes apart. */
static void copy_pieces(int8_t *to, uint32_t to_step, const int8_t *from, uint32_t from_step, uint32_t bytes,
                        uint32_t count) {
  if (bytes > 16) {
    for (; count; count--) {
      tn_copy_mve(to, from, bytes);
      from += from_step;
      to += to_step;
    }
  } else {
    __asm volatile(
        "vctp.8 %[bytes]\n"
        "wls lr, %[count], 2f\n"
        "1:\n"
        "vpstt\n"
        "vldrbt.8 q0, [%[from]]\n"
        "vstrbt.8 q0, [%[to]]\n"
        "add %[from], %[from], %[from_step]\n"
        "add %[to], %[to], %[to_step]\n"
        "le lr, 1b\n"
        "2:\n"
        : [to] "+r"(to), [from] "+r"(from)
        : [bytes] "r"(bytes), [from_step] "r"(from_step), [to_step] "r"(to_step), [count] "r"(count)
        : "q0", "lr", "memory");
  }
}

static void fill_pieces(int8_t *to, uint32_t to_step, int8x16_t value, uint32_t bytes, uint32_t count) {
  for (; count; count--) {
    tn_fill_mve(to, value, bytes);
    to += to_step;
  }
}

/* Some neighbouring columns of the windows of neighbouring pixels, which lie one after the other, each row by row. */
static void gather_part(const tn_conv_mve_layer *layer, const int8_t *const *rows, int32_t origin, uint32_t columns,
                        uint32_t pixels, int8_t *to) {
  const tn_window *w = &layer->window;
  uint32_t channels = layer->input.channels, part = columns * channels, kernel_rows = w->kernel_rows;
  uint32_t run = w->kernel_columns * channels, depth = kernel_rows * run;
  int8x16_t outside = vdupq_n_s8((int8_t)layer->input_zero_point);
  int32_t stride = w->stride_columns, room = layer->input.columns - (int32_t)columns;
  while (pixels) {
    uint32_t before, inside, count = 1; /* pixels that read the same part of the input's rows */
    clip(origin, (int32_t)columns, layer->input.columns, &before, &inside);
    if (origin >= 0 && origin <= room) {
      count = (uint32_t)(room - origin) / w->stride_columns + 1;
      if (count > pixels) count = pixels;
    }
    before *= channels;
    inside *= channels;
    uint32_t after = part - before - inside, offset = (uint32_t)(origin * (int32_t)channels) + before;
    int8_t *row = to;
    for (uint32_t ky = 0; ky < kernel_rows; ky++) {
      if (rows[ky]) {
        if (before) tn_fill_mve(row, outside, before);
        copy_pieces(row + before, depth, rows[ky] + offset, (uint32_t)stride * channels, inside, count);
        if (after) tn_fill_mve(row + before + inside, outside, after);
      } else {
        fill_pieces(row, depth, outside, part, count);
      }
      row += run;
    }
    to += count * depth;
    origin += (int32_t)count * stride;
    pixels -= count;
  }
}

static void gather_windows(const tn_conv_mve_layer *layer, const int8_t *const *rows, uint32_t x, uint32_t pixels,
                           int8_t *to) {
  const tn_window *w = &layer->window;
  int32_t origin = (int32_t)x * w->stride_columns - w->padding_left;
  if (w->dilation_columns == 1) {
    gather_part(layer, rows, origin, w->kernel_columns, pixels, to);
    return;
  }
  for (uint32_t kx = w->kernel_columns; kx; kx--) {
    gather_part(layer, rows, origin, 1, pixels, to);
    origin += w->dilation_columns;
    to += layer->input.channels;
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
    if (rows[ky]) {
      fill_pieces(to, step, outside, channels, before);
      copy_pieces(to + before * step, step, rows[ky] + offset, channels, channels, inside);
      fill_pieces(to + (before + inside) * step, step, outside, channels, after);
    } else {
      fill_pieces(to, step, outside, channels, columns);
    }
    to += channels;
  }
}

void tn_conv_mve_s8(const tn_conv_mve_layer *layer, const int8_t *input, int8_t *output, int8_t *scratch,
                    uint32_t first, uint32_t rows) {
  const tn_window *w = &layer->window;
  uint32_t channels = layer->input.channels, columns = layer->output.columns, kernel_rows = w->kernel_rows;
  uint32_t input_row = layer->input.columns * channels;
  uint32_t output_pixel = layer->output.channels, depth = kernel_rows * w->kernel_columns * channels;
  uint32_t step = layer->columns_first ? w->stride_columns * kernel_rows * channels : depth;
  const int8_t **pointers = (const int8_t **)(void *)scratch;
  int8_t *windows = scratch + sizeof *pointers * kernel_rows;
  for (uint32_t y = first; y < first + rows; y++) {
    for (uint32_t ky = 0; ky < kernel_rows; ky++) {
      int32_t row = (int32_t)(y * w->stride_rows + ky * w->dilation_rows) - w->padding_top;
      int inside = row >= 0 && row < layer->input.rows;
      pointers[ky] = inside ? input + (uint32_t)row % layer->input_ring * input_row : 0;
    }
    int8_t *to = output + y % layer->output_ring * columns * output_pixel;
    for (uint32_t x = 0; x < columns; x += layer->block) {
      uint32_t pixels = columns - x;
      if (pixels > layer->block) pixels = layer->block;
      if (layer->columns_first) {
        gather_columns(layer, pointers, x, pixels, windows);
      } else {
        gather_windows(layer, pointers, x, pixels, windows);
      }
      tn_conv_pixels_mve_s8(layer, windows, step, depth, pixels, to);
      to += pixels * output_pixel;
    }
  }
}

#endif
