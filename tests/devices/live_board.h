#ifndef LIVE_BOARD_H
#define LIVE_BOARD_H

#include <stdint.h>

/* What a model's layer calls, so that it takes this many ticks. */
void live_compute(uint32_t ticks);

#endif
