#ifndef BOARD_INTERRUPT_H
#define BOARD_INTERRUPT_H

#define TN_UART_INTERRUPT 0 /* UART 0, receive */

#endif
