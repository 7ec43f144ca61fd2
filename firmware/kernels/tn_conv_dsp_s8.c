#include "tn_conv_dsp.h"

#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FP)

#include <string.h>

#include "tn_internal.h"

#define FLIP 0x00800080u /* bytes 0 and 2 of a word become unsigned */

/* With so few output channels, gathering a window takes long enough to gather only those in which the row begins or
 * ends one by one, and to compute these two as a pair. */
#define FEW_CHANNELS 16

/* What stays the same during a call. */
typedef struct {
  const tn_conv_dsp_layer *layer;
  const int8_t *input;
  const int8_t *input_end;        /* of the ring */
  uint32_t row_bytes, ring_bytes; /* of the input */
  uint32_t row_step;              /* from one kernel row to the next */
  uint32_t columns;               /* of the output */
  int32_t inner_first, inner_last;
  uint32_t run_words, run_tail; /* run_bytes / 4 and the rest */
  uint32_t outside;             /* four zero points, flipped */
  uint32_t ends_last; /* a row's first and last pixel, the only ones at a border, are computed after the others */
  uint32_t color;     /* three kernel rows of 9 bytes */
  int8_t *scratch;
  tn_conv_dsp_block block;
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
  row += c->row_step;
  return row < c->input_end ? row : row - c->ring_bytes;
}

static inline uint32_t load_word(const int8_t *from) {
  uint32_t word;
  memcpy(&word, from, sizeof word);
  return word;
}

static inline void store_word(int8_t *to, uint32_t word) { *(uint32_t *)(void *)to = word; }

static void fill(int8_t *to, uint32_t stride, uint32_t words, uint32_t word) {
  for (; words >= 4; words -= 4) {
    store_word(to, word);
    store_word(to + stride, word);
    store_word(to + 2 * stride, word);
    store_word(to + 3 * stride, word);
    to += 4 * stride;
  }
  for (; words; words--) {
    store_word(to, word);
    to += stride;
  }
}

/* Words of a run, in some kernel rows, whose windows' words are stride bytes and rows are step bytes apart. */
static __attribute__((noinline)) void gather_words(const conv_call *c, const int8_t *row, uint32_t rows, uint32_t words,
                                                   int8_t *to_row, uint32_t stride, uint32_t step) {
  uint32_t stride3 = 3 * stride;
  for (; rows; rows--) {
    const int8_t *from = row;
    int8_t *to = to_row;
    uint32_t fours = words / 4, word0, word1, word2, word3;
    /* Loads side by side, which compilers do not keep there, take half as long. */
    __asm volatile(
        "cbz %[fours], 2f\n"
        "1: ldr %[word0], [%[from]], #4\n"
        "ldr %[word1], [%[from]], #4\n"
        "ldr %[word2], [%[from]], #4\n"
        "ldr %[word3], [%[from]], #4\n"
        "eor %[word0], %[word0], %[flip]\n"
        "eor %[word1], %[word1], %[flip]\n"
        "eor %[word2], %[word2], %[flip]\n"
        "eor %[word3], %[word3], %[flip]\n"
        "str %[word0], [%[to]]\n"
        "str %[word1], [%[to], %[stride]]\n"
        "str %[word2], [%[to], %[stride], lsl #1]\n"
        "str %[word3], [%[to], %[stride3]]\n"
        "add %[to], %[to], %[stride], lsl #2\n"
        "subs %[fours], %[fours], #1\n"
        "bne 1b\n"
        "2:\n"
        : [from] "+r"(from), [to] "+r"(to), [fours] "+l"(fours), [word0] "=&r"(word0), [word1] "=&r"(word1),
          [word2] "=&r"(word2), [word3] "=&r"(word3)
        : [stride] "r"(stride), [stride3] "r"(stride3), [flip] "i"(FLIP)
        : "cc", "memory");
    for (uint32_t i = words % 4; i; i--) {
      store_word(to, load_word(from) ^ FLIP);
      to += stride;
      from += 4;
    }
    to_row += step;
    row = next_row(c, row);
  }
}

/* A word of which only bytes [first, last) lie inside of the input: at row, rotated. */
static __attribute__((noinline)) void gather_edge(const conv_call *c, const int8_t *row, uint32_t rows, int8_t *to,
                                                  uint32_t step, uint32_t first, uint32_t last) {
  uint32_t rotation = 32 - 8 * (first ? first : last);
  uint32_t inside = (~(uint32_t)0 << 8 * first) & (~(uint32_t)0 >> (32 - 8 * last));
  uint32_t other = (inside & FLIP) ^ (c->outside & ~inside);
  for (; rows; rows--) {
    uint32_t word = load_word(row);
    word = word >> rotation | word << (32 - rotation);
    store_word(to, (word & inside) ^ other);
    to += step;
    row = next_row(c, row);
  }
}

/* One pixel's window, whose words go stride bytes apart. */
static __attribute__((noinline)) void gather_one(const conv_call *c, const kernel_rows *rows, uint32_t x, int8_t *to,
                                                 uint32_t stride) {
  const tn_conv_dsp_layer *layer = c->layer;
  const tn_window *w = &layer->window;
  uint32_t words = c->run_words, tail = c->run_tail, channels = layer->input.channels;
  int32_t offset = ((int32_t)x * w->stride_columns - w->padding_left) * (int32_t)channels;
  int inner = (int32_t)x >= c->inner_first && (int32_t)x < c->inner_last;
  if (inner && tail == 0 && rows->count == w->kernel_rows) {
    gather_words(c, rows->at + offset, rows->count, words, to, stride, words * stride);
    return;
  }
  if (!inner || rows->count < w->kernel_rows) fill(to, stride, layer->steps, c->outside);
  int32_t bytes = layer->run_bytes, row_bytes = (int32_t)c->row_bytes;
  uint32_t runs = layer->runs_per_row, step = runs * words * stride;
  int8_t *tails = to + w->kernel_rows * step;
  to += rows->first * step;
  for (uint32_t run = 0; run < runs; run++) {
    /* Bytes [first, last) of the run lie inside of the input, among them words [word, word_end). */
    int32_t first = offset < 0 ? -offset : 0, last = offset + bytes > row_bytes ? row_bytes - offset : bytes;
    uint32_t word = ((uint32_t)first + 3) / 4, word_end = (uint32_t)last / 4;
    if (word_end > words) word_end = words;
    if (first < last) {
      if (first % 4 && word <= words) {
        gather_edge(c, rows->at, rows->count, to + (word - 1) * stride, step, (uint32_t)first % 4,
                    word_end < word ? (uint32_t)last % 4 : 4);
      }
      if (word < word_end) {
        gather_words(c, rows->at + (offset + 4 * (int32_t)word), rows->count, word_end - word, to + word * stride,
                     stride, step);
      }
      if (last % 4 && word_end < words && word_end >= word) {
        gather_edge(c, rows->at + (row_bytes - 4), rows->count, to + word_end * stride, step, 0, (uint32_t)last % 4);
      }
      int32_t rest = 4 * (int32_t)words;
      for (int32_t i = first > rest ? first : rest; i < last; i++) {
        uint32_t index = (rows->first * runs + run) * tail + (uint32_t)(i - rest);
        const int8_t *row = rows->at + (offset + i);
        for (uint32_t n = rows->count; n; n--) {
          tails[index / 4 * stride + index % 4] = (int8_t)(*row ^ (index & 1 ? 0 : -128));
          index += runs * tail;
          row = next_row(c, row);
        }
      }
    }
    to += words * stride;
    offset += (int32_t)(w->dilation_columns * channels);
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

/* Three inner pixels, blocks times. */
static __attribute__((noinline)) void convolve_strip(conv_call *c, const kernel_rows *rows, uint32_t x, uint32_t blocks,
                                                     int8_t *output) {
  const tn_window *w = &c->layer->window;
  tn_conv_dsp_block *three = &c->block;
  uint32_t tail_index = rows->first * c->run_tail;
  if (rows->count < w->kernel_rows) fill(c->scratch, 4, 3u * c->layer->steps, c->outside);
  three->from = rows->at + (x * w->stride_columns - w->padding_left) * c->layer->input.channels;
  three->to = c->scratch + rows->first * c->run_words * 12;
  three->tails =
      c->run_tail ? c->scratch + w->kernel_rows * c->run_words * 12 + tail_index / 4 * 12 + tail_index % 4 : 0;
  three->rows = rows->count == 3 && c->color ? TN_COLOR_ROWS : (int32_t)rows->count;
  three->output = output;
  three->blocks = blocks;
  tn_matmul_three_dsp_s8(three);
}

/* Output rows from y on, pixels in all, that lie next to each other in memory. */
static void convolve(conv_call *c, uint32_t y, uint32_t pixels, int8_t *output) {
  kernel_rows rows = rows_of(c, y);
  uint32_t pixel_step = c->block.pixel_step, x = 0;
  if (c->ends_last) {
    uint32_t last = pixels - 1, rest = (last - 1) % 3;
    if (last > 3) convolve_strip(c, &rows, 1, (last - 1) / 3, output + pixel_step);
    if (rest) {
      x = last - rest;
      gather_one(c, &rows, x, c->scratch, 8);
      gather_one(c, &rows, x + 1, c->scratch + 4, 8);
      tn_matmul_two_dsp_s8(&c->block, output + x * pixel_step, pixel_step);
    }
    gather_one(c, &rows, 0, c->scratch, 8);
    gather_one(c, &rows, last, c->scratch + 4, 8);
    tn_matmul_two_dsp_s8(&c->block, output, last * pixel_step);
    return;
  }
  while (pixels) {
    if (x == c->columns) {
      x = 0;
      rows = rows_of(c, ++y);
    }
    uint32_t count = pixels == 4 || pixels < 3 ? 2 : 3; /* two pairs are better than a single pixel */
    if (count == 3 && (int32_t)x >= c->inner_first && (int32_t)x + 3 <= c->inner_last) {
      uint32_t inner = (uint32_t)c->inner_last - x, blocks = (inner < pixels ? inner : pixels) / 3;
      if (pixels - 3 * blocks == 1) blocks--;
      convolve_strip(c, &rows, x, blocks, output);
      x += 3 * blocks;
      pixels -= 3 * blocks;
      output += 3 * blocks * pixel_step;
      continue;
    }
    for (uint32_t i = 0; i < count; i++) {
      if (x == c->columns) {
        x = 0;
        rows = rows_of(c, ++y);
      }
      gather_one(c, &rows, x, c->scratch + 4 * i, 4 * count);
      x += pixels > 1; /* a single pixel is a pair that is stored in one place */
    }
    if (count == 3) {
      c->block.output = output;
      c->block.rows = 0;
      c->block.blocks = 1;
      tn_matmul_three_dsp_s8(&c->block);
    } else {
      tn_matmul_two_dsp_s8(&c->block, output, pixels > 1 ? pixel_step : 0);
    }
    if (pixels < count) break;
    pixels -= count;
    output += count * pixel_step;
  }
}

void tn_conv_dsp_s8(const tn_conv_dsp_layer *layer, const int8_t *input, int8_t *output, int8_t *scratch,
                    uint32_t first, uint32_t rows) {
  const tn_window *w = &layer->window;
  uint32_t output_bytes = (uint32_t)layer->output.columns * layer->output.channels, steps = layer->steps;
  conv_call c;
  c.layer = layer;
  c.input = input;
  c.row_bytes = (uint32_t)layer->input.columns * layer->input.channels;
  c.ring_bytes = c.row_bytes * layer->input_ring;
  c.input_end = input + c.ring_bytes;
  c.row_step = c.row_bytes * w->dilation_rows;
  c.columns = layer->output.columns;
  c.inner_first = layer->inner_first;
  c.inner_last = layer->inner_last;
  c.run_words = layer->run_bytes / 4u;
  c.run_tail = layer->run_bytes % 4u;
  c.outside = ((uint8_t)layer->input_zero_point * 0x01010101u) ^ FLIP;
  c.color = w->kernel_rows == 3 && layer->run_bytes == 9;
  c.scratch = scratch;
  tn_conv_dsp_block *block = &c.block;
  block->windows = scratch;
  block->end = scratch + 12 * steps;
  block->entry = entry_of(steps - 1, TN_THREE_UNROLLED, TN_THREE_STEP_BYTES);
  block->end_of_two = scratch + 8 * steps;
  block->entry_of_two = entry_of(steps - 1, TN_TWO_UNROLLED, TN_TWO_STEP_BYTES);
  block->pixel_step = layer->output_planes ? 1 : layer->output.channels;
  block->channel_step = layer->output_planes ? layer->output.columns : 1;
  block->stream = layer->stream;
  block->pairs_end = layer->stream + layer->pairs_words;
  block->stream_end = layer->stream + layer->stream_words;
  block->copy_entry = entry_of(c.run_words, TN_COPY_UNROLLED, TN_COPY_STEP_BYTES);
  block->copies = (c.run_words + TN_COPY_UNROLLED - 1) / TN_COPY_UNROLLED;
  block->input_step = (uint32_t)w->stride_columns * layer->input.channels;
  block->next_row = c.row_step - layer->run_bytes;
  block->input_end = c.input_end;
  block->tail = c.run_tail;
  block->ring_bytes = c.ring_bytes;

  uint32_t inner = layer->inner_last - (uint32_t)layer->inner_first;
  c.ends_last = layer->inner_first == 1 && inner % 3 != 1 && inner + 2 == c.columns;
  uint32_t together = rows; /* rows that are computed as one */
  if (layer->output_planes || (c.ends_last && inner % 3 == 0 && layer->output.channels <= FEW_CHANNELS)) together = 1;
  if (together > 1) c.ends_last = 0;
  if (layer->pointwise && together > 1) { /* one long row */
    c.columns *= rows;
    c.row_bytes *= rows;
    c.inner_last = (int32_t)c.columns;
  }
  output += first % layer->output_ring * output_bytes;
  for (; rows; rows -= together) {
    convolve(&c, first, together * layer->output.columns, output);
    if (layer->minimum > INT8_MIN || layer->maximum < INT8_MAX) {
      clamp(output, together * output_bytes, layer->minimum, layer->maximum);
    }
    output += together * output_bytes;
    first += together;
  }
}

#endif
