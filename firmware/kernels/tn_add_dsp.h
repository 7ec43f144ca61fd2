/* Additions on Armv7E-M; tn_add_portable_s8 is the same in plain C, for all other cores. */
#ifndef TN_ADD_DSP_H
#define TN_ADD_DSP_H

#include "tn_kernels.h"

/* (floor(a * factors[0] / 2^8) + floor(b * factors[1] / 2^8) + offset) >> 20, clamped. export/kernels/dsp_add.py has
 * compared this with LiteRT's arithmetic for all pairs of inputs. */
typedef struct {
  uint32_t elements;
  int32_t factors[2];
  int32_t offset;
  int8_t minimum, maximum;
} tn_add_dsp_layer;

void tn_add_dsp_s8(const tn_add_dsp_layer *layer, const int8_t *input_a, const int8_t *input_b, int8_t *output);

#endif
