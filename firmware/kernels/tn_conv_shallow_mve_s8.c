#include "tn_mve.h"

#if defined(__ARM_FEATURE_MVE)

#include <stddef.h>

_Static_assert(offsetof(tn_conv_shallow_mve, zero_point) == 28 && offsetof(tn_conv_shallow_mve, shifts) == 36 &&
                   offsetof(tn_conv_shallow_mve, pixels) == 40 && offsetof(tn_conv_shallow_mve, fours) == 44,
               "the assembly has these offsets");

/* Four channels, whose weights stay in q0 ... q3, of all pixels at a time. Saturation is the clamp. On the stack: the
 * argument, and the fours that are left. */
__attribute__((naked)) void tn_conv_shallow_mve_s8(tn_conv_shallow_mve *shallow __attribute__((unused))) {
  __asm volatile(
      "push {r4-r11, lr}\n"
      "vpush {d8-d15}\n"
      "ldr r1, [r0, #44]\n"
      "push {r0, r1}\n"
      "ldr r1, [r0]\n"
      "vctp.8 r1\n"
      "1:\n"
      "ldr r12, [sp]\n"
      "ldm r12, {r0-r6}\n" /* depth, weights, bias, multipliers, input, output, step */
      "ldr r7, [r12, #36]\n"
      "ldrd r8, r9, [r12, #28]\n" /* zero point, pitch */
      "ldr lr, [r12, #40]\n"
      "vldrw.u32 q7, [r2], #16\n"
      "vldrw.u32 q4, [r3], #16\n"
      "vldrb.s32 q5, [r7], #4\n"
      "add r10, r5, #4\n"
      "vpst\n"
      "vldrbt.8 q0, [r1]\n"
      "add r1, r1, r0\n"
      "vpst\n"
      "vldrbt.8 q1, [r1]\n"
      "add r1, r1, r0\n"
      "vpst\n"
      "vldrbt.8 q2, [r1]\n"
      "add r1, r1, r0\n"
      "vpst\n"
      "vldrbt.8 q3, [r1]\n"
      "add r1, r1, r0\n"
      "str r1, [r12, #4]\n"
      "str r2, [r12, #8]\n"
      "str r3, [r12, #12]\n"
      "str r10, [r12, #20]\n"
      "str r7, [r12, #36]\n"
      "mov r7, r4\n"
      "dls lr, lr\n"
      "2:\n"
      "vpst\n"
      "vldrbt.8 q6, [r7]\n"
      "add r7, r7, r6\n"
      "vmladav.s8 r0, q0, q6\n"
      "vmladav.s8 r2, q1, q6\n"
      "vmladav.s8 r4, q2, q6\n"
      "vmladav.s8 r10, q3, q6\n"
      "vmov d12, r0, r2\n"
      "vmov d13, r4, r10\n"
      "vadd.i32 q6, q6, q7\n"
      "vqrdmulh.s32 q6, q6, q4\n"
      "vrshl.s32 q6, q6, q5\n"
      "vqadd.s32 q6, q6, r8\n"
      "vqmovnb.s32 q6, q6\n"
      "vqmovnb.s16 q6, q6\n"
      "vstrb.32 q6, [r5]\n"
      "add r5, r5, r9\n"
      "le lr, 2b\n"
      "ldr r1, [sp, #4]\n"
      "subs r1, r1, #1\n"
      "str r1, [sp, #4]\n"
      "bne 1b\n"
      "add sp, sp, #8\n"
      "vpop {d8-d15}\n"
      "pop {r4-r11, pc}\n");
}

#endif
