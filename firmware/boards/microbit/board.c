/* BBC micro:bit, nRF51822 (nRF51 Series Reference Manual 3.0): 16 MHz from the crystal, UART0 on the pins of the USB
 * interface (P0.24 out, P0.25 in), and TIMER0 in place of the SysTick, which this Cortex-M0 was made without.
 *
 * QEMU's microbit is the same part without a model of CLOCK, whose registers read as one there. */
#include "board.h"

#include "cortexm.h"
#include "platform.h"

#define CLOCK_TASKS_HFCLKSTART TN_REGISTER(0x40000000u)
#define CLOCK_EVENTS_HFCLKSTARTED TN_REGISTER(0x40000100u)
#define GPIO_OUTSET TN_REGISTER(0x50000508u)
#define GPIO_DIRSET TN_REGISTER(0x50000518u)
#define GPIO_PIN_CNF(pin) TN_REGISTER(0x50000700u + 4u * (pin))
#define UART_TASKS_STARTRX TN_REGISTER(0x40002000u)
#define UART_TASKS_STARTTX TN_REGISTER(0x40002008u)
#define UART_EVENTS_RXDRDY TN_REGISTER(0x40002108u)
#define UART_EVENTS_TXDRDY TN_REGISTER(0x4000211Cu)
#define UART_INTENSET TN_REGISTER(0x40002304u)
#define UART_ERRORSRC TN_REGISTER(0x40002480u)
#define UART_ENABLE TN_REGISTER(0x40002500u)
#define UART_PSELTXD TN_REGISTER(0x4000250Cu)
#define UART_PSELRXD TN_REGISTER(0x40002514u)
#define UART_RXD TN_REGISTER(0x40002518u)
#define UART_TXD TN_REGISTER(0x4000251Cu)
#define UART_BAUDRATE TN_REGISTER(0x40002524u)
#define TIMER_TASKS_START TN_REGISTER(0x40008000u)
#define TIMER_TASKS_CAPTURE1 TN_REGISTER(0x40008044u)
#define TIMER_EVENTS_COMPARE0 TN_REGISTER(0x40008140u)
#define TIMER_INTENSET TN_REGISTER(0x40008304u)
#define TIMER_BITMODE TN_REGISTER(0x40008508u)
#define TIMER_PRESCALER TN_REGISTER(0x40008510u)
#define TIMER_CC0 TN_REGISTER(0x40008540u)
#define TIMER_CC1 TN_REGISTER(0x40008544u)

#define GPIO_INPUT_PULL_UP (3u << 2)
#define UART_INTEN_RXDRDY (1u << 2)
#define UART_ERRORSRC_OVERRUN (1u << 0)
#define UART_ENABLE_ENABLED 4u
#define TIMER_BITMODE_24 2u
#define TIMER_INTEN_COMPARE0 (1u << 16)

#define CLOCK_HZ 16000000u
#define PIN_OUT 24u
#define PIN_IN 25u

/* The rates that the UART has. */
static const struct {
  uint32_t baud, setting;
} rates[] = {
    {9600, 0x00275000u},   {19200, 0x004EA000u},  {38400, 0x009D5000u},  {57600, 0x00EBF000u},   {115200, 0x01D7E000u},
    {230400, 0x03AFB000u}, {460800, 0x075F7000u}, {921600, 0x0EBEDFA4u}, {1000000, 0x10000000u},
};

static int sending; /* a byte has been given to the UART */

uint32_t board_baud(uint32_t baud, int set) {
  for (uint32_t i = 0; i < sizeof rates / sizeof *rates; ++i) {
    if (rates[i].baud != baud) continue;
    if (set) UART_BAUDRATE = rates[i].setting;
    return baud;
  }
  return 0;
}

void board_start(void) {
  CLOCK_TASKS_HFCLKSTART = 1;
  while (!CLOCK_EVENTS_HFCLKSTARTED) {
  }
  GPIO_OUTSET = 1u << PIN_OUT; /* a line at rest is high */
  GPIO_DIRSET = 1u << PIN_OUT;
  GPIO_PIN_CNF(PIN_IN) = GPIO_INPUT_PULL_UP; /* an open line must not look like bytes */
  UART_PSELTXD = PIN_OUT;
  UART_PSELRXD = PIN_IN;
  board_baud(TN_BAUD, 1);
  UART_ENABLE = UART_ENABLE_ENABLED;
  UART_INTENSET = UART_INTEN_RXDRDY;
  UART_TASKS_STARTTX = 1;
  UART_TASKS_STARTRX = 1;
}

uint32_t board_clock_hz(void) { return CLOCK_HZ; }

void board_put(uint8_t byte) {
  while (sending && !UART_EVENTS_TXDRDY) {
  }
  UART_EVENTS_TXDRDY = 0;
  UART_TXD = byte;
  sending = 1;
}

TN_HANDLER void board_uart_handler(void) {
  while (platform_has_room()) {
    uint32_t errors = UART_ERRORSRC;
    if (errors & UART_ERRORSRC_OVERRUN) platform_lost();
    UART_ERRORSRC = errors; /* ones clear */
    if (!UART_EVENTS_RXDRDY) break;
    UART_EVENTS_RXDRDY = 0; /* before the read: the next byte may come with it */
    platform_received((uint8_t)UART_RXD);
  }
}

void timer_start(void) {
  TIMER_BITMODE = TIMER_BITMODE_24;
  TIMER_PRESCALER = 0; /* the core's clock */
  TIMER_CC0 = 0;
  TIMER_INTENSET = TIMER_INTEN_COMPARE0;
  NVIC_ISER(0) = 1u << TN_TIMER_INTERRUPT;
  TIMER_TASKS_START = 1;
}

uint32_t timer_count(void) {
  TIMER_TASKS_CAPTURE1 = 1;
  return TIMER_CC1;
}

int timer_wrap_pending(void) { return TIMER_EVENTS_COMPARE0 != 0; }

TN_HANDLER void board_timer_handler(void) {
  TIMER_EVENTS_COMPARE0 = 0;
  (void)TIMER_EVENTS_COMPARE0; /* the bus has passed the write on: the interrupt does not come again */
  platform_tick_handler();
}
