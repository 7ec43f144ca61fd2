/* MPS3 with the AN547 image (Arm DAI0547), in the secure state that it boots in: peripherals at their secure
 * addresses. */
#ifndef BOARD_CONFIG_H
#define BOARD_CONFIG_H

#define TN_CLOCK_HZ 32000000u
#define TN_UART_ADDRESS 0x59303000u /* UART 0 */
#define TN_UART_CLOCK_HZ 25000000u
#define TN_UART_INTERRUPT 33 /* UART 0, receive */

#endif
