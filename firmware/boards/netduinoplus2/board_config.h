#ifndef BOARD_CONFIG_H
#define BOARD_CONFIG_H

#define TN_UART_INTERRUPT 37 /* USART1 */

#endif
