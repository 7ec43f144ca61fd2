#include "tn_mve.h"

#if defined(__ARM_FEATURE_MVE)

/* The sums need even registers, so the pointers have the odd ones. One LDM clears the sums and rewinds the vectors for
 * every pair of rows. Predication leaves out what lies beyond a row's end. */
#define PROLOGUE                         \
  "push {r4-r11, lr}\n"                  \
  "ldr r3, [r0, #44]\n"                  \
  "push {r3}\n"                          \
  "mov r9, r1\n"                         \
  "mov r11, r2\n"                        \
  "ldm r0, {r0-r6, r8, r10, r12, lr}\n"  \
  "push {r0-r6, r8, r10, r12, lr}\n"     \
  "1:\n"                                 \
  "ldm sp, {r0-r6, r8, r10, r12, lr}\n"  \
  "add r7, r9, r12\n" /* the next row */ \
  "add r9, r7, lr\n"                     \
  "dlstp.8 lr, lr\n"                     \
  "2:\n"

#define EPILOGUE         \
  "ldr r12, [sp, #44]\n" \
  "cmp r11, r12\n"       \
  "bne 1b\n"             \
  "add sp, sp, #48\n"    \
  "pop {r4-r11, pc}\n"

__attribute__((naked)) void tn_dot_two_mve_s8(const tn_dot_mve *dot __attribute__((unused)),
                                              const int8_t *weights __attribute__((unused)),
                                              int32_t *sums __attribute__((unused))) {
  __asm volatile(PROLOGUE
                 "vldrb.8 q3, [r7], #16\n"
                 "vldrb.8 q0, [r1], #16\n"
                 "vmladava.s8 r0, q3, q0\n"
                 "vldrb.8 q1, [r3], #16\n"
                 "vmladava.s8 r2, q3, q1\n"
                 "vldrb.8 q3, [r9], #16\n"
                 "vmladava.s8 r6, q3, q0\n"
                 "vmladava.s8 r8, q3, q1\n"
                 "letp lr, 2b\n"
                 "stm r11!, {r0, r2, r6, r8}\n" EPILOGUE);
}

__attribute__((naked)) void tn_dot_one_mve_s8(const tn_dot_mve *dot __attribute__((unused)),
                                              const int8_t *weights __attribute__((unused)),
                                              int32_t *sums __attribute__((unused))) {
  __asm volatile(PROLOGUE
                 "vldrb.8 q3, [r7], #16\n"
                 "vldrb.8 q0, [r1], #16\n"
                 "vmladava.s8 r0, q3, q0\n"
                 "vldrb.8 q3, [r9], #16\n"
                 "vmladava.s8 r6, q3, q0\n"
                 "letp lr, 2b\n"
                 "stm r11!, {r0, r6}\n" EPILOGUE);
}

#endif
