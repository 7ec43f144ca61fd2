#if defined(__ARM_FEATURE_DSP)
#include <arm_acle.h>
#include <string.h>

#include "tn_depthwise_dsp_internal.h"

void tn_depthwise_clamp_dsp_s8(int8_t *at, uint32_t bytes, int8_t minimum, int8_t maximum) {
  const int8x4_t minima = (int8x4_t)((uint8_t)minimum * 0x01010101u);
  const int8x4_t maxima = (int8x4_t)((uint8_t)maximum * 0x01010101u);
  for (; bytes >= 4; bytes -= 4, at += 4) {
    int8x4_t word;
    memcpy(&word, at, sizeof word);
    __ssub8(word, minima);
    word = (int8x4_t)__sel((uint8x4_t)word, (uint8x4_t)minima);
    __ssub8(maxima, word);
    word = (int8x4_t)__sel((uint8x4_t)word, (uint8x4_t)maxima);
    memcpy(at, &word, sizeof word);
  }
  for (; bytes; bytes--, at++) *at = tn_clamp(*at, minimum, maximum);
}

#endif
