/* STM32F405 (RM0090): 168 MHz from the internal oscillator, USART1 on PA9 (out) and PA10 (in).
 *
 * The internal oscillator, because crystals differ between the boards that carry this part. QEMU's netduinoplus2 is the
 * same part without a model of RCC, flash controller and GPIO: their registers read as zero there. */
#include "board.h"

#include "cortexm.h"
#include "platform.h"

#define RCC_CR TN_REGISTER(0x40023800u)
#define RCC_PLLCFGR TN_REGISTER(0x40023804u)
#define RCC_CFGR TN_REGISTER(0x40023808u)
#define RCC_AHB1ENR TN_REGISTER(0x40023830u)
#define RCC_APB1ENR TN_REGISTER(0x40023840u)
#define RCC_APB2ENR TN_REGISTER(0x40023844u)
#define FLASH_ACR TN_REGISTER(0x40023C00u)
#define PWR_CR TN_REGISTER(0x40007000u)
#define GPIOA_MODER TN_REGISTER(0x40020000u)
#define GPIOA_PUPDR TN_REGISTER(0x4002000Cu)
#define GPIOA_AFRH TN_REGISTER(0x40020024u)
#define USART1_SR TN_REGISTER(0x40011000u)
#define USART1_DR TN_REGISTER(0x40011004u)
#define USART1_BRR TN_REGISTER(0x40011008u)
#define USART1_CR1 TN_REGISTER(0x4001100Cu)

#define RCC_CR_HSION (1u << 0)
#define RCC_CR_PLLON (1u << 24)
#define RCC_CR_PLLRDY (1u << 25)
#define RCC_CFGR_SW_PLL 2u
#define RCC_CFGR_SWS (3u << 2)
#define RCC_CFGR_SWS_PLL (2u << 2)
#define USART_SR_ORE (1u << 3)
#define USART_SR_RXNE (1u << 5)
#define USART_SR_TXE (1u << 7)
#define USART_CR1_RE (1u << 2)
#define USART_CR1_TE (1u << 3)
#define USART_CR1_RXNEIE (1u << 5)
#define USART_CR1_UE (1u << 13)

#define HSI_HZ 16000000u
#define PLL_HZ 168000000u
#define PATIENCE 100000u /* reads of a ready flag; the PLL locks within 300 microseconds */

static uint32_t clock_hz, bus_hz;

static int wait_for(volatile uint32_t *flags, uint32_t mask, uint32_t value) {
  for (uint32_t i = 0; i < PATIENCE; ++i) {
    if ((*flags & mask) == value) return 1;
  }
  return 0;
}

/* Core at 168 MHz (HSI / 16 * 336 / 2), APB1 at 42, APB2 at 84. Returns what the core runs at. */
static uint32_t start_clock(void) {
  if (!(RCC_CR & RCC_CR_HSION)) return PLL_HZ; /* on after every reset of a real part: this is the emulator */
  RCC_APB1ENR |= 1u << 28;                     /* PWR */
  PWR_CR |= 1u << 14;                          /* voltage scale 1, needed above 144 MHz */
  RCC_PLLCFGR = 16u | (336u << 6) | (0u << 16) | (7u << 24);
  RCC_CR |= RCC_CR_PLLON;
  if (!wait_for(&RCC_CR, RCC_CR_PLLRDY, RCC_CR_PLLRDY)) return HSI_HZ;
  FLASH_ACR = 5u | (1u << 8) | (1u << 9) | (1u << 10); /* 5 wait states, prefetch and both caches */
  RCC_CFGR = (5u << 10) | (4u << 13) | RCC_CFGR_SW_PLL;
  if (!wait_for(&RCC_CFGR, RCC_CFGR_SWS, RCC_CFGR_SWS_PLL)) return HSI_HZ;
  return PLL_HZ;
}

uint32_t board_baud(uint32_t baud, int set) {
  uint32_t divider = (bus_hz + baud / 2u) / baud;
  if (divider < 16u || divider > 0xFFFFu) return 0; /* each bit is sampled 16 times */
  if (set) USART1_BRR = divider;
  return bus_hz / divider;
}

void board_start(void) {
  clock_hz = start_clock();
  bus_hz = clock_hz == PLL_HZ ? PLL_HZ / 2u : clock_hz;
  RCC_AHB1ENR |= 1u << 0;                                 /* GPIOA */
  RCC_APB2ENR |= 1u << 4;                                 /* USART1 */
  (void)RCC_APB2ENR;                                      /* the enable takes effect two bus cycles later */
  GPIOA_PUPDR = (GPIOA_PUPDR & ~(3u << 20)) | (1u << 20); /* pull-up: an open line must not look like bytes */
  GPIOA_AFRH = (GPIOA_AFRH & ~0xFF0u) | 0x770u;
  GPIOA_MODER = (GPIOA_MODER & ~(0xFu << 18)) | (0xAu << 18);
  board_baud(TN_BAUD, 1);
  USART1_CR1 = USART_CR1_UE | USART_CR1_TE | USART_CR1_RE | USART_CR1_RXNEIE;
}

uint32_t board_clock_hz(void) { return clock_hz; }

void board_put(uint8_t byte) {
  while (!(USART1_SR & USART_SR_TXE)) {
  }
  USART1_DR = byte;
}

TN_HANDLER void board_uart_handler(void) {
  while (platform_has_room()) {
    uint32_t status = USART1_SR;
    if (status & USART_SR_ORE) platform_lost(); /* reading the data register clears it */
    if (!(status & (USART_SR_RXNE | USART_SR_ORE))) break;
    platform_received((uint8_t)USART1_DR);
  }
}
