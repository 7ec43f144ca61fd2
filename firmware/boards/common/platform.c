/* The platform on a Cortex-M: bytes come by interrupt into a ring, time comes from a counter of core clocks. An
 * interrupt counts its wraps, at a cost of some 30 cycles in two million. */
#include "platform.h"

#include "board.h"
#include "cortexm.h"

#define RING_BYTES 128u /* a power of two, more than the longest command */
#define UART_INTERRUPT_BIT (1u << (TN_UART_INTERRUPT % 32))
#define PAUSE_LOOPS 150u /* some 1,500 cycles: less than a byte takes at 115,200 baud and 25 MHz */
#define POLLS_BEFORE_SLEEP 20u

#define SLOWEST_BAUD 9600u
#define BAUD_TOLERANCE 40u    /* one part in so many */
#define DRAIN_PER_SECOND 400u /* the part of a second in which two characters leave at the slowest rate */

extern uint8_t tn_stack_bottom[], tn_stack_top[], tn_data_start[], tn_bss_end[], tn_free_start[], tn_free_end[];

static uint8_t ring[RING_BYTES];
static volatile uint32_t ring_head, ring_tail, ring_lost;
static volatile int polling; /* the receive interrupt is off */
static volatile uint32_t tick_wraps;

/* What the timer does not count: nothing on a part. The emulator's timer knows only how many instructions ran, and its
 * cycle counter (emulator/tn_cycles.c) sets this to the rest whenever platform_ticks is called. */
volatile uint64_t tn_lag_ticks;

/* Bytes come by interrupt while the harness computes or writes. While it waits for them it polls instead, with pauses:
 * a fifth of the emulator's work for an interrupt per byte. */
static void poll_from_now(void) {
  if (polling) return;
  polling = 1;
  NVIC_ICER(TN_UART_INTERRUPT / 32) = UART_INTERRUPT_BIT;
}

static void interrupt_from_now(void) {
  if (!polling) return;
  polling = 0;
  NVIC_ISER(TN_UART_INTERRUPT / 32) = UART_INTERRUPT_BIT;
}

/* A full ring leaves the byte in the UART. */
TN_HANDLER int platform_has_room(void) {
  if (ring_head - ring_tail < RING_BYTES) return 1;
  NVIC_ICER(TN_UART_INTERRUPT / 32) = UART_INTERRUPT_BIT;
  polling = 1;
  return 0;
}

TN_HANDLER void platform_received(uint8_t byte) {
  uint32_t head = ring_head;
  ring[head % RING_BYTES] = byte;
  ring_head = head + 1;
}

TN_HANDLER void platform_lost(void) { ring_lost = 1; }

TN_HANDLER void platform_tick_handler(void) { ++tick_wraps; }

void platform_start(void) {
  board_start();
  timer_start();
  polling = 1;
  interrupt_from_now();
}

/* Its first instruction is how the emulator knows that it is called. */
__attribute__((noinline)) uint64_t platform_ticks(void) {
  uint32_t wraps, count;
  do {
    wraps = tick_wraps;
    count = timer_count();
  } while (timer_wrap_pending() || wraps != tick_wraps);
  return (uint64_t)wraps * (TN_TIMER_MASK + 1u) + count + tn_lag_ticks;
}

uint32_t platform_ticks_per_second(void) { return board_clock_hz(); }

/* Sleeps unless a byte has come. With interrupts masked, one that comes between the test and WFI still ends WFI. */
static void sleep_until_interrupt(void) {
  __asm volatile("cpsid i" ::: "memory");
  if (ring_head == ring_tail) __asm volatile("wfi" ::: "memory");
  __asm volatile("cpsie i" ::: "memory");
}

int platform_read(uint32_t timeout_ms) {
  uint64_t deadline = 0;
  uint32_t polls = 0;
  while (ring_head == ring_tail) {
    poll_from_now();
    if (polls++ < POLLS_BEFORE_SLEEP) {
      /* First the pause: in it an emulated UART gathers more than the byte that is there already. */
      for (volatile uint32_t i = 0; i < PAUSE_LOOPS; ++i) {
      }
      board_uart_handler();
      continue;
    }
    if (timeout_ms) {
      uint64_t now = platform_ticks();
      if (!deadline) deadline = now + (uint64_t)timeout_ms * (platform_ticks_per_second() / 1000u);
      if (now >= deadline) return PLATFORM_TIMEOUT;
    }
    interrupt_from_now();
    sleep_until_interrupt();
  }
  if (ring_lost) {
    ring_lost = 0;
    ring_tail = ring_head;
    return PLATFORM_OVERRUN;
  }
  uint32_t tail = ring_tail;
  int byte = ring[tail % RING_BYTES];
  ring_tail = tail + 1;
  return byte;
}

void platform_write(const char *text) {
  interrupt_from_now();
  while (*text) board_put((uint8_t)*text++);
}

uint32_t platform_received_bytes(void) { return ring_head; }

uint32_t platform_baud(uint32_t baud) {
  uint32_t actual = baud < SLOWEST_BAUD ? 0 : board_baud(baud, 0);
  uint32_t difference = actual < baud ? baud - actual : actual - baud;
  return difference <= baud / BAUD_TOLERANCE ? actual : 0;
}

/* After board_put a UART holds two characters at most: one that is on its way, and the next. */
static void drain(void) {
  uint64_t end = platform_ticks() + platform_ticks_per_second() / DRAIN_PER_SECOND;
  while (platform_ticks() < end) {
  }
}

void platform_set_baud(uint32_t baud) {
  drain();
  board_baud(baud, 1);
}

void platform_restart(void) {
  drain();
  SCB_AIRCR = SCB_AIRCR_SYSRESETREQ;
  for (;;) {
  }
}

void platform_measure_memory(platform_memory *memory) {
  const uint8_t *used = tn_stack_bottom;
  while (used < tn_stack_top && *used == TN_STACK_PAINT) ++used;
  memory->static_bytes = (uint32_t)(tn_bss_end - tn_data_start);
  memory->stack_bytes = (uint32_t)(tn_stack_top - tn_stack_bottom);
  memory->stack_used_bytes = (uint32_t)(tn_stack_top - used);
  memory->free_bytes = (uint32_t)(tn_free_end - tn_free_start);
}

uint8_t *platform_free_memory(size_t *bytes) {
  *bytes = (size_t)(tn_free_end - tn_free_start);
  return tn_free_start;
}
