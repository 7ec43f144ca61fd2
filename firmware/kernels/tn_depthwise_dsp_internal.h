/* What the depthwise kernels for Armv7E-M share, and their portable forms. Not for callers. */
#ifndef TN_DEPTHWISE_DSP_INTERNAL_H
#define TN_DEPTHWISE_DSP_INTERNAL_H

#include "tn_depthwise_dsp.h"
#include "tn_internal.h"

/* What makes a row, or the start of a row, differ from the plain one: bits of tn_depthwise_3x3_row.special. */
#define TN_DEPTHWISE_SPECIAL 0x80000000u /* set with any other */
#define TN_DEPTHWISE_TOP 0x40000000u     /* row 0 lies outside of the input */
#define TN_DEPTHWISE_BOTTOM 0x20000000u  /* row 2 lies outside of the input */
/* The plain start is one column of padding with a stride of 1, and nothing with a stride of 2. */
#define TN_DEPTHWISE_ONE_COLUMN 0x10000000u    /* instead, one column of the input is read byte by byte */
#define TN_DEPTHWISE_PADDED_COLUMN 0x08000000u /* one of padding comes first, and then one is read byte by byte */

/* What a core computes: one output row of some channels. The assembly loads the fields into s0 ... s15. */
typedef struct {
  int32_t bias;                        /* set by the core */
  const int8_t *position, *blocks_end; /* set by the core */
  int32_t row_1, row_2;                /* from the window's row 0 to its others; anywhere for a row that lies outside */
  uint32_t pixel_bytes;                /* from an output to that of the next column */
  uint32_t zero_points;                /* the input's, in both halves */
  uint32_t special;
  const int32_t *channel, *channel_end;
  int8_t *before;       /* where the output of column -1 would be, of the first channel */
  const int8_t *plane;  /* column 0 of the window's row 0, of the first channel */
  uint32_t plane_bytes; /* from one channel's to the next's */
  uint32_t block_bytes; /* columns that are computed in blocks of four */
  int32_t tail;         /* columns after the blocks, INT32_MIN for none */
  uint32_t right;       /* 1: a column of padding follows */
} tn_depthwise_3x3_row;

typedef void tn_depthwise_3x3_core(const tn_depthwise_3x3_row *row);

void tn_depthwise_3x3_rows_dsp_s8(const tn_depthwise_3x3_dsp_layer *layer, const int8_t *input, int8_t *output,
                                  int8_t *scratch, uint32_t first, uint32_t rows, tn_depthwise_3x3_core *core);

/* One channel's row of outputs from windows of any size. Every window is a run of bytes. */
typedef struct {
  const int8_t *pixels, *weights, *weights_end;
  uint32_t step; /* from one window to the next */
  uint32_t three_steps;
  uint32_t single; /* 1: a single byte follows the words */
  int32_t bias;
  int32_t multiplier, rounding, shift;
  int32_t correction; /* what rounds halves of negative numbers away from zero */
  int8_t *output;
  uint32_t output_step;
  uint32_t count;
} tn_depthwise_window_row;

/* Reads the windows of a multiple of four outputs. */
void tn_depthwise_window_dsp_s8(const tn_depthwise_window_row *row);

/* Copies rows of count bytes. Bytes are from_step and to_step apart, rows row_bytes and 1. */
void tn_depthwise_spread_dsp_s8(const int8_t *from, uint32_t from_step, int8_t *to, uint32_t to_step, uint32_t count,
                                uint32_t rows, uint32_t row_bytes);

/* Copies four channels of 4 * quads pixels, pitch apart: channel c's to to + c * channel_bytes. */
void tn_depthwise_transpose_dsp_s8(const int8_t *from, uint32_t pitch, int8_t *to, uint32_t channel_bytes,
                                   uint32_t quads);

void tn_depthwise_clamp_dsp_s8(int8_t *at, uint32_t bytes, int8_t minimum, int8_t maximum);

/* What the portable forms read pixels from. */
typedef struct {
  const int8_t *input;
  tn_shape shape;
  uint16_t ring;
  uint8_t planes;
  int8_t zero_point;
} tn_depthwise_source;

/* A pixel, or the zero point outside of the input. */
static inline int32_t tn_depthwise_pixel(const tn_depthwise_source *source, int32_t row, int32_t column,
                                         uint32_t channel) {
  const uint32_t columns = source->shape.columns, channels = source->shape.channels;
  if (row < 0 || row >= source->shape.rows || column < 0 || column >= source->shape.columns) return source->zero_point;
  const int8_t *from = source->input + (uint32_t)row % source->ring * columns * channels;
  return source->planes ? from[channel * columns + (uint32_t)column] : from[(uint32_t)column * channels + channel];
}

/* The assembly of the 3x3 cores.
 *
 * Core registers: r0 output; r1 r2 r3 weights of rows 0 (low half) and 1 of column 0, 1, 2, all weights times 256; r4
 * weights of row 2 of columns 1 (low) and 0, r5 of columns 1 (low) and 2; r7, r8 sums; r9 multiplier; r10, r11 pixels
 * of rows 0 and 1, columns 0 1 and 2 3; r12, lr pixels of row 2, columns 0 1 and 2 3; r6 whatever is needed next. FPU
 * registers hold the fields of tn_depthwise_3x3_row: s0 bias, s1 position, s2 end of the blocks, s3 s4 rows 1 and 2, s5
 * pixel, s6 zero points, s7 special, s8 s9 channel and end, s10 before, s11 plane, s12 plane bytes, s13 block bytes,
 * s14 tail, s15 right. */

/* clang-format off */
#define TN_DEPTHWISE_ENTER \
  "  push {r4-r11, lr}\n" \
  "  vldm r0, {s0-s15}\n" \
  "  vmov r12, s8\n"

/* Unpacks the constants of the channel at r12: the bias goes to r7. */
#define TN_DEPTHWISE_CHANNEL \
  "1:\n" \
  "  ldm r12!, {r1, r3, r5, r7, r9}\n" \
  "  vmov s8, r12\n" \
  "  mov lr, #0xFF00FF00\n" \
  "  and r2, lr, r1, lsl #8\n" \
  "  and r1, r1, lr\n" \
  "  and r4, lr, r3, lsl #8\n" \
  "  and r3, r3, lr\n" \
  "  pkhbt r5, r4, r5\n" \
  "  vmov r6, s7\n" \
  "  orrs r6, r6, r9\n" \
  "  bmi 20f\n" \
  "2:\n"

/* A negative multiplier, less its sign, is for weights as they are, not times 256. Rows outside of the input weigh
 * nothing, and their share, which is the same for all columns, goes to the bias. Returns if the start is plain; else
 * the flags say minus for ONE_COLUMN. */
#define TN_DEPTHWISE_SPECIAL_CHANNEL \
  "19:\n" \
  "  bic r9, r9, #0x80000000\n" \
  "  sxtb16 r1, r1, ror #8\n" \
  "  sxtb16 r2, r2, ror #8\n" \
  "  sxtb16 r3, r3, ror #8\n" \
  "  sxtb16 r4, r4, ror #8\n" \
  "  sxtb16 r5, r5, ror #8\n" \
  "20:\n" \
  "  cmp r9, #0\n" \
  "  bmi 19b\n" \
  "  vmov r8, s6\n" \
  "  vmov r6, s7\n" \
  "  lsls r6, r6, #2\n" \
  "  bcc 24f\n" \
  "  smlabb r7, r8, r1, r7\n" \
  "  smlabb r7, r8, r2, r7\n" \
  "  smlabb r7, r8, r3, r7\n" \
  "  bfc r1, #0, #16\n" \
  "  bfc r2, #0, #16\n" \
  "  bfc r3, #0, #16\n" \
  "  bpl 23f\n" \
  "22:\n" \
  "  smlad r7, r8, r4, r7\n" \
  "  smlatt r7, r8, r5, r7\n" \
  "  mov r4, #0\n" \
  "  mov r5, #0\n" \
  "23:\n" \
  "  lsls r6, r6, #1\n" \
  "  beq 2b\n" \
  "  b 25f\n" \
  "24:\n" \
  "  bmi 22b\n" \
  "  lsls r6, r6, #1\n" \
  "  beq 2b\n" \
  "25:\n"

/* The channel's column 0 into r6; the next channel's is noted. */
#define TN_DEPTHWISE_PLANE \
  "  vmov r6, s11\n" \
  "  vmov r10, s12\n" \
  "  add r10, r10, r6\n" \
  "  vmov s11, r10\n"

/* The channel's output of column -1 into r0; the next channel's is noted, and so is the bias. */
#define TN_DEPTHWISE_OUTPUTS \
  "  vmov s0, r7\n" \
  "  vmov r0, s10\n" \
  "  add r11, r0, #1\n" \
  "  vmov s10, r11\n"

/* One column at r6 into r8 (rows 0 and 1) and r12 (row 2); r6 steps on. */
#define TN_DEPTHWISE_BYTES \
  "  vmov r10, s3\n" \
  "  vmov r11, s4\n" \
  "  ldrsb r8, [r6, r10]\n" \
  "  ldrsb r12, [r6, r11]\n" \
  "  ldrsb lr, [r6], #1\n" \
  "  pkhbt r8, lr, r8, lsl #16\n"

/* Notes where the blocks that begin at r6 end. */
#define TN_DEPTHWISE_BLOCKS_END \
  "  vmov r10, s13\n" \
  "  add r10, r10, r6\n" \
  "  vmov s2, r10\n"

/* Four columns at r6. */
#define TN_DEPTHWISE_LOAD \
  "  vmov r10, s3\n" \
  "  vmov r11, s4\n" \
  "  ldr r10, [r6, r10]\n" \
  "  ldr r12, [r6, r11]\n" \
  "  ldr lr, [r6], #4\n"

/* Steps on. Until the block's end the flags compare the next one's position with the end of all. */
#define TN_DEPTHWISE_STEP \
  "  vmov r11, s2\n" \
  "  vmov s1, r6\n" \
  "  cmp r6, r11\n"

#define TN_DEPTHWISE_ARRANGE \
  "  pkhtb r11, r10, lr, asr #16\n" \
  "  pkhbt r10, lr, r10, lsl #16\n" \
  "  sxtb16 r6, r12\n" \
  "  sxtb16 lr, r12, ror #8\n" \
  "  pkhbt r12, r6, lr, lsl #16\n" \
  "  pkhtb lr, lr, r6, asr #16\n"

/* Turns a sum into the output. */
#define TN_DEPTHWISE_REQUANTIZE(sum) \
  "  smmul " sum ", " sum ", r9\n" \
  "  ssat " sum ", #8, " sum ", asr #10\n"

/* With a stride of 1, column k of a block of four completes output k - 2, continues output k - 1 and begins output k. Outputs that are
 * completed in even columns build up in r7, the others in r8. Row 2 is added when an output begins and when it is
 * complete, two columns at a time where they make a pair. */
#define TN_DEPTHWISE_EVEN_COMPLETE(packed, row_2) \
  "  sxtb16 r6, " packed "\n" \
  "  smlad r7, r6, r3, r7\n" \
  "  smlabt r7, " row_2 ", r5, r7\n" \
  TN_DEPTHWISE_REQUANTIZE("r7") \
  "  strb r7, [r0]\n" \
  "  smlad r8, r6, r2, r8\n"

#define TN_DEPTHWISE_EVEN_BEGIN(row_2) \
  "  vmov r7, s0\n" \
  "  smlad r7, r6, r1, r7\n" \
  "  smladx r7, " row_2 ", r4, r7\n"

#define TN_DEPTHWISE_ODD_COMPLETE(packed, row_2) \
  "  sxtb16 " packed ", " packed ", ror #8\n" \
  "  smlad r8, " packed ", r3, r8\n" \
  "  smlad r8, " row_2 ", r5, r8\n" \
  TN_DEPTHWISE_REQUANTIZE("r8") \
  "  vmov r6, s5\n" \
  "  strb r8, [r0, r6]\n" \
  "  add r0, r0, r6, lsl #1\n" \
  "  smlad r7, " packed ", r2, r7\n"

#define TN_DEPTHWISE_ODD_BEGIN(packed, row_2) \
  "  vmov r8, s0\n" \
  "  smlad r8, " packed ", r1, r8\n" \
  "  smlatt r8, " row_2 ", r4, r8\n"


#define TN_DEPTHWISE_NEXT_CHANNEL \
  "  vmov r12, s8\n" \
  "  vmov r10, s9\n" \
  "  cmp r12, r10\n" \
  "  bne 1b\n" \
  "  pop {r4-r11, pc}\n"
/* clang-format on */

#endif
