/* What the 3x3 depthwise kernels for Armv7E-M share. Not for callers. */
#ifndef TN_DEPTHWISE_DSP_INTERNAL_H
#define TN_DEPTHWISE_DSP_INTERNAL_H

#include "tn_depthwise_dsp.h"
#include "tn_internal.h"

/* For a row whose window reaches over the top or bottom: pairs of halfwords for the window's rows (0, 1) and (2, 2). */
typedef struct {
  uint32_t zero_points_01; /* the input's zero point where the row lies outside, else 0 */
  uint32_t inside_01;      /* all ones where the row lies inside, else 0 */
  uint32_t zero_points_22, inside_22;
} tn_depthwise_border;

/* What a core computes: one output row of some channels. The assembly loads all fields but the first into s1 ... s16.
 */
typedef struct {
  uint32_t unused;
  const int8_t *unused_position;
  int32_t row_1, row_2; /* from the window's row 0 to its others */
  const int8_t *unused_end;
  uint32_t pixel_bytes;              /* from an output to that of the next column */
  uint32_t zero_points;              /* the input's, in both halves */
  const tn_depthwise_border *border; /* null for rows whose window lies inside */
  const int32_t *channel, *channel_end;
  int8_t *before;       /* where the output of column -1 would be, of the first channel */
  const int8_t *plane;  /* column 0 of the window's row 0, of the first channel */
  uint32_t plane_bytes; /* from one channel's to the next's */
  uint32_t block_bytes; /* columns that are computed in blocks of four */
  uint32_t tail;        /* columns after the blocks: 0 ... 3 */
  uint32_t right;       /* 1: a column of padding follows */
  uint32_t left;        /* 1: a column of padding comes first */
} tn_depthwise_3x3_row;

void tn_depthwise_3x3_stride1_dsp_s8(const tn_depthwise_3x3_row *row);
void tn_depthwise_3x3_stride2_dsp_s8(const tn_depthwise_3x3_row *row);

/* The assembly of both strides.
 *
 * Core registers: r0 output, r1 r2 r3 weights of rows 0 (low half) and 1 of column 0, 1, 2, each times 256; r4 weights
 * of row 2 of column 1 (low) and 0, r5 of column 1 (low) and 2; r9 multiplier; r7, r8 sums; r6 scratch; r10, r11 pixels
 * of rows 0 and 1, columns 0 1 and 2 3; r12, lr pixels of row 2, columns 0 1 and 2 3.
 * FPU registers: s0 the channel's bias, s1 the position in row 0, s4 where the blocks end; others as in the struct. */

/* Unpacks a channel's constants and goes on to the next ones. With a border, rows outside of the input weigh nothing,
 * and their share, which is the same for all columns, goes to the bias (r7). */
#define TN_DEPTHWISE_CHANNEL           \
  "1:\n"                               \
  "  vmov r12, s8\n"                   \
  "  ldm r12!, {r1, r3, r5, r7, r9}\n" \
  "  vmov s8, r12\n"                   \
  "  mov lr, #0xFF00FF00\n"            \
  "  and r2, lr, r1, lsl #8\n"         \
  "  and r1, r1, lr\n"                 \
  "  and r4, lr, r3, lsl #8\n"         \
  "  and r3, r3, lr\n"                 \
  "  pkhbt r5, r4, r5\n"               \
  "  vmov r6, s7\n"                    \
  "  cbz r6, 2f\n"                     \
  "  ldm r6, {r8, r10, r11, r12}\n"    \
  "  smlad r7, r8, r1, r7\n"           \
  "  smlad r7, r8, r2, r7\n"           \
  "  smlad r7, r8, r3, r7\n"           \
  "  smlad r7, r11, r4, r7\n"          \
  "  smlatt r7, r11, r5, r7\n"         \
  "  and r1, r1, r10\n"                \
  "  and r2, r2, r10\n"                \
  "  and r3, r3, r10\n"                \
  "  and r4, r4, r12\n"                \
  "  and r5, r5, r12\n"                \
  "2:\n"                               \
  "  vmov s0, r7\n"                    \
  "  vmov r0, s10\n"                   \
  "  add r6, r0, #1\n"                 \
  "  vmov s10, r6\n"                   \
  "  vmov r6, s11\n"                   \
  "  vmov r10, s12\n"                  \
  "  add r10, r6, r10\n"               \
  "  vmov s11, r10\n"

/* One column in front of the others, at r6, into r8 (rows 0 and 1) and r12 (row 2); r6 steps on. */
#define TN_DEPTHWISE_FIRST_COLUMN \
  "  ldrsb r8, [r6, r10]\n"       \
  "  ldrsb r12, [r6, r11]\n"      \
  "  ldrsb lr, [r6], #1\n"        \
  "  pkhbt r8, lr, r8, lsl #16\n"

/* Notes where the blocks that begin at r6 end. */
#define TN_DEPTHWISE_BLOCKS_END \
  "  vmov lr, s13\n"            \
  "  add lr, lr, r6\n"          \
  "  vmov s4, lr\n"

#define TN_DEPTHWISE_POSITION \
  "  vmov r6, s1\n"           \
  "  vmov r10, s2\n"          \
  "  vmov r11, s3\n"

/* Loads four columns at r6; r10 and r11 hold the offsets of rows 1 and 2. Frees r11. */
#define TN_DEPTHWISE_LOAD  \
  "  ldr r10, [r6, r10]\n" \
  "  ldr r12, [r6, r11]\n" \
  "  ldr lr, [r6], #4\n"

/* Steps on; the flags tell until the block's end whether it is the last. */
#define TN_DEPTHWISE_STEP \
  "  vmov r11, s4\n"      \
  "  vmov s1, r6\n"       \
  "  cmp r6, r11\n"

#define TN_DEPTHWISE_ARRANGE        \
  "  pkhtb r11, r10, lr, asr #16\n" \
  "  pkhbt r10, lr, r10, lsl #16\n" \
  "  sxtb16 r6, r12\n"              \
  "  sxtb16 lr, r12, ror #8\n"      \
  "  pkhbt r12, r6, lr, lsl #16\n"  \
  "  pkhtb lr, lr, r6, asr #16\n"

/* Turns a sum into the output. */
#define TN_DEPTHWISE_OUTPUT(sum) \
  "  smmul " sum ", " sum        \
  ", r9\n"                       \
  "  ssat " sum ", #8, " sum ", asr #10\n"

#define TN_DEPTHWISE_NEXT_CHANNEL \
  "  vmov r6, s8\n"               \
  "  vmov r10, s9\n"              \
  "  cmp r6, r10\n"               \
  "  bne 1b\n"

#endif
