#include "tn_add_dsp.h"

#if defined(__ARM_FEATURE_DSP)

#include <string.h>

#include "tn_internal.h"

static inline uint32_t load(const int8_t *from) {
  uint32_t word;
  memcpy(&word, from, sizeof word);
  return word;
}

/* The four sums of a word of each input, clamped to int8. SMLAWB and SMLAWT take an input from the upper byte of a
 * lower or upper half: the even bytes are shifted there. */
static inline uint32_t add_words(uint32_t a, uint32_t b, int32_t factor_a, int32_t factor_b, int32_t offset,
                                 uint32_t mask) {
  uint32_t sum, even_a, even_b;
  __asm(
      "and %[ea], %[mask], %[a], lsl #8\n"
      "and %[eb], %[mask], %[b], lsl #8\n"
      "and %[a], %[mask]\n"
      "and %[b], %[mask]\n"
      "smlawb %[sum], %[fa], %[ea], %[offset]\n"
      "smlawt %[ea], %[fa], %[ea], %[offset]\n"
      "smlawb %[sum], %[fb], %[eb], %[sum]\n"
      "smlawt %[ea], %[fb], %[eb], %[ea]\n"
      "smlawb %[eb], %[fa], %[a], %[offset]\n"
      "smlawt %[a], %[fa], %[a], %[offset]\n"
      "smlawb %[eb], %[fb], %[b], %[eb]\n"
      "smlawt %[a], %[fb], %[b], %[a]\n"
      "ssat %[sum], #8, %[sum], asr #20\n"
      "ssat %[eb], #8, %[eb], asr #20\n"
      "ssat %[ea], #8, %[ea], asr #20\n"
      "ssat %[a], #8, %[a], asr #20\n"
      "bfi %[sum], %[eb], #8, #8\n"
      "bfi %[sum], %[ea], #16, #8\n"
      "bfi %[sum], %[a], #24, #8\n"
      : [sum] "=&r"(sum), [ea] "=&r"(even_a), [eb] "=&r"(even_b), [a] "+&r"(a), [b] "+&r"(b)
      : [fa] "r"(factor_a), [fb] "r"(factor_b), [offset] "r"(offset), [mask] "r"(mask));
  return sum;
}

void tn_add_dsp_s8(const tn_add_dsp_layer *layer, const int8_t *input_a, const int8_t *input_b, int8_t *output) {
  const int32_t factor_a = layer->factors[0], factor_b = layer->factors[1], offset = layer->offset;
  const uint32_t upper_bytes = 0xff00ff00;
  int8_t *to = output, *end = output + layer->elements, *end_of_words = output + (layer->elements & ~3u);
  while (to != end_of_words) {
    uint32_t sums = add_words(load(input_a), load(input_b), factor_a, factor_b, offset, upper_bytes);
    memcpy(to, &sums, sizeof sums);
    to += 4;
    input_a += 4;
    input_b += 4;
  }
  while (to != end) {
    *to++ = (int8_t)add_words((uint8_t)*input_a++, (uint8_t)*input_b++, factor_a, factor_b, offset, upper_bytes);
  }
  if (layer->minimum > INT8_MIN || layer->maximum < INT8_MAX) {
    for (; output != end; output++) *output = tn_clamp(*output, layer->minimum, layer->maximum);
  }
}

#endif
