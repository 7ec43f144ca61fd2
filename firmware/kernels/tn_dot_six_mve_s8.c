#include "tn_mve.h"

#if defined(__ARM_FEATURE_MVE)

/* The vector, r1, with rows at r3, r5, r7, r9, r11 and r12; the sums are in r0, r2, r4, r6, r8 and r10. Predication
 * leaves out what lies beyond a row's end. */
__attribute__((naked)) void tn_dot_six_mve_s8(const tn_dot_six_mve *dot __attribute__((unused)),
                                              const int8_t *weights __attribute__((unused)),
                                              int32_t *sums __attribute__((unused))) {
  __asm volatile(
      "push {r4-r11, lr}\n"
      "mov r12, r1\n"
      "ldr r3, [r0, #32]\n"
      "push {r2, r3}\n"
      "ldm r0, {r0-r2, r4, r6, r8, r10, lr}\n"
      "push {r0-r2, r4, r6, r8, r10, lr}\n"
      "1:\n"
      "ldm sp, {r0-r2, r4, r6, r8, r10, lr}\n"
      "add r3, r12, r10\n" /* the next row */
      "add r5, r3, lr\n"
      "add r7, r5, lr\n"
      "add r9, r7, lr\n"
      "add r11, r9, lr\n"
      "add r12, r11, lr\n"
      "mov r10, #0\n"
      "dlstp.8 lr, lr\n"
      "2:\n"
      "vldrb.8 q0, [r1], #16\n"
      "vldrb.8 q1, [r3], #16\n"
      "vmladava.s8 r0, q0, q1\n"
      "vldrb.8 q2, [r5], #16\n"
      "vmladava.s8 r2, q0, q2\n"
      "vldrb.8 q3, [r7], #16\n"
      "vmladava.s8 r4, q0, q3\n"
      "vldrb.8 q1, [r9], #16\n"
      "vmladava.s8 r6, q0, q1\n"
      "vldrb.8 q2, [r11], #16\n"
      "vmladava.s8 r8, q0, q2\n"
      "vldrb.8 q3, [r12], #16\n"
      "vmladava.s8 r10, q0, q3\n"
      "letp lr, 2b\n"
      "ldrd r1, r3, [sp, #32]\n"
      "stm r1!, {r0, r2, r4, r6, r8, r10}\n"
      "str r1, [sp, #32]\n"
      "cmp r1, r3\n"
      "bne 1b\n"
      "add sp, sp, #40\n"
      "pop {r4-r11, pc}\n");
}

#endif
