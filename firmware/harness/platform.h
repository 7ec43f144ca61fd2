/* What the protocol needs from the machine that it runs on: a byte stream, a clock, and the memory that is left. */
#ifndef PLATFORM_H
#define PLATFORM_H

#include <stddef.h>
#include <stdint.h>

#define PLATFORM_TIMEOUT (-1)
#define PLATFORM_OVERRUN (-2) /* bytes were lost before the next one */

void platform_start(void);

/* The next byte, or PLATFORM_TIMEOUT when none came within timeout_ms, or PLATFORM_OVERRUN. A timeout of 0 waits for
 * ever. */
int platform_read(uint32_t timeout_ms);

void platform_write(const char *text);

/* Time since the start. */
uint64_t platform_ticks(void);
uint32_t platform_ticks_per_second(void);

/* Memory that nothing else uses. */
uint8_t *platform_free_memory(size_t *bytes);

/* For interrupt handlers only: bytes are taken from the UART one by one, each after a test for room. */
int platform_has_room(void);
void platform_lost(void);
void platform_received(uint8_t byte);
void platform_tick_handler(void);

#endif
