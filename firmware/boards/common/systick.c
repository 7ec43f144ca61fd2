/* Time from SysTick, which counts core clocks exactly as DWT's CYCCNT does, but exists in the emulator too, and goes on
 * while the core sleeps. So what is tested on the emulator is what runs on the part. */
#include "board.h"
#include "cortexm.h"

void timer_start(void) {
  SYST_RVR = TN_TIMER_MASK;
  SYST_CVR = 0;
  SYST_CSR = SYST_CSR_ENABLE | SYST_CSR_TICKINT | SYST_CSR_CLKSOURCE;
}

uint32_t timer_count(void) { return TN_TIMER_MASK - SYST_CVR; }

int timer_wrap_pending(void) { return (SCB_ICSR & SCB_ICSR_PENDSTSET) != 0; }
