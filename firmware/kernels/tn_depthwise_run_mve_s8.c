#include "tn_mve.h"

#if defined(__ARM_FEATURE_MVE)

#include <stddef.h>

/* Sixteen channels: q0 ... q3 hold the sums of channels 0, 4, 8, 12; 2, 6, 10, 14; 1, 5, 9, 13 and 3, 7, 11, 15, which
 * is how even and odd elements of even and odd elements come out, and go in again. */

/* Products of two taps are added in 16 bits, in q6 and q7. q5 is loaded twice for want of a register. */
#define PRODUCTS(tap)       \
  "vldrb.8 q4, " tap        \
  "\n"                      \
  "vldrb.8 q5, [r9], #16\n" \
  "vmullb.s8 q6, q4, q5\n"  \
  "vmullt.s8 q7, q4, q5\n"

#define MORE_PRODUCTS(tap)  \
  "vldrb.8 q4, " tap        \
  "\n"                      \
  "vldrb.8 q5, [r9]\n"      \
  "vmullb.s8 q5, q4, q5\n"  \
  "vadd.i16 q6, q6, q5\n"   \
  "vldrb.8 q5, [r9], #16\n" \
  "vmullt.s8 q5, q4, q5\n"  \
  "vadd.i16 q7, q7, q5\n"

/* VQDMLAH by 2^15 adds the upper half of each word. */
#define ACCUMULATE            \
  "vqdmlah.s32 q1, q6, r11\n" \
  "vmovlb.s16 q6, q6\n"       \
  "vadd.i32 q0, q0, q6\n"     \
  "vqdmlah.s32 q3, q7, r11\n" \
  "vmovlb.s16 q7, q7\n"       \
  "vadd.i32 q2, q2, q7\n"

#define PAIR(a, b) PRODUCTS(a) MORE_PRODUCTS(b) ACCUMULATE

#define BIAS                  \
  "vldrw.u32 q0, [r9], #16\n" \
  "vldrw.u32 q1, [r9], #16\n" \
  "vldrw.u32 q2, [r9], #16\n" \
  "vldrw.u32 q3, [r9], #16\n"

#define MULTIPLY              \
  "vldrw.u32 q4, [r9], #16\n" \
  "vqrdmulh.s32 q0, q0, q4\n" \
  "vldrw.u32 q4, [r9], #16\n" \
  "vqrdmulh.s32 q1, q1, q4\n" \
  "vldrw.u32 q4, [r9], #16\n" \
  "vqrdmulh.s32 q2, q2, q4\n" \
  "vldrw.u32 q4, [r9], #16\n" \
  "vqrdmulh.s32 q3, q3, q4\n"

#define AWAY               \
  "vshr.s32 q4, q0, #31\n" \
  "vadd.i32 q0, q0, q4\n"  \
  "vshr.s32 q4, q1, #31\n" \
  "vadd.i32 q1, q1, q4\n"  \
  "vshr.s32 q4, q2, #31\n" \
  "vadd.i32 q2, q2, q4\n"  \
  "vshr.s32 q4, q3, #31\n" \
  "vadd.i32 q3, q3, q4\n"

/* VRSHL looks at the lowest byte of each word only, and the shifts of q0 ... q3 are the bytes of q5's words. */
#define SHIFTS              \
  "vldrb.8 q5, [r9], #16\n" \
  "vrshl.s32 q0, q0, q5\n"  \
  "vshr.u32 q5, q5, #8\n"   \
  "vrshl.s32 q1, q1, q5\n"  \
  "vshr.u32 q5, q5, #8\n"   \
  "vrshl.s32 q2, q2, q5\n"  \
  "vshr.u32 q5, q5, #8\n"   \
  "vrshl.s32 q3, q3, q5\n"

/* Channels in their order, in q0 and, the odd ones, q2; still 16 bits each. */
#define NARROW           \
  "vqmovnb.s32 q0, q0\n" \
  "vqmovnb.s32 q2, q2\n" \
  "vqmovnt.s32 q0, q1\n" \
  "vqmovnt.s32 q2, q3\n"

#define STORE                \
  "vstrb.8 q0, [r10], #16\n" \
  "ldr r12, [sp, #12]\n"     \
  "add r9, r9, r12\n"

/* The zero point is -128, and saturation to unsigned is the clamp. */
#define PLAIN_OUTPUT          \
  MULTIPLY SHIFTS NARROW      \
      "vqmovunb.s16 q0, q0\n" \
      "vqmovunt.s16 q0, q2\n" \
      "mov r12, #128\n"       \
      "vadd.i8 q0, q0, r12\n" STORE

/* Offsets are those of tn_depthwise_run. */
#define OUTPUT                       \
  MULTIPLY AWAY SHIFTS               \
      "ldr r11, [sp]\n"              \
      "ldr r12, [r11, #32]\n" NARROW \
      "vqadd.s16 q0, q0, r12\n"      \
      "vqadd.s16 q2, q2, r12\n"      \
      "vqmovnb.s16 q0, q0\n"         \
      "vqmovnt.s16 q0, q2\n"         \
      "vldrb.8 q4, [r11]\n"          \
      "vmax.s8 q0, q0, q4\n"         \
      "vldrb.8 q4, [r11, #16]\n"     \
      "vmin.s8 q0, q0, q4\n"         \
      "movw r11, #0x8000\n" STORE

_Static_assert(offsetof(tn_depthwise_run, zero_point) == 32 && offsetof(tn_depthwise_run, blocks) == 36 &&
                   offsetof(tn_depthwise_run, next_block) == 40 && offsetof(tn_depthwise_run, output) == 44 &&
                   offsetof(tn_depthwise_run, count) == 48 && offsetof(tn_depthwise_run, tail) == 52 &&
                   offsetof(tn_depthwise_run, pixels) == 56 && offsetof(tn_depthwise_run, taps) == 60 &&
                   offsetof(tn_depthwise_run, steps) == 64 && offsetof(tn_depthwise_run, taps_count) == 68,
               "the assembly has these offsets");

/* On the stack: the run, the pixels that are left, the pixel's tail while it is to come, and the bytes to the next
 * block. r11 is 2^15. */
#define ENTER           \
  "push {r4-r11, lr}\n" \
  "vpush {d8-d15}\n"    \
  "sub sp, sp, #16\n"   \
  "str r0, [sp]\n"      \
  "ldr r1, [r0, #56]\n" \
  "str r1, [sp, #4]\n"  \
  "ldr r1, [r0, #40]\n" \
  "str r1, [sp, #12]\n" \
  "ldr r10, [r0, #44]\n"

#define LEAVE         \
  "add sp, sp, #16\n" \
  "vpop {d8-d15}\n"   \
  "pop {r4-r11, pc}\n"

/* Nine taps, whose pointers are r0 ... r8. */
#define NINE(output)                                                                                       \
  ENTER                                                                                                    \
  "1:\n" /* a pixel */                                                                                     \
  "ldr r11, [sp]\n"                                                                                        \
  "ldr r9, [r11, #36]\n"                                                                                   \
  "ldr lr, [r11, #48]\n"                                                                                   \
  "ldr r12, [r11, #60]\n"                                                                                  \
  "ldr r0, [r11, #52]\n"                                                                                   \
  "str r0, [sp, #8]\n"                                                                                     \
  "movw r11, #0x8000\n"                                                                                    \
  "ldm r12, {r0-r8}\n"                                                                                     \
  "dls lr, lr\n"                                                                                           \
  "2:\n" BIAS PAIR("[r0], #16", "[r1], #16") PAIR("[r2], #16", "[r3], #16") PAIR("[r4], #16", "[r5], #16") \
      PAIR("[r6], #16", "[r7], #16") PRODUCTS("[r8], #16") ACCUMULATE output                               \
      "le lr, 2b\n"                                                                                        \
      "ldr r12, [sp, #8]\n"                                                                                \
      "cmp r12, #0\n"                                                                                      \
      "beq 3f\n"                                                                                           \
      "add r0, r0, r12\n"                                                                                  \
      "add r1, r1, r12\n"                                                                                  \
      "add r2, r2, r12\n"                                                                                  \
      "add r3, r3, r12\n"                                                                                  \
      "add r4, r4, r12\n"                                                                                  \
      "add r5, r5, r12\n"                                                                                  \
      "add r6, r6, r12\n"                                                                                  \
      "add r7, r7, r12\n"                                                                                  \
      "add r8, r8, r12\n"                                                                                  \
      "add r10, r10, r12\n"                                                                                \
      "mov r12, #0\n"                                                                                      \
      "str r12, [sp, #8]\n"                                                                                \
      "mov lr, #1\n"                                                                                       \
      "b 2b\n"                                                                                             \
      "3:\n"                                                                                               \
      "ldr r0, [sp, #4]\n"                                                                                 \
      "subs r0, r0, #1\n"                                                                                  \
      "beq 4f\n"                                                                                           \
      "str r0, [sp, #4]\n"                                                                                 \
      "ldr r11, [sp]\n"                                                                                    \
      "ldrd r0, r1, [r11, #60]\n"                                                                          \
      "vldrw.u32 q0, [r0]\n"                                                                               \
      "vldrw.u32 q1, [r1]\n"                                                                               \
      "vadd.i32 q0, q0, q1\n"                                                                              \
      "vstrw.32 q0, [r0]\n"                                                                                \
      "vldrw.u32 q2, [r0, #16]\n"                                                                          \
      "vldrw.u32 q3, [r1, #16]\n"                                                                          \
      "vadd.i32 q2, q2, q3\n"                                                                              \
      "vstrw.32 q2, [r0, #16]\n"                                                                           \
      "vldrw.u32 q0, [r0, #32]\n"                                                                          \
      "vldrw.u32 q1, [r1, #32]\n"                                                                          \
      "vadd.i32 q0, q0, q1\n"                                                                              \
      "vstrw.32 q0, [r0, #32]\n"                                                                           \
      "b 1b\n"                                                                                             \
      "4:\n" LEAVE

/* Any number of taps: r1 walks the list of their pointers, r3 is where the block starts in each. */
#define TAPS(output) \
  ENTER              \
  "1:\n" /* a pixel */                                               \
  "ldr r11, [sp]\n"                                                  \
  "ldr r9, [r11, #36]\n"                                             \
  "ldr r8, [r11, #48]\n"                                             \
  "ldr r7, [r11, #68]\n"                                             \
  "ldr r2, [r11, #60]\n"                                             \
  "ldr r0, [r11, #52]\n"                                             \
  "movw r11, #0x8000\n" \
  "lsr r6, r7, #1\n"                                                 \
  "and r7, r7, #1\n"                                                 \
  "mov r3, #0\n"                                                     \
  "2:\n" BIAS                                                        \
  "mov r1, r2\n"                                                     \
  "wls lr, r6, 4f\n"                                                 \
  "3:\n"                                                             \
  "ldrd r4, r5, [r1], #8\n"                                          \
  "add r4, r4, r3\n"                                                 \
  "add r5, r5, r3\n" PAIR("[r4]", "[r5]")                            \
  "le lr, 3b\n"                                                      \
  "4:\n"                                                             \
  "cbz r7, 5f\n"                                                     \
  "ldr r4, [r1]\n"                                                   \
  "add r4, r4, r3\n" PRODUCTS("[r4]") ACCUMULATE                     \
  "5:\n" output                                                \
  "add r3, r3, #16\n"                                                \
  "subs r8, r8, #1\n"                                                \
  "bne 2b\n"                                                         \
  "cbz r0, 6f\n"                                                     \
  "add r3, r3, r0\n"                                                 \
  "add r10, r10, r0\n"                                               \
  "mov r0, #0\n"                                                     \
  "mov r8, #1\n"                                                     \
  "b 2b\n"                                                           \
  "6:\n"                                                             \
  "ldr r0, [sp, #4]\n"                                               \
  "subs r0, r0, #1\n"                                                \
  "beq 8f\n"                                                         \
  "str r0, [sp, #4]\n"                                               \
  "ldr r11, [sp]\n"                                                  \
  "ldrd r0, r1, [r11, #60]\n"                                        \
  "ldr r2, [r11, #68]\n"                                             \
  "dlstp.32 lr, r2\n"                                                \
  "7:\n"                                                             \
  "vldrw.u32 q0, [r0]\n"                                             \
  "vldrw.u32 q1, [r1], #16\n"                                        \
  "vadd.i32 q0, q0, q1\n"                                            \
  "vstrw.32 q0, [r0], #16\n"                                         \
  "letp lr, 7b\n"                                                    \
  "b 1b\n"                                                           \
  "8:\n" LEAVE

#define RUN(name, code) \
  __attribute__((naked)) void name(const tn_depthwise_run *run __attribute__((unused))) { __asm volatile(code); }

RUN(tn_depthwise_nine_plain_mve_s8, NINE(PLAIN_OUTPUT))
RUN(tn_depthwise_nine_mve_s8, NINE(OUTPUT))
RUN(tn_depthwise_taps_plain_mve_s8, TAPS(PLAIN_OUTPUT))
RUN(tn_depthwise_taps_mve_s8, TAPS(OUTPUT))

#endif
