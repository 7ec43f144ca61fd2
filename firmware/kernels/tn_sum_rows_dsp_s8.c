#include "tn_internal.h"

#if defined(__ARM_FEATURE_DSP) /* the same function as that of tn_sum_rows_s8 */

#include <string.h>

#define MOST_PIXELS 256 /* whose sums of int8 16 bits hold */

/* Four channels' sums, in pairs of 16 bits. */
typedef struct {
  uint32_t even, odd;
} four_sums;

static inline four_sums add_one(four_sums sums, const int8_t *from) {
  uint32_t word;
  memcpy(&word, from, sizeof word);
  __asm(
      "sxtab16 %[even], %[even], %[word]\n"
      "sxtab16 %[odd], %[odd], %[word], ror #8\n"
      : [even] "+r"(sums.even), [odd] "+r"(sums.odd)
      : [word] "r"(word));
  return sums;
}

/* In assembly for its loads to follow each other. */
static inline four_sums add_two(four_sums sums, const int8_t *from, uint32_t channels) {
  uint32_t first, second;
  __asm volatile(
      "ldr %[first], [%[from]]\n"
      "ldr %[second], [%[from], %[channels]]\n"
      "sxtab16 %[even], %[even], %[first]\n"
      "sxtab16 %[odd], %[odd], %[first], ror #8\n"
      "sxtab16 %[even], %[even], %[second]\n"
      "sxtab16 %[odd], %[odd], %[second], ror #8\n"
      : [even] "+r"(sums.even), [odd] "+r"(sums.odd), [first] "=&r"(first), [second] "=&r"(second)
      : [from] "r"(from), [channels] "r"(channels)
      : "memory");
  return sums;
}

/* Adds up to MOST_PIXELS pixels to the sums of all channels. */
static void add_pixels(const int8_t *input, uint32_t channels, uint32_t pixels, int32_t *sums) {
  const int8_t *end = input + channels, *end_of_fours = input + (channels & ~3u);
  for (; input != end_of_fours; input += 4, sums += 4) {
    const int8_t *from = input;
    four_sums part = {0, 0};
    if (pixels & 1) {
      part = add_one(part, from);
      from += channels;
    }
    for (uint32_t n = pixels >> 1; n; n--) {
      part = add_two(part, from, channels);
      from += 2 * channels;
    }
    int32_t s0 = sums[0], s1 = sums[1], s2 = sums[2], s3 = sums[3];
    sums[0] = s0 + (int16_t)part.even;
    sums[1] = s1 + (int16_t)part.odd;
    sums[2] = s2 + ((int32_t)part.even >> 16);
    sums[3] = s3 + ((int32_t)part.odd >> 16);
  }
  for (; input != end; input++, sums++) {
    const int8_t *from = input;
    int32_t sum = *sums;
    for (uint32_t n = pixels; n; n--, from += channels) sum += *from;
    *sums = sum;
  }
}

void tn_sum_rows_s8(const tn_shape *shape, uint32_t ring, const int8_t *input, int32_t *sums, uint32_t first,
                    uint32_t rows) {
  const uint32_t channels = shape->channels;
  if (first == 0) {
    for (uint32_t c = 0; c < channels; c++) sums[c] = 0;
  }
  input += first % ring * shape->columns * channels;
  uint32_t pixels = rows * shape->columns; /* several rows follow each other */
  for (; pixels > MOST_PIXELS; pixels -= MOST_PIXELS) {
    add_pixels(input, channels, MOST_PIXELS, sums);
    input += MOST_PIXELS * channels;
  }
  add_pixels(input, channels, pixels, sums);
}

#endif
