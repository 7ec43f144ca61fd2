/* Arm MPS2 and MPS3 images: a CMSDK UART (Arm DDI0479), whose place the image decides. */
#include "board.h"

#include "cortexm.h"
#include "platform.h"

#define UART_DATA TN_REGISTER(TN_UART_ADDRESS)
#define UART_STATE TN_REGISTER(TN_UART_ADDRESS + 0x04u)
#define UART_CTRL TN_REGISTER(TN_UART_ADDRESS + 0x08u)
#define UART_INTCLEAR TN_REGISTER(TN_UART_ADDRESS + 0x0Cu)
#define UART_BAUDDIV TN_REGISTER(TN_UART_ADDRESS + 0x10u)

#define UART_STATE_TX_FULL (1u << 0)
#define UART_STATE_RX_FULL (1u << 1)
#define UART_STATE_RX_OVERRUN (1u << 3)
#define UART_CTRL_TX (1u << 0)
#define UART_CTRL_RX (1u << 1)
#define UART_CTRL_RX_INTERRUPT (1u << 3)
#define UART_INTCLEAR_RX (1u << 1)

uint32_t board_baud(uint32_t baud, int set) {
  uint32_t divider = (TN_UART_CLOCK_HZ + baud / 2u) / baud;
  if (divider < 16u || divider > 0xFFFFFu) return 0;
  if (set) UART_BAUDDIV = divider;
  return TN_UART_CLOCK_HZ / divider;
}

void board_start(void) {
  board_baud(TN_BAUD, 1);
  UART_CTRL = UART_CTRL_TX | UART_CTRL_RX | UART_CTRL_RX_INTERRUPT;
}

uint32_t board_clock_hz(void) { return TN_CLOCK_HZ; }

void board_put(uint8_t byte) {
  while (UART_STATE & UART_STATE_TX_FULL) {
  }
  UART_DATA = byte;
}

TN_HANDLER void board_uart_handler(void) {
  while (platform_has_room()) {
    uint32_t status = UART_STATE;
    if (status & UART_STATE_RX_OVERRUN) {
      UART_STATE = UART_STATE_RX_OVERRUN;
      platform_lost();
    }
    if (!(status & UART_STATE_RX_FULL)) break;
    UART_INTCLEAR = UART_INTCLEAR_RX; /* before the read: the next byte may come with it */
    platform_received((uint8_t)UART_DATA);
  }
}
