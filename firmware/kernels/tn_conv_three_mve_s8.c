#include "tn_mve.h"

#if defined(__ARM_FEATURE_MVE)

#include <stddef.h>

_Static_assert(offsetof(tn_conv_mve_job, weights) == 48 && offsetof(tn_conv_mve_job, odd) == 56 &&
                   offsetof(tn_conv_mve_job, groups) == 60 && offsetof(tn_conv_mve_job, step) == 64 &&
                   offsetof(tn_conv_mve_job, bias) == 68 && offsetof(tn_conv_mve_job, output) == 80 &&
                   offsetof(tn_conv_mve_job, minimum) == 96 && offsetof(tn_conv_mve_job, lanes) == 128,
               "the assembly has these offsets");

/* On the stack: what one LDM loads for every pair of channels, which clears the sums and rewinds the windows (11
 * words), the end of the sums, the job, the groups that are left, and whether an odd channel is to come. */
#define ENTER                           \
  "push {r4-r11, lr}\n"                 \
  "vpush {d8-d15}\n"                    \
  "sub sp, sp, #60\n"                   \
  "str r0, [sp, #48]\n"                 \
  "ldr r1, [r0, #60]\n"                 \
  "str r1, [sp, #52]\n"                 \
  "vldrw.u32 q5, [r0, #96]\n"           \
  "vldrw.u32 q6, [r0, #112]\n"          \
  "ldm r0, {r0-r6, r8, r10, r12, lr}\n" \
  "stm sp, {r0-r6, r8, r10, r12, lr}\n"

/* The sums need even registers, so the pointers have the odd ones. Predication leaves out what lies beyond a row's
 * end. */
#define SUMS                                  \
  "1:\n" /* a group */                        \
  "ldr r12, [sp, #48]\n"                      \
  "ldr r0, [r12, #44]\n"                      \
  "ldrd r9, r11, [r12, #48]\n"                \
  "ldr r1, [r12, #56]\n"                      \
  "str r0, [sp, #44]\n"                       \
  "str r1, [sp, #56]\n"                       \
  "2:\n" /* a pair of channels */             \
  "ldm sp, {r0-r6, r8, r10, r12, lr}\n"       \
  "add r7, r9, r12\n" /* the next row */      \
  "add r9, r7, lr\n"                          \
  "dlstp.8 lr, lr\n"                          \
  "3:\n"                                      \
  "vldrb.8 q3, [r7], #16\n"                   \
  "vldrb.8 q0, [r1], #16\n"                   \
  "vmladava.s8 r0, q3, q0\n"                  \
  "vldrb.8 q1, [r3], #16\n"                   \
  "vmladava.s8 r2, q3, q1\n"                  \
  "vldrb.8 q2, [r5], #16\n"                   \
  "vmladava.s8 r4, q3, q2\n"                  \
  "vldrb.8 q3, [r9], #16\n"                   \
  "vmladava.s8 r6, q3, q0\n"                  \
  "vmladava.s8 r8, q3, q1\n"                  \
  "vmladava.s8 r10, q3, q2\n"                 \
  "letp lr, 3b\n"                             \
  "stm r11!, {r0, r2, r4, r6, r8, r10}\n"     \
  "ldr r12, [sp, #44]\n"                      \
  "cmp r11, r12\n"                            \
  "bne 2b\n"                                  \
  "ldr r12, [sp, #56]\n"                      \
  "cmp r12, #0\n"                             \
  "beq 4f\n"                                  \
  "ldr r0, [sp, #40]\n" /* back by one row */ \
  "sub r9, r9, r0\n"                          \
  "add r0, r11, #12\n"                        \
  "str r0, [sp, #44]\n"                       \
  "sub r11, r11, #12\n"                       \
  "mov r0, #0\n"                              \
  "str r0, [sp, #56]\n"                       \
  "b 2b\n"                                    \
  "4:\n"

#define AWAY               \
  "vshr.s32 q4, q3, #31\n" \
  "vadd.i32 q3, q3, q4\n"

#define OUTPUT(sums, away, to)     \
  "vldrw.u32 q3, " sums            \
  "\n"                             \
  "vadd.i32 q3, q3, q0\n"          \
  "vqrdmulh.s32 q3, q3, q1\n" away \
  "vrshl.s32 q3, q3, q2\n"         \
  "vqadd.s32 q3, q3, r6\n"         \
  "vmax.s32 q3, q3, q5\n"          \
  "vmin.s32 q3, q3, q6\n"          \
  "vstrb.32 q3, [" to "], #4\n"

/* Four channels of the three pixels at a time, whose sums lie 12 bytes apart. */
#define OUTPUTS(away)                                                                        \
  "ldr r12, [sp, #48]\n"                                                                     \
  "vldrw.u32 q7, [r12, #128]\n"                                                              \
  "add r12, r12, #68\n"                                                                      \
  "ldm r12, {r0-r3, r6, r7, lr}\n"                                                           \
  "add r4, r3, r7\n"                                                                         \
  "add r5, r4, r7\n"                                                                         \
  "add r8, r5, r7\n"                                                                         \
  "str r8, [r12, #12]\n"                                                                     \
  "dlstp.32 lr, lr\n"                                                                        \
  "5:\n"                                                                                     \
  "vldrw.u32 q0, [r0], #16\n"                                                                \
  "vldrw.u32 q1, [r1], #16\n"                                                                \
  "vldrb.s32 q2, [r2], #4\n" OUTPUT("[q7, #48]!", away, "r3") OUTPUT("[q7, #4]", away, "r4") \
      OUTPUT("[q7, #8]", away, "r5") "letp lr, 5b\n"

#define LEAVE           \
  "ldr r0, [sp, #48]\n" \
  "ldr r0, [r0, #64]\n" \
  "ldr r1, [sp, #4]\n"  \
  "ldr r2, [sp, #12]\n" \
  "ldr r3, [sp, #20]\n" \
  "add r1, r1, r0\n"    \
  "add r2, r2, r0\n"    \
  "add r3, r3, r0\n"    \
  "str r1, [sp, #4]\n"  \
  "str r2, [sp, #12]\n" \
  "str r3, [sp, #20]\n" \
  "ldr r1, [sp, #52]\n" \
  "subs r1, r1, #1\n"   \
  "str r1, [sp, #52]\n" \
  "bne 1b\n"            \
  "add sp, sp, #60\n"   \
  "vpop {d8-d15}\n"     \
  "pop {r4-r11, pc}\n"

__attribute__((naked)) void tn_conv_three_mve_s8(tn_conv_mve_job *job __attribute__((unused))) {
  __asm volatile(ENTER SUMS OUTPUTS("") LEAVE);
}

__attribute__((naked)) void tn_conv_three_away_mve_s8(tn_conv_mve_job *job __attribute__((unused))) {
  __asm volatile(ENTER SUMS OUTPUTS(AWAY) LEAVE);
}

#endif
