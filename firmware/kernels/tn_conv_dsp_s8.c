#include "tn_conv_dsp.h"

#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FP)

#include <string.h>

#include "tn_internal.h"

#define FLIP 0x00800080u /* bytes 0 and 2 of a word become unsigned */

/* What stays the same during a call. */
typedef struct {
  const tn_conv_dsp_layer *layer;
  const int8_t *input;
  uint32_t row_bytes, ring_bytes; /* of the input */
  uint32_t columns;               /* of the output */
  int32_t inner_first, inner_last;
  uint32_t run_words, run_tail; /* run_bytes / 4 and the rest */
  uint32_t outside;             /* four zero points, flipped */
} conv_call;

/* The kernel rows of one output row that lie inside of the input. */
typedef struct {
  uint32_t first, count;
  const int8_t *at; /* the input row of the first one */
} kernel_rows;

static kernel_rows rows_of(const conv_call *c, uint32_t y) {
  const tn_conv_dsp_layer *layer = c->layer;
  const tn_window *w = &layer->window;
  tn_taps taps =
      tn_clip((int32_t)y, w->stride_rows, w->padding_top, w->kernel_rows, w->dilation_rows, layer->input.rows);
  uint32_t row = (uint32_t)(taps.origin + taps.first * w->dilation_rows);
  if (row >= layer->input_ring) row %= layer->input_ring;
  kernel_rows rows = {(uint32_t)taps.first, (uint32_t)(taps.last - taps.first), c->input + row * c->row_bytes};
  return rows;
}

static inline const int8_t *next_row(const conv_call *c, const int8_t *row) {
  uint32_t offset = (uint32_t)(row - c->input) + c->layer->window.dilation_rows * c->row_bytes;
  return c->input + (offset < c->ring_bytes ? offset : offset - c->ring_bytes);
}

static inline void fill(int8_t *to, uint32_t stride, uint32_t words, uint32_t word) {
  for (; words; words--) {
    *(uint32_t *)(void *)to = word;
    to += stride;
  }
}

/* Sets byte index of a string whose words are stride bytes apart. */
static inline void put_byte(int8_t *to, uint32_t stride, uint32_t index, int8_t value) {
  to[index / 4 * stride + index % 4] = (int8_t)(index & 1 ? value : value ^ -128);
}

/* One pixel's window, whose words go stride bytes apart. */
static __attribute__((noinline)) void gather_one(const conv_call *c, const kernel_rows *rows, uint32_t x, int8_t *to,
                                                 uint32_t stride) {
  const tn_conv_dsp_layer *layer = c->layer;
  const tn_window *w = &layer->window;
  uint32_t runs = layer->runs_per_row, words = c->run_words, tail = c->run_tail;
  int32_t bytes = layer->run_bytes, channels = layer->input.channels;
  int32_t offset = ((int32_t)x * w->stride_columns - w->padding_left) * channels;
  int8_t *tails = to + w->kernel_rows * runs * words * stride;
  if (rows->count < w->kernel_rows || (int32_t)x < c->inner_first || (int32_t)x >= c->inner_last) {
    fill(to, stride, layer->steps, c->outside);
  }
  for (uint32_t run = 0; run < runs; run++) {
    /* What lies inside of the input: bytes [first, last), among them whole words [4 * word, word_end). */
    int32_t first = offset < 0 ? -offset : 0;
    int32_t last = offset + bytes > (int32_t)c->row_bytes ? (int32_t)c->row_bytes - offset : bytes;
    uint32_t word = ((uint32_t)first + 3) / 4;
    int32_t word_end = (last < bytes ? last : (int32_t)words * 4) & ~3;
    uint32_t index = rows->first * runs + run;
    int8_t *run_to = to + index * words * stride;
    const int8_t *row = rows->at;
    for (uint32_t n = first < last ? rows->count : 0; n; n--) {
      int32_t i = first;
      while (i < last) {
        if (i % 4 == 0 && i < word_end) {
          const int8_t *from = row + (offset + i);
          int8_t *at = run_to + word * stride;
          do {
            uint32_t value;
            memcpy(&value, from, sizeof value);
            *(uint32_t *)(void *)at = value ^ FLIP;
            at += stride;
            from += sizeof value;
            i += (int32_t)sizeof value;
          } while (i < word_end);
        } else {
          int8_t value = row[offset + i];
          if (i < (int32_t)words * 4) {
            put_byte(run_to, stride, (uint32_t)i, value);
          } else {
            put_byte(tails, stride, index * tail + (uint32_t)i - words * 4, value);
          }
          i++;
        }
      }
      run_to += runs * words * stride;
      index += runs;
      row = next_row(c, row);
    }
    offset += w->dilation_columns * channels;
  }
}

static inline uint32_t clamp_word(uint32_t word, uint32_t minima, uint32_t maxima) {
  uint32_t difference;
  __asm(
      "ssub8 %[difference], %[word], %[minima]\n"
      "sel %[word], %[word], %[minima]\n"
      "ssub8 %[difference], %[maxima], %[word]\n"
      "sel %[word], %[word], %[maxima]\n"
      : [word] "+r"(word), [difference] "=&r"(difference)
      : [minima] "r"(minima), [maxima] "r"(maxima)
      : "cc");
  return word;
}

static void clamp(int8_t *at, uint32_t bytes, int8_t minimum, int8_t maximum) {
  uint32_t minima = (uint8_t)minimum * 0x01010101u, maxima = (uint8_t)maximum * 0x01010101u, word;
  for (; bytes >= sizeof word; bytes -= sizeof word) {
    memcpy(&word, at, sizeof word);
    word = clamp_word(word, minima, maxima);
    memcpy(at, &word, sizeof word);
    at += sizeof word;
  }
  for (; bytes; bytes--) {
    *at = tn_clamp(*at, minimum, maximum);
    at++;
  }
}

/* Where to enter a loop of unrolled steps that are step_bytes long, in order to do so many. */
static inline uint32_t entry_of(uint32_t steps, uint32_t unrolled, uint32_t step_bytes) {
  return (steps ? (steps - 1) % unrolled + 1 : 0) * step_bytes - 1;
}

static tn_conv_dsp_block block_of(const tn_conv_dsp_layer *layer, const int8_t *windows, uint32_t pixels,
                                  uint32_t entry) {
  uint32_t channels = layer->output.channels, steps = layer->steps;
  tn_conv_dsp_block block;
  block.windows = windows;
  block.end = windows + 4 * pixels * steps - !layer->negatives_may_vary;
  block.entry = entry;
  block.pixel_step = layer->output_planes ? 1 : channels;
  block.channel_step = layer->output_planes ? layer->output.columns : 1;
  block.stream = layer->stream;
  block.stream_end = layer->stream + (channels + 1) / 2 * (2 * steps + 7);
  return block;
}

/* Output rows from y on, pixels in all, that lie next to each other in memory. */
static void convolve(const conv_call *c, uint32_t y, uint32_t pixels, int8_t *output, int8_t *scratch) {
  const tn_conv_dsp_layer *layer = c->layer;
  const tn_window *w = &layer->window;
  uint32_t steps = layer->steps, words = c->run_words, tail = c->run_tail, channels = layer->input.channels;
  tn_conv_dsp_block two = block_of(layer, scratch, 2, entry_of(steps - 1, TN_TWO_UNROLLED, TN_TWO_STEP_BYTES));
  tn_conv_dsp_block three = block_of(layer, scratch, 3, entry_of(steps - 1, TN_THREE_UNROLLED, TN_THREE_STEP_BYTES));
  three.copy_entry = entry_of(words, TN_COPY_UNROLLED, TN_COPY_STEP_BYTES);
  three.copies = (words + TN_COPY_UNROLLED - 1) / TN_COPY_UNROLLED;
  three.input_step = w->stride_columns * channels;
  three.next_row = w->dilation_rows * c->row_bytes - layer->run_bytes;
  three.input_end = c->input + c->ring_bytes;
  three.tail = tail;
  three.ring_bytes = c->ring_bytes;
  kernel_rows rows = rows_of(c, y);
  uint32_t x = 0, pixel_step = three.pixel_step;
  while (pixels) {
    if (x == c->columns) {
      x = 0;
      rows = rows_of(c, ++y);
    }
    int32_t inner = c->inner_last - (int32_t)x;
    uint32_t blocks = 0;
    if (layer->runs_per_row == 1 && (int32_t)x >= c->inner_first && inner >= 3) {
      blocks = ((uint32_t)inner < pixels ? (uint32_t)inner : pixels) / 3;
      if (pixels - 3 * blocks == 1) blocks--; /* two pairs are better than a single pixel */
    }
    three.output = two.output = output;
    if (blocks) {
      uint32_t offset = (x * w->stride_columns - w->padding_left) * channels;
      uint32_t run = rows.first, tail_index = run * tail;
      if (rows.count < w->kernel_rows) fill(scratch, 4, 3 * steps, c->outside);
      three.from = rows.at + offset;
      three.to = scratch + run * words * 12;
      three.tails = scratch + w->kernel_rows * words * 12 + tail_index / 4 * 12 + tail_index % 4;
      three.rows = rows.count;
      three.blocks = blocks;
      tn_matmul_three_dsp_s8(&three);
      x += 3 * blocks;
      pixels -= 3 * blocks;
      output += 3 * blocks * pixel_step;
      continue;
    }
    uint32_t count = pixels == 4 || pixels < 3 ? 2 : 3;
    for (uint32_t i = 0; i < count; i++) {
      if (x == c->columns) {
        x = 0;
        rows = rows_of(c, ++y);
      }
      gather_one(c, &rows, x, scratch + 4 * i, 4 * count);
      x += pixels > 1; /* a single pixel is a pair that is stored in one place */
    }
    if (count == 3) {
      three.rows = 0;
      three.blocks = 1;
      tn_matmul_three_dsp_s8(&three);
    } else {
      if (pixels == 1) two.pixel_step = 0;
      tn_matmul_two_dsp_s8(&two);
    }
    if (pixels < count) break;
    pixels -= count;
    output += count * pixel_step;
  }
}

void tn_conv_dsp_s8(const tn_conv_dsp_layer *layer, const int8_t *input, int8_t *output, int8_t *scratch,
                    uint32_t first, uint32_t rows) {
  uint32_t row_bytes = (uint32_t)layer->input.columns * layer->input.channels;
  conv_call c = {layer,
                 input,
                 row_bytes,
                 row_bytes * layer->input_ring,
                 layer->output.columns,
                 layer->inner_first,
                 layer->inner_last,
                 layer->run_bytes / 4u,
                 layer->run_bytes % 4u,
                 ((uint8_t)layer->input_zero_point * 0x01010101u) ^ FLIP};
  uint32_t output_bytes = (uint32_t)layer->output.columns * layer->output.channels;
  output += first % layer->output_ring * output_bytes;
  uint32_t together = layer->output_planes ? 1 : rows; /* rows that are computed as one */
  if (layer->pointwise && together > 1) {              /* one long row */
    c.columns *= rows;
    c.row_bytes *= rows;
    c.inner_last = (int32_t)c.columns;
  }
  for (; rows; rows -= together) {
    convolve(&c, first, together * layer->output.columns, output, scratch);
    if (layer->minimum > INT8_MIN || layer->maximum < INT8_MAX) {
      clamp(output, together * output_bytes, layer->minimum, layer->maximum);
    }
    output += together * output_bytes;
    first += together;
  }
}

#endif
