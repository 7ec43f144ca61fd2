/* The few registers of the Cortex-M system space that are used (Armv7-M Architecture Reference Manual, B3;
 * SCB_CCR_LOB: Armv8-M Architecture Reference Manual). */
#ifndef CORTEXM_H
#define CORTEXM_H

#include <stdint.h>

#define TN_REGISTER(address) (*(volatile uint32_t *)(address))

#define SYST_CSR TN_REGISTER(0xE000E010u)
#define SYST_RVR TN_REGISTER(0xE000E014u)
#define SYST_CVR TN_REGISTER(0xE000E018u)
#define NVIC_ISER(n) TN_REGISTER(0xE000E100u + 4u * (n))
#define NVIC_ICER(n) TN_REGISTER(0xE000E180u + 4u * (n))
#define SCB_ICSR TN_REGISTER(0xE000ED04u)
#define SCB_VTOR TN_REGISTER(0xE000ED08u)
#define SCB_AIRCR TN_REGISTER(0xE000ED0Cu)
#define SCB_CCR TN_REGISTER(0xE000ED14u)
#define SCB_CPACR TN_REGISTER(0xE000ED88u)

#define SYST_CSR_ENABLE 1u
#define SYST_CSR_TICKINT 2u
#define SYST_CSR_CLKSOURCE 4u
#define SCB_ICSR_PENDSTSET (1u << 26)
#define SCB_AIRCR_SYSRESETREQ 0x05FA0004u
#define SCB_CCR_LOB (1u << 19)
#define SCB_CPACR_FPU (0xFu << 20)

#endif
