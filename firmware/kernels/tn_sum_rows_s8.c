#include "tn_internal.h"

void tn_sum_rows_s8(const tn_shape *shape, uint32_t ring, const int8_t *input, int32_t *sums, uint32_t first,
                    uint32_t rows) {
  const uint32_t channels = shape->channels, columns = shape->columns;
  if (first == 0) {
    for (uint32_t c = 0; c < channels; c++) sums[c] = 0;
  }
  for (uint32_t y = first; y < first + rows; y++) {
    const int8_t *row = input + y % ring * columns * channels;
    uint32_t c = 0;
    for (; c + 4 <= channels; c += 4) {
      const int8_t *from = row + c;
      int32_t s0 = sums[c], s1 = sums[c + 1], s2 = sums[c + 2], s3 = sums[c + 3];
      for (uint32_t n = columns; n; n--, from += channels) {
        int32_t x0 = from[0], x1 = from[1], x2 = from[2], x3 = from[3];
        s0 += x0;
        s1 += x1;
        s2 += x2;
        s3 += x3;
      }
      sums[c] = s0;
      sums[c + 1] = s1;
      sums[c + 2] = s2;
      sums[c + 3] = s3;
    }
    for (; c < channels; c++) {
      const int8_t *from = row + c;
      int32_t sum = sums[c];
      for (uint32_t n = columns; n; n--, from += channels) sum += *from;
      sums[c] = sum;
    }
  }
}
