/* The model's facts as one value, so that only model_info.c is compiled anew for each model. */
#ifndef MODEL_INFO_H
#define MODEL_INFO_H

#include <stdint.h>

typedef struct {
  const char *name, *id, *benchmark;
  uint32_t arena_bytes, input_bytes, input_element_bytes, output_bytes, output_element_bytes, layers, steps;
  float input_scale, output_scale;
  int32_t input_zero_point, output_zero_point;
  void *(*input)(void); /* NULL when an input is streamed: it then never exists whole in the arena */
  const void *(*output)(void);
  void (*invoke)(const uint8_t *input); /* the input is for models that stream it */
  /* Prepares a step of an inference, from 0 upwards, and says which layer to call for it; layers if none. */
  uint32_t (*layer_at)(uint32_t step, const uint8_t *input);
  void (*const *layer)(void);
} tn_model_info;

extern const tn_model_info tn_model;

#endif
