/* What each board's board.c provides to the shared start-up code and to the harness. */
#ifndef BOARD_H
#define BOARD_H

#include <board_config.h> /* the board's own, else its family's */
#include <stdint.h>

/* Interrupt handlers live side by side in this section, so that their cycles can be told from the model's. */
#define TN_HANDLER __attribute__((section(".text.tn_handlers"), used))

#define TN_BAUD 115200u

/* What the stack is filled with at the start, to see later how much of it was used. */
#define TN_STACK_PAINT 0xA5u

/* Sets up clocks, pins and the UART at TN_BAUD with its receive interrupt enabled in the UART. */
void board_start(void);

/* The core's clock, once board_start has run. */
uint32_t board_clock_hz(void);

/* The rate that the UART does for baud, exactly or roughly, or 0; changes to it if asked to set it. */
uint32_t board_baud(uint32_t baud, int set);

/* Sends one byte, waiting for room. */
void board_put(uint8_t byte);

/* The UART's receive interrupt: hands each byte to platform_received while there is room. */
void board_uart_handler(void);

/* The clock behind platform_ticks: a counter of core clocks from 0 to TN_TIMER_MASK, of which all bits are ones. At
 * each wrap it raises an interrupt that ends in platform_tick_handler; timer_wrap_pending tells whether one is still
 * due. systick.c is the one of all cores but those without a SysTick. */
#ifndef TN_TIMER_MASK
#define TN_TIMER_MASK 0x1FFFFFu /* a wrap every 12 to 105 ms, which is how often one that sleeps looks at the clock */
#endif

void board_timer_handler(void);
void timer_start(void);
uint32_t timer_count(void);
int timer_wrap_pending(void);

#endif
