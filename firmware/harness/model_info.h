/* The model's facts as one value, so that only model_info.c is compiled anew for each model. */
#ifndef MODEL_INFO_H
#define MODEL_INFO_H

#include <stdint.h>

typedef struct {
  const char *name, *id;
  uint32_t arena_bytes, input_bytes, output_bytes, output_element_bytes, layers;
  float output_scale;
  int32_t output_zero_point;
  void *(*input)(void);
  const void *(*output)(void);
  void (*invoke)(void);
  void (*const *layer)(void);
} tn_model_info;

extern const tn_model_info tn_model;

#endif
