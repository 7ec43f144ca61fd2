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

/* How many bytes have come in all, read or not; wraps. Their interrupts disturb whatever is timed. */
uint32_t platform_received_bytes(void);

/* The rate nearest to baud that the UART can do, or 0 if none is within 2.5 %. */
uint32_t platform_baud(uint32_t baud);

/* Changes to a rate that platform_baud gave, once what was written is out. */
void platform_set_baud(uint32_t baud);

/* Resets the part, once what was written is out. */
void platform_restart(void);

/* Time since the start. */
uint64_t platform_ticks(void);
uint32_t platform_ticks_per_second(void);

/* Memory that nothing else uses. */
uint8_t *platform_free_memory(size_t *bytes);

typedef struct {
  uint32_t static_bytes; /* variables other than the model's arena */
  uint32_t stack_bytes, stack_used_bytes;
  uint32_t free_bytes;
} platform_memory;

/* The most of the stack that was ever used since the start, from the paint that is left of it. */
void platform_measure_memory(platform_memory *memory);

/* For interrupt handlers only: bytes are taken from the UART one by one, each after a test for room. */
int platform_has_room(void);
void platform_lost(void);
void platform_received(uint8_t byte);
void platform_tick_handler(void);

#endif
