/* Dense convolutions for Armv7E-M with a floating point unit, whose registers keep pointers.
 *
 * The windows of three, or two, pixels are gathered into scratch memory, word by word in turn, and multiplied by all
 * output channels, pair by pair. Of each word of four int8 inputs bytes 0 and 2 are flipped to unsigned, value + 128.
 * Its halves then are 256 * odd + even, and four weights in one word, whose halves are 256 * w0 - w1 and
 * -(256 * w2 - w3), give 256 times the sum of the four products with one extension of each word:
 *
 *   SMLSD(UXTB16(inputs), weights) + SMLSDX(SXTB16(weights, ROR #16), inputs)
 *
 * A window is made of runs: inputs that lie side by side, which are kernel rows, or taps if columns are dilated. The
 * whole words of all runs come first, the bytes that are left over follow in one string. export/kernels/dsp_conv.py
 * packs weights in that order, and proves that accumulators, times 256, fit into 32 bits.
 *
 * For all other targets the same function is in tn_conv_dsp_portable_s8.c.
 */
#ifndef TN_CONV_DSP_H
#define TN_CONV_DSP_H

#include "tn_kernels.h"

typedef struct {
  tn_shape input, output;
  tn_window window;
  uint16_t input_ring, output_ring;
  uint16_t inner_first, inner_last; /* output columns whose windows reach over neither border; none if dilated */
  uint16_t run_bytes;
  uint16_t runs_per_row; /* per kernel row */
  uint16_t steps;        /* words of one window */
  int8_t input_zero_point;
  int8_t minimum, maximum;
  uint8_t pointwise;     /* the window of a pixel is the pixel at the same place of the input */
  uint8_t output_planes; /* an output row is stored channel by channel */
  /* For each pair of channels: two biases; weights of (first, second) channel for each step; and two multipliers. If
   * the first multiplier's bit 31 is set, these are for two roundings, and two rounding terms and the shifts, in the
   * lowest bytes of a last word, follow. An odd channel at the end is paired with the one before, which is thus
   * computed twice. Outputs are (sum * multiplier) >> 44, where sums are 256 times what they would be elsewhere, plus
   * an offset; or
   * ((sum * multiplier >> 32) + term - (sum < 0 ? 128 : 0)) >> shift; and saturated to int8. */
  const uint32_t *stream;
  uint32_t pairs_words, stream_words; /* without, and with the pair of an odd channel */
} tn_conv_dsp_layer;

/* Rows [first, first + rows) of the output; row r of a buffer lies in slot r % ring. scratch: 3 * 4 * steps bytes (2
 * for outputs of fewer than 3 pixels), aligned to 4. */
void tn_conv_dsp_s8(const tn_conv_dsp_layer *layer, const int8_t *input, int8_t *output, int8_t *scratch,
                    uint32_t first, uint32_t rows);

/* Not for callers: what the matrix multiplications need to know. */
typedef struct {
  /* s0-s9 */
  const int8_t *windows; /* scratch */
  const int8_t *end;     /* of the windows */
  uint32_t entry;        /* bytes from where the unrolled loop is entered to its end, less 1 (Thumb) */
  int8_t *output;        /* of the first pixel */
  uint32_t pixel_step, channel_step;
  const uint32_t *stream, *pairs_end; /* without the pair of an odd channel */
  const uint32_t *stream_end;
  uint32_t copy_entry; /* as entry, of the loop that gathers */
  /* For three pixels at a time only. */
  const int8_t *from;      /* the first pixel's first run */
  uint32_t input_step;     /* from pixel to pixel */
  int8_t *to;              /* where the first run's words go */
  uint32_t copies;         /* of a run, in rounds of the unrolled loop */
  uint32_t next_row;       /* from a run's end to the next row's */
  const int8_t *input_end; /* of the ring */
  int32_t rows;            /* to be gathered; 0: somebody else has done that; TN_COLOR_ROWS */
  int8_t *tails;           /* where the first run's last bytes go; null if it has only whole words */
  uint32_t tail, ring_bytes, blocks;
  /* For two pixels. */
  const int8_t *end_of_two;
  uint32_t entry_of_two;
} tn_conv_dsp_block;

enum {
  TN_THREE_STEP_BYTES = 88,
  TN_THREE_UNROLLED = 8,
  TN_COPY_STEP_BYTES = 36,
  TN_COPY_UNROLLED = 4,
  TN_TWO_STEP_BYTES = 64,
  TN_TWO_UNROLLED = 8,
  TN_COLOR_ROWS = -1 /* three rows of runs of 9 bytes, as first layers have them */
};

/* Gathers and multiplies three pixels, blocks times, and moves on from and output. */
void tn_matmul_three_dsp_s8(tn_conv_dsp_block *block);

/* Multiplies two pixels that have been gathered, whose outputs are pixel_step apart. */
void tn_matmul_two_dsp_s8(const tn_conv_dsp_block *block, int8_t *output, uint32_t pixel_step);

#endif
