/* Reset and the vector table, for every board. */
#include <string.h>

#include "board.h"
#include "cortexm.h"
#include "platform.h"

extern uint32_t tn_stack_bottom[], tn_stack_top[], tn_data_start[], tn_data_end[], tn_data_load[], tn_bss_start[],
    tn_bss_end[];

#define FRAME_WORDS 16 /* more than tn_reset's frame takes */

int main(void);
void tn_reset(void);
void tn_fault(void);

extern const uintptr_t tn_vectors[];

void tn_reset(void) {
#ifdef __ARM_FP /* the vector extension's registers are the FPU's */
  SCB_CPACR |= SCB_CPACR_FPU;
#endif
#ifdef __ARM_FEATURE_MVE
  SCB_CCR |= SCB_CCR_LOB; /* loops without a branch per round */
#endif
  __asm volatile("dsb\n isb" ::: "memory");
#ifndef __ARM_ARCH_6M__ /* whose vectors are at address 0 */
  SCB_VTOR = (uint32_t)(uintptr_t)tn_vectors;
#endif
  /* Up to this function's own frame. The loop stays one: memset would have a frame below it. */
  for (volatile uint32_t *p = tn_stack_bottom; p < (uint32_t *)__builtin_frame_address(0) - FRAME_WORDS; ++p) {
    *p = TN_STACK_PAINT * 0x01010101u;
  }
  memcpy(tn_data_start, tn_data_load, (size_t)((char *)tn_data_end - (char *)tn_data_start));
  memset(tn_bss_start, 0, (size_t)((char *)tn_bss_end - (char *)tn_bss_start));
  main();
  for (;;) {
  }
}

/* A fault says so and starts over: the host sees the boot banner in place of an answer. The stack is taken afresh,
 * because an overflown stack is one of the causes. */
static __attribute__((used)) void report_fault(void) {
  platform_write("\r\ne-[Fault: the board starts again]\r\n");
  SCB_AIRCR = SCB_AIRCR_SYSRESETREQ;
  for (;;) {
  }
}

__attribute__((naked)) void tn_fault(void) {
  __asm volatile(
      "ldr r0, =tn_stack_top\n"
      "msr msp, r0\n"
      "ldr r0, =report_fault\n"
      "bx r0\n"
      ".ltorg");
}

#define VECTOR(function) (uintptr_t) function

__attribute__((section(".isr_vector"), used)) const uintptr_t tn_vectors[] = {
    [0] = VECTOR(tn_stack_top),
    [1] = VECTOR(tn_reset),
    [2] = VECTOR(tn_fault),
    [3] = VECTOR(tn_fault),
    [4] = VECTOR(tn_fault),
    [5] = VECTOR(tn_fault),
    [6] = VECTOR(tn_fault),
    [7] = VECTOR(tn_fault),
    [11] = VECTOR(tn_fault),
    [14] = VECTOR(tn_fault),
    [15] = VECTOR(platform_tick_handler),
    [16 + TN_UART_INTERRUPT] = VECTOR(board_uart_handler),
#ifdef TN_TIMER_INTERRUPT /* no SysTick */
    [16 + TN_TIMER_INTERRUPT] = VECTOR(board_timer_handler),
#endif
};
