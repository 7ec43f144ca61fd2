/* The harness's platform on the host, in real time: it talks over stdin and stdout, which are a socket or a terminal.
 * Its clock counts what the model says that it takes, so that every input has its own known number of ticks; only
 * timeouts go by the host's clock. A restart is a new process with the same descriptors. */
#define _GNU_SOURCE
#include "live_board.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "platform.h"
#include "protocol.h"

#define TICKS_PER_SECOND 100000000u /* of the model's clock; what waits goes by the host's */
#define RING_BYTES 4096u
#define DRAIN_MS 500u /* nobody may be reading */

static uint8_t free_memory[FREE_BYTES + 1] __attribute__((aligned(8)));
static uint8_t ring[RING_BYTES];
static uint32_t ring_head, ring_tail, received;
static uint64_t ticks;
static char out[4096];
static size_t out_bytes;
static char **arguments;

static uint64_t host_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u;
}

static void send_out(void) {
  for (size_t sent = 0; sent < out_bytes;) {
    ssize_t count = write(STDOUT_FILENO, out + sent, out_bytes - sent);
    if (count <= 0) exit(0); /* nobody is there any more */
    sent += (size_t)count;
  }
  out_bytes = 0;
}

/* Takes what is there, or waits for it. */
static int take_in(int timeout_ms) {
  struct pollfd line = {.fd = STDIN_FILENO, .events = POLLIN};
  if (poll(&line, 1, timeout_ms) <= 0) return 0;
  uint8_t bytes[RING_BYTES];
  ssize_t count = read(STDIN_FILENO, bytes, RING_BYTES - (ring_head - ring_tail));
  if (count <= 0) exit(0);
  for (ssize_t i = 0; i < count; ++i) ring[ring_head++ % RING_BYTES] = bytes[i];
  received += (uint32_t)count;
  return 1;
}

void live_compute(uint32_t count) {
  ticks += count;
  take_in(0); /* what comes meanwhile disturbs */
}

void platform_start(void) {}

/* Waiting takes time of the board's clock too; it is never within what is timed. */
int platform_read(uint32_t timeout_ms) {
  send_out();
  uint64_t start = host_ms(), waited = 0;
  while (ring_head == ring_tail && (!timeout_ms || waited < timeout_ms)) {
    take_in(timeout_ms ? (int)(timeout_ms - waited) : -1);
    waited = host_ms() - start;
  }
  ticks += waited * (TICKS_PER_SECOND / 1000u);
  return ring_head == ring_tail ? PLATFORM_TIMEOUT : ring[ring_tail++ % RING_BYTES];
}

void platform_write(const char *text) {
  for (; *text; ++text) {
    if (out_bytes == sizeof out) send_out();
    out[out_bytes++] = *text;
  }
}

uint32_t platform_received_bytes(void) { return received; }

/* The speed at this end is told to whoever holds the line by a byte on stderr: the number of the speed in this list. */
static const uint32_t bauds[] = {115200, 230400, 921600};

uint32_t platform_baud(uint32_t baud) {
  for (size_t i = 0; i < sizeof bauds / sizeof *bauds; ++i) {
    if (bauds[i] == baud) return baud;
  }
  return 0;
}

/* As a UART does before its speed changes: until all that was sent is on the line. Whoever holds it has to read it. */
static void drain(void) {
  uint64_t end = host_ms() + DRAIN_MS;
  int waiting = 0;
  do {
    usleep(1000);
  } while (ioctl(STDOUT_FILENO, TIOCOUTQ, &waiting) == 0 && waiting > 0 && host_ms() < end);
}

void platform_set_baud(uint32_t baud) {
  send_out();
  drain();
  for (size_t i = 0; i < sizeof bauds / sizeof *bauds; ++i) {
    char number = (char)('0' + i);
    if (bauds[i] == baud && write(STDERR_FILENO, &number, 1) != 1) exit(0);
  }
}

void platform_restart(void) {
  send_out();
  execv(arguments[0], arguments);
  exit(1);
}

uint64_t platform_ticks(void) { return ticks; }

uint32_t platform_ticks_per_second(void) { return TICKS_PER_SECOND; }

uint8_t *platform_free_memory(size_t *bytes) {
  *bytes = FREE_BYTES;
  return free_memory;
}

void platform_measure_memory(platform_memory *memory) { *memory = (platform_memory){100, 4096, 600, FREE_BYTES}; }

int main(int count, char **values) {
  (void)count;
  arguments = values;
  platform_set_baud(bauds[0]);
  protocol_run();
}
