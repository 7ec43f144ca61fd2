#include "tn_internal.h"

#if !defined(__ARM_FEATURE_DSP) /* else see tn_sum_rows_dsp_s8: the comment is what bundles find it by */

void tn_sum_rows_s8(const tn_shape *shape, uint32_t ring, const int8_t *input, int32_t *sums, uint32_t first,
                    uint32_t rows) {
  const uint32_t channels = shape->channels, pixels = rows * shape->columns; /* several rows follow each other */
  if (first == 0) {
    for (uint32_t c = 0; c < channels; c++) sums[c] = 0;
  }
  input += first % ring * shape->columns * channels;
  uint32_t left = channels;
  for (; left >= 4; left -= 4) {
    const int8_t *from = input;
    int32_t s0 = sums[0], s1 = sums[1], s2 = sums[2], s3 = sums[3];
    for (uint32_t n = pixels; n; n--) {
      int32_t x0 = from[0], x1 = from[1], x2 = from[2], x3 = from[3];
      s0 += x0;
      s1 += x1;
      s2 += x2;
      s3 += x3;
      from += channels;
    }
    sums[0] = s0;
    sums[1] = s1;
    sums[2] = s2;
    sums[3] = s3;
    sums += 4;
    input += 4;
  }
  for (; left; left--) {
    const int8_t *from = input++;
    int32_t sum = *sums;
    for (uint32_t n = pixels; n; n--, from += channels) sum += *from;
    *sums++ = sum;
  }
}

#endif
