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
  uint32_t runs = layer->runs_per_row, word_bytes = c->run_words * 4;
  int32_t channels = layer->input.channels, step = layer->window.dilation_columns * channels;
  int32_t offset = ((int32_t)x * layer->window.stride_columns - layer->window.padding_left) * channels;
  int inner = (int32_t)x >= c->inner_first && (int32_t)x < c->inner_last;
  if (!inner || rows->count < layer->window.kernel_rows) fill(to, stride, layer->steps, c->outside);
  int8_t *tails = to + layer->window.kernel_rows * runs * c->run_words * stride;
  uint32_t tail_index = rows->first * runs * c->run_tail;
  to += rows->first * runs * c->run_words * stride;
  const int8_t *row = rows->at;
  for (uint32_t n = rows->count; n; n--) {
    int32_t start = offset;
    for (uint32_t m = runs; m; m--) {
      int32_t first = 0, last = layer->run_bytes;
      if (!inner) {
        if (start < 0) first = -start;
        if (start + last > (int32_t)c->row_bytes) last = (int32_t)c->row_bytes - start;
      }
      const int8_t *from = row + (start + first);
      while (first < last) {
        uint32_t index = (uint32_t)first, end = (uint32_t)last < word_bytes ? (uint32_t)last : word_bytes;
        if (index % 4 == 0 && index + 4 <= end) {
          int8_t *at = to + index / 4 * stride;
          do {
            uint32_t word;
            memcpy(&word, from, sizeof word);
            *(uint32_t *)(void *)at = word ^ FLIP;
            at += stride;
            from += 4;
            index += 4;
          } while (index + 4 <= end);
          first = (int32_t)index;
          continue;
        }
        if (index < word_bytes) {
          put_byte(to, stride, index, *from++);
        } else {
          put_byte(tails, stride, tail_index + index - word_bytes, *from++);
        }
        first++;
      }
      to += c->run_words * stride;
      tail_index += c->run_tail;
      start += step;
    }
    row = next_row(c, row);
  }
}

/* The words of one run of three pixels, step bytes apart; returns where the next run's words go. */
static inline int8_t *copy_three(int8_t *to, const int8_t *from, uint32_t step, uint32_t words) {
  const int8_t *from1 = from + step, *from2 = from1 + step;
  uint32_t a, b, c, d, e, f;
  __asm volatile(
      "lsrs %[n], %[n], #1\n"
      "bcc 1f\n"
      "ldr %[a], [%[x]], #4\n"
      "ldr %[b], [%[y]], #4\n"
      "ldr %[c], [%[z]], #4\n"
      "eor %[a], %[a], %[flip]\n"
      "eor %[b], %[b], %[flip]\n"
      "eor %[c], %[c], %[flip]\n"
      "str %[b], [%[to], #4]\n"
      "str %[c], [%[to], #8]\n"
      "str %[a], [%[to]], #12\n"
      "1: beq 3f\n"
      "2: ldr %[a], [%[x]], #4\n"
      "ldr %[b], [%[y]], #4\n"
      "ldr %[c], [%[z]], #4\n"
      "ldr %[d], [%[x]], #4\n"
      "ldr %[e], [%[y]], #4\n"
      "ldr %[f], [%[z]], #4\n"
      "eor %[a], %[a], %[flip]\n"
      "eor %[b], %[b], %[flip]\n"
      "eor %[c], %[c], %[flip]\n"
      "eor %[d], %[d], %[flip]\n"
      "eor %[e], %[e], %[flip]\n"
      "eor %[f], %[f], %[flip]\n"
      "str %[b], [%[to], #4]\n"
      "str %[c], [%[to], #8]\n"
      "str %[d], [%[to], #12]\n"
      "str %[e], [%[to], #16]\n"
      "str %[f], [%[to], #20]\n"
      "str %[a], [%[to]], #24\n"
      "subs %[n], %[n], #1\n"
      "bne 2b\n"
      "3:\n"
      : [to] "+r"(to), [x] "+r"(from), [y] "+r"(from1), [z] "+r"(from2), [n] "+r"(words), [a] "=&r"(a), [b] "=&r"(b),
        [c] "=&r"(c), [d] "=&r"(d), [e] "=&r"(e), [f] "=&r"(f)
      : [flip] "i"(FLIP)
      : "cc", "memory");
  return to;
}

/* Three neighbouring pixels that reach over neither the left nor the right border. */
static __attribute__((noinline)) void gather_three(const conv_call *c, const kernel_rows *rows, uint32_t x,
                                                   int8_t *to) {
  const tn_conv_dsp_layer *layer = c->layer;
  uint32_t runs = layer->runs_per_row, channels = layer->input.channels, words = c->run_words, tail = c->run_tail;
  uint32_t step = layer->window.stride_columns * channels;
  uint32_t offset = (x * layer->window.stride_columns - layer->window.padding_left) * channels;
  if (rows->count < layer->window.kernel_rows) fill(to, 4, 3u * layer->steps, c->outside);
  int8_t *tails = to + layer->window.kernel_rows * runs * words * 12;
  uint32_t tail_index = rows->first * runs * tail;
  to += rows->first * runs * words * 12;
  const int8_t *row = rows->at;
  for (uint32_t n = rows->count; n; n--) {
    const int8_t *from = row + offset;
    for (uint32_t m = runs; m; m--) {
      to = copy_three(to, from, step, words);
      const int8_t *rest = from + words * 4;
      for (uint32_t i = tail; i; i--) {
        int8_t *at = tails + tail_index / 4 * 12 + tail_index % 4;
        int32_t flip = tail_index & 1 ? 0 : -128;
        int32_t pixel0 = rest[0], pixel1 = rest[step], pixel2 = rest[2 * step];
        at[0] = (int8_t)(pixel0 ^ flip);
        at[4] = (int8_t)(pixel1 ^ flip);
        at[8] = (int8_t)(pixel2 ^ flip);
        rest++;
        tail_index++;
      }
      from += layer->window.dilation_columns * channels;
    }
    row = next_row(c, row);
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

static tn_conv_dsp_block block_of(const tn_conv_dsp_layer *layer, int8_t *output, const int8_t *windows,
                                  uint32_t pixels, uint32_t unrolled, uint32_t step_bytes) {
  uint32_t more = layer->steps - 1u; /* than the first, which is not in the loop */
  uint32_t partial = more ? (more - 1) % unrolled + 1 : 0;
  tn_conv_dsp_block block = {windows,
                             windows + 4u * pixels * layer->steps - !layer->negatives_may_vary,
                             partial * step_bytes - 1,
                             output,
                             layer->output.channels,
                             1};
  if (layer->output_planes) {
    block.pixel_step = 1;
    block.channel_step = layer->output.columns;
  }
  return block;
}

/* Output rows from y on, pixels in all, that lie next to each other in memory. */
static void convolve(const conv_call *c, uint32_t y, uint32_t pixels, int8_t *output, int8_t *scratch) {
  const tn_conv_dsp_layer *layer = c->layer;
  tn_conv_dsp_block three = block_of(layer, output, scratch, 3, TN_THREE_UNROLLED, TN_THREE_STEP_BYTES);
  tn_conv_dsp_block two = block_of(layer, output, scratch, 2, TN_TWO_UNROLLED, TN_TWO_STEP_BYTES);
  uint32_t channels = layer->output.channels;
  const uint32_t *last_pair = layer->stream + channels / 2 * (2u * layer->steps + 7);
  kernel_rows rows = rows_of(c, y);
  uint32_t x = 0, pixel_step = three.pixel_step;
  while (pixels) {
    if (x == c->columns) {
      x = 0;
      rows = rows_of(c, ++y);
    }
    /* Pairs are better than a single pixel, which is computed as a pair that is stored in one place. */
    uint32_t count = pixels == 4 || pixels < 3 ? 2 : 3;
    uint32_t advance = pixels < count ? pixels : count;
    if (count == 3 && (int32_t)x >= c->inner_first && (int32_t)x + 3 <= c->inner_last) {
      gather_three(c, &rows, x, scratch);
      x += 3;
    } else {
      for (uint32_t i = 0; i < count; i++) {
        if (x == c->columns) {
          x = 0;
          rows = rows_of(c, ++y);
        }
        gather_one(c, &rows, x, scratch + 4 * i, 4 * count);
        x += advance >= count;
      }
    }
    tn_conv_dsp_block *block = count == 3 ? &three : &two;
    void (*multiply)(const tn_conv_dsp_block *, const uint32_t *) =
        count == 3 ? tn_matmul_three_dsp_s8 : tn_matmul_two_dsp_s8;
    block->output = output;
    if (advance == 1) block->pixel_step = 0;
    multiply(block, layer->stream);
    if (channels & 1) {
      block->output = output + (channels - 2) * block->channel_step;
      multiply(block, last_pair);
    }
    output += advance * pixel_step;
    pixels -= advance;
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
