#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FP)
#include "tn_depthwise_channels_dsp.h"
#include "tn_depthwise_dsp_internal.h"

/* A row of outputs. The order of the fields is that of the assembly's registers. */
typedef struct {
  const int8_t **taps;   /* filled by the core: where each tap's pixel lies */
  const int8_t *corner;  /* input row of the first tap inside, column of the first tap, be it inside or not */
  uint32_t column;       /* of the first tap; columns before the input's first are beyond its last */
  uint32_t columns;      /* of the input */
  const int8_t *outside; /* what taps outside of the input read */
  uint32_t row_bytes;
  const int8_t *ring_end;
  uint32_t ring_bytes;
  uint32_t before, inside, after; /* rows of the window */
  uint32_t kernel_columns;
  uint32_t channels;
  const int8_t **taps_end;
  const int32_t *groups;
  uint32_t last_group; /* its first channel */
  int8_t *output;
  int32_t rounding; /* twice the output's zero point, and one */
  uint32_t outputs;
  uint32_t stride, stride_bytes;
} tn_row;

/* r0 position among the taps, r1 among the constants, r2 group's first channel, r3 end of the taps, r4 ... r7 sums; s0
 * channels, s1 end of the taps, s2 constants, s3 last group, s4 output, s5 rounding, s6 taps, s7 the field channels. */
/* clang-format off */
#define PAIR(pixels, weights, even, odd, spare) \
  "  sxtb16 lr, " pixels "\n" \
  "  sxtb16 " spare ", " weights "\n" \
  "  sxtb16 " pixels ", " pixels ", ror #8\n" \
  "  sxtb16 " weights ", " weights ", ror #8\n" \
  "  smlad " even ", lr, " spare ", " even "\n" \
  "  smlad " odd ", " pixels ", " weights ", " odd "\n"

#define SCALE(sum, bias, multiplier) \
  "  add " sum ", " bias ", " sum ", lsl #8\n" \
  "  smmul " sum ", " sum ", " multiplier "\n" \
  "  ssat " sum ", #8, " sum ", asr #10\n"

/* Halves are rounded away from zero. r0 shift less one, r3 rounding. */
#define ROUND(sum, bias, multiplier) \
  "  adds " sum ", " sum ", " bias "\n" \
  "  lsl " bias ", r3, r0\n" \
  "  ite pl\n" \
  "  addpl " bias ", " bias ", #64\n" \
  "  submi " bias ", " bias ", #64\n" \
  "  lsl " sum ", " sum ", #8\n" \
  "  smmla " sum ", " sum ", " multiplier ", " bias "\n" \
  "  asr " sum ", " sum ", r0\n" \
  "  ssat " sum ", #8, " sum ", asr #1\n"

__attribute__((naked)) static void core(__attribute__((unused)) tn_row *row) {
  __asm volatile(
      "  push {r4-r11, lr}\n"
      "5:\n"
      "  ldm r0!, {r1-r12}\n"
      "  vldm r0, {s0-s5}\n"
      "  vmov s6, r1\n"
      "  vmov s7, r0\n"
      /* A column of the window. */
      "6:\n"
      "  cmp r3, r4\n"
      "  bhs 9f\n"
      "  mov lr, r2\n"
      "  movs r0, r9\n"
      "  beq 8f\n"
      "7:\n"
      "  str r5, [r1], #4\n"
      "  subs r0, r0, #1\n"
      "  bne 7b\n"
      "8:\n"
      "  mov r0, r10\n"
      "81:\n"
      "  str lr, [r1], #4\n"
      "  add lr, lr, r6\n"
      "  cmp lr, r7\n"
      "  it hs\n"
      "  subhs lr, lr, r8\n"
      "  subs r0, r0, #1\n"
      "  bne 81b\n"
      "  movs r0, r11\n"
      "  beq 11f\n"
      "  b 10f\n"
      "9:\n"
      "  add r0, r9, r10\n"
      "  add r0, r0, r11\n"
      "10:\n"
      "  str r5, [r1], #4\n"
      "  subs r0, r0, #1\n"
      "  bne 10b\n"
      "11:\n"
      "  vmov r0, s0\n"
      "  add r2, r2, r0\n"
      "  add r3, r3, #1\n"
      "  subs r12, r12, #1\n"
      "  bne 6b\n"
      "  vmov r3, s1\n"
      "  vmov r1, s2\n"
      "  vmov r2, s3\n"
      /* A group of channels. */
      "1:\n"
      "  vmov r0, s6\n"
      "  ldr r8, [r0], #4\n"
      "  ldr r9, [r1], #4\n"
      "  ldr r8, [r8, r2]\n"
      "  sxtb16 r12, r9\n"
      "  sxtb16 r9, r9, ror #8\n"
      "  sxtb16 lr, r8\n"
      "  sxtb16 r8, r8, ror #8\n"
      "  smulbb r4, lr, r12\n"
      "  smulbb r5, r8, r9\n"
      "  smultt r6, lr, r12\n"
      "  smultt r7, r8, r9\n"
      "2:\n"
      "  ldr r8, [r0], #4\n"
      "  ldr r9, [r0], #4\n"
      "  ldr r10, [r1], #4\n"
      "  ldr r11, [r1], #4\n"
      "  ldr r8, [r8, r2]\n"
      "  ldr r9, [r9, r2]\n"
      "  cmp r0, r3\n"
      "  pkhtb r12, r9, r8, asr #16\n"
      "  pkhbt r8, r8, r9, lsl #16\n"
      PAIR("r8", "r10", "r4", "r5", "r9")
      PAIR("r12", "r11", "r6", "r7", "r8")
      "  bne 2b\n"
      "  ldm r1!, {r0, r8, r9, r10, r11, r12, lr}\n"
      "  cbnz r0, 4f\n"
      SCALE("r4", "r8", "r9")
      SCALE("r5", "r10", "r11")
      SCALE("r6", "r12", "lr")
      "  ldm r1!, {r8, r9}\n"
      SCALE("r7", "r8", "r9")
      "3:\n"
      "  vmov r0, s4\n"
      "  add r0, r0, r2\n"
      "  strb r4, [r0]\n"
      "  strb r5, [r0, #1]\n"
      "  strb r6, [r0, #2]\n"
      "  strb r7, [r0, #3]\n"
      "  subs r2, r2, #4\n"
      "  bpl 1b\n"
      "  cmn r2, #4\n"
      "  mov r2, #0\n"
      "  bne 1b\n"
      "  b 12f\n"
      "4:\n"
      "  vmov r3, s5\n"
      ROUND("r4", "r8", "r9")
      "  lsr r0, r0, #8\n"
      ROUND("r5", "r10", "r11")
      "  lsr r0, r0, #8\n"
      ROUND("r6", "r12", "lr")
      "  lsr r0, r0, #8\n"
      "  ldm r1!, {r8, r9}\n"
      ROUND("r7", "r8", "r9")
      "  vmov r3, s1\n"
      "  b 3b\n"
      "12:\n"
      "  vmov r0, s7\n"
      "  ldr r1, [r0, #24]\n"
      "  subs r1, r1, #1\n"
      "  beq 13f\n"
      "  str r1, [r0, #24]\n"
      "  ldrd r1, r2, [r0, #28]\n"
      "  ldr r3, [r0, #16]\n"
      "  ldr r4, [r0, #-40]\n"
      "  ldr r5, [r0, #-44]\n"
      "  vmov r6, s0\n"
      "  add r3, r3, r6\n"
      "  add r4, r4, r1\n"
      "  add r5, r5, r2\n"
      "  str r3, [r0, #16]\n"
      "  str r4, [r0, #-40]\n"
      "  str r5, [r0, #-44]\n"
      "  sub r0, r0, #48\n"
      "  b 5b\n"
      "13:\n"
      "  pop {r4-r11, pc}\n");
}
/* clang-format on */

void tn_depthwise_channels_dsp_s8(const tn_depthwise_channels_dsp_layer *layer, const int8_t *input, int8_t *output,
                                  int8_t *scratch, uint32_t first, uint32_t rows) {
  const tn_window *w = &layer->window;
  const uint32_t channels = layer->input.channels, kernel_rows = w->kernel_rows;
  const uint32_t in_bytes = layer->input.columns * channels, out_bytes = layer->output.columns * channels;
  const int8_t **taps = (const int8_t **)(void *)scratch, **taps_end = taps + layer->taps;
  const uint32_t zero_point = (uint8_t)layer->input_zero_point * 0x01010101u;
  uint32_t *zero_points = (uint32_t *)(void *)taps_end;
  tn_row row = {
      .taps = taps,
      .columns = layer->input.columns,
      .outside = (const int8_t *)taps_end,
      .row_bytes = in_bytes,
      .ring_end = input + layer->input_ring * in_bytes,
      .ring_bytes = layer->input_ring * in_bytes,
      .kernel_columns = w->kernel_columns,
      .channels = channels,
      .taps_end = taps_end,
      .groups = layer->groups,
      .last_group = channels - 4,
      .rounding = 2 * layer->output_zero_point + 1,
      .stride = w->stride_columns,
      .stride_bytes = w->stride_columns * channels,
  };
  /* Taps that are added to the window's. */
  taps_end[-1] = taps_end[-2] = row.outside;
  for (uint32_t c = 0; c < channels; c += 4) *zero_points++ = zero_point;
  for (uint32_t y = first; rows; y++, rows--) {
    const int32_t top = (int32_t)(y * w->stride_rows) - w->padding_top, below = layer->input.rows - top;
    const uint32_t before = top < 0 ? (uint32_t)-top : 0;
    const uint32_t end = below < (int32_t)kernel_rows ? (uint32_t)below : kernel_rows;
    row.before = before;
    row.inside = end - before;
    row.after = kernel_rows - end;
    row.column = 0u - w->padding_left;
    row.corner = input + ((uint32_t)top + before) % layer->input_ring * in_bytes - w->padding_left * channels;
    row.outputs = layer->output.columns;
    row.output = output + y % layer->output_ring * out_bytes;
    int8_t *const to = row.output;
    core(&row);
    if (layer->minimum > -128 || layer->maximum < 127) {
      tn_depthwise_clamp_dsp_s8(to, out_bytes, layer->minimum, layer->maximum);
    }
  }
}

#endif
