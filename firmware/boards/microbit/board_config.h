#ifndef BOARD_CONFIG_H
#define BOARD_CONFIG_H

#define TN_TIMER_MASK 0xFFFFFFu /* the timer's own width */
#define TN_UART_INTERRUPT 2     /* UART0 */
#define TN_TIMER_INTERRUPT 8    /* TIMER0 */

#endif
