/* The AN505 image (Arm DAI0505), in the secure state that it boots in: peripherals at their secure addresses. */
#ifndef BOARD_CONFIG_H
#define BOARD_CONFIG_H

#define TN_CLOCK_HZ 20000000u
#define TN_UART_ADDRESS 0x50200000u /* UART 0 */
#define TN_UART_CLOCK_HZ TN_CLOCK_HZ
#define TN_UART_INTERRUPT 32 /* UART 0, receive */

#endif
