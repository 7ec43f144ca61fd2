/* The harness's platform on the host: bytes from stdin, replies to stdout, so that the protocol runs under sanitizers.
 * The byte 2 stands for an overrun, except in raw data; the end of the input is a silent line. */
#include <stdio.h>
#include <stdlib.h>

#include "platform.h"
#include "protocol.h"

static uint8_t free_memory[FREE_BYTES + 1] __attribute__((aligned(8)));
static uint64_t ticks;

void platform_start(void) {}

int platform_read(uint32_t timeout_ms) {
  int byte = getchar();
  if (byte == EOF) {
    if (timeout_ms) return PLATFORM_TIMEOUT;
    exit(0);
  }
  return byte == 2 && !timeout_ms ? PLATFORM_OVERRUN : byte;
}

void platform_write(const char *text) { fputs(text, stdout); }

uint32_t platform_received_bytes(void) { return 0; }

uint32_t platform_baud(uint32_t baud) { return baud == 230400 ? 231884 : 0; }

void platform_set_baud(uint32_t baud) { printf("(%u baud)\r\n", (unsigned)baud); }

void platform_restart(void) { exit(0); }

void platform_measure_memory(platform_memory *memory) { *memory = (platform_memory){100, 4096, 600, FREE_BYTES}; }

uint64_t platform_ticks(void) { return ticks += 1500; }

uint32_t platform_ticks_per_second(void) { return 1000000; }

uint8_t *platform_free_memory(size_t *bytes) {
  *bytes = FREE_BYTES;
  return free_memory;
}

int main(void) { protocol_run(); }
