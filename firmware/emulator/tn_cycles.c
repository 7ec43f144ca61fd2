/* A QEMU plugin that counts the instructions and zero-wait cycles of every inference, layer by layer, and keeps the
 * board's clock.
 *
 *   -plugin tn_cycles.so,output=FILE,invoke=START-END,layers=ADDRESS:ADDRESS:...[,handlers=START-END]
 *           [,instruction=1][,load=1][,next_load=0] and so on for each cost below
 *           [,clock=ADDRESS,lag=ADDRESS,reset=ADDRESS,hz=CLOCK,stall=FACTOR]
 *
 * Addresses are hexadecimal. After each completed tn_model_invoke one line is appended to FILE:
 *
 *   total_instructions total_cycles instructions:cycles instructions:cycles ...
 *
 * Costs are cycles, with up to two decimals. An instruction costs
 *   instruction      each of them, but IT, which is folded,
 * and on top of that
 *   load             a single load that does not follow another one,
 *   next_load        one that does,
 *   store            a single store,
 *   pair             LDRD, STRD and a single FP load or store,
 *   multiple         each register of LDM, STM, PUSH, POP and their FP kin,
 *   taken            each taken branch,
 *   call, pop_pc     BL, and POP with the PC among its registers, beyond what makes them taken branches,
 *   multiply         MUL,
 *   accumulate       MLA and MLS,
 *   long_multiply    SMULL and UMULL,
 *   long_accumulate  SMLAL and UMLAL,
 *   divide           SDIV and UDIV,
 *   float_divide     VDIV and VSQRT,
 *   vector           a vector instruction after one of the same kind, memory or arithmetic, which it cannot overlap.
 * LE and LETP cost loop, in place of instruction and taken. Unless given, the costs are those of a Cortex-M4 (Arm
 * DDI0439, chapter 3.3.1).
 *
 * Costs are summed per translation block when QEMU translates it. Whether a branch was taken is seen from where the
 * next block starts. QEMU may cut a block anywhere (a timer, a page's end); what follows a cut costs what it would
 * without it, so the figures depend on the program alone. Interrupt handlers are left out.
 *
 * QEMU's own clock takes every instruction for a nanosecond. So whenever the function at clock starts, the 64-bit
 * variable at lag is set to what the part would have taken beyond that since the function at reset ran, in ticks of hz:
 * cycles times stall, less instructions times a nanosecond. Here handlers count too. Time that the part sleeps needs
 * nothing: that is real time.
 *
 * QEMU 7.2 ships no header for plugins: what is used of its interface, version 1, is declared here. That
 * interface cannot write to the guest's memory; cpu_memory_rw_debug can, which QEMU exports where it loads modules. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { QEMU_PLUGIN_CB_NO_REGS };
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, void (*translated)(uint64_t id, struct qemu_plugin_tb *tb));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb, void (*executed)(unsigned vcpu, void *data),
                                          int flags, void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t index);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *insn);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *insn);
EXPORT int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv);

EXPORT int qemu_plugin_version = 1;

#define MAX_LAYERS 1024

typedef struct {
  uint64_t start, end;
} range;

typedef struct {
  uint64_t instructions;
  int64_t cost; /* costs are kept in hundredths of a cycle */
} count;

typedef enum { PLAIN, ENTRY, INVOKE, LAYER, HANDLER } block_kind;

/* What matters to what comes after an instruction. LINK is a call. */
typedef enum { OTHER, LOAD, VECTOR_MEMORY, VECTOR_ARITHMETIC, LOOP_END, LINK } instruction_kind;

typedef struct {
  instruction_kind kind;
  int64_t cost; /* without what the instruction before it adds */
} instruction_cost;

typedef struct {
  uint64_t start, end;
  uint32_t instructions;
  int64_t cost; /* as if it came after a branch */
  block_kind kind;
  int layer; /* of a LAYER */
  instruction_kind first, last;
  bool resets, reads_clock;
} block;

typedef enum {
  INSTRUCTION,
  LOAD_COST,
  NEXT_LOAD,
  STORE,
  PAIR,
  MULTIPLE,
  TAKEN,
  CALL,
  POP_PC,
  MULTIPLY,
  ACCUMULATE,
  LONG_MULTIPLY,
  LONG_ACCUMULATE,
  DIVIDE,
  FLOAT_DIVIDE,
  VECTOR,
  LOOP,
  COSTS
} cost_name;

static const char *const cost_names[COSTS] = {
    "instruction",     "load",   "next_load",    "store",    "pair",       "multiple",
    "taken",           "call",   "pop_pc",       "multiply", "accumulate", "long_multiply",
    "long_accumulate", "divide", "float_divide", "vector",   "loop",
};

static int64_t costs[COSTS] = {
    [INSTRUCTION] = 100, [LOAD_COST] = 100, [PAIR] = 100,          [MULTIPLE] = 100,
    [TAKEN] = 200,       [DIVIDE] = 500,    [FLOAT_DIVIDE] = 1300, [LOOP] = 100,
};

static FILE *output;
static range invoke, handlers;
static uint64_t layer_start[MAX_LAYERS];
static int layers;

static count invoke_count, layer_count[MAX_LAYERS];
static count *current; /* what is being counted; NULL outside an inference */
static const block *previous;

typedef void *get_cpu(int index);
typedef int access_memory(void *cpu, uint64_t address, void *data, size_t bytes, bool write);

static uint64_t clock_start, reset_start, lag_address;
static double clock_hz, stall = 1.0;
static get_cpu *qemu_get_cpu;
static access_memory *cpu_memory_rw_debug;
static count since_reset;
static const block *last_block; /* unlike previous, be it in an inference or not */

static instruction_cost cost_of_narrow(uint16_t code) {
  instruction_cost cost = {OTHER, costs[INSTRUCTION]};
  if ((code & 0xFF00u) == 0xBF00u && (code & 0x000Fu)) { /* IT */
    cost.cost = 0;
  } else if ((code & 0xF800u) == 0x4800u) { /* literal */
    cost.kind = LOAD;
  } else if ((code & 0xF000u) == 0x5000u) { /* register offset */
    if ((code >> 9 & 7u) >= 3u) {
      cost.kind = LOAD;
    } else {
      cost.cost += costs[STORE];
    }
  } else if ((code & 0xE000u) == 0x6000u || (code & 0xE000u) == 0x8000u) { /* immediate offset; from the stack */
    if (code & 0x0800u) {
      cost.kind = LOAD;
    } else {
      cost.cost += costs[STORE];
    }
  } else if ((code & 0xF600u) == 0xB400u) { /* PUSH, POP */
    cost.cost += __builtin_popcount(code & 0x1FFu) * costs[MULTIPLE];
    if ((code & 0xFF00u) == 0xBD00u) cost.cost += costs[POP_PC];
  } else if ((code & 0xF000u) == 0xC000u) { /* STM, LDM */
    cost.cost += __builtin_popcount(code & 0x0FFu) * costs[MULTIPLE];
  } else if ((code & 0xFFC0u) == 0x4340u) {
    cost.cost += costs[MULTIPLY];
  } else if ((code & 0xFF80u) == 0x4780u) { /* BLX */
    cost.kind = LINK;
  }
  return cost;
}

static int64_t multiply_cost(uint16_t first, uint16_t second) {
  bool plain = (second & 0x00F0u) == 0;
  if ((first & 0xFFF0u) == 0xFB00u) return costs[plain && second >> 12 == 15u ? MULTIPLY : ACCUMULATE];
  if ((first & 0xFFD0u) == 0xFB80u && plain) return costs[LONG_MULTIPLY];
  if ((first & 0xFFD0u) == 0xFBC0u && plain) return costs[LONG_ACCUMULATE];
  if ((first & 0xFFD0u) == 0xFB90u && (second & 0x00F0u) == 0x00F0u) return costs[DIVIDE];
  return 0;
}

static int64_t float_cost(uint16_t first, uint16_t second) {
  if ((first & 0xFE00u) == 0xEC00u) {
    if ((first & 0x0120u) == 0x0100u) return costs[PAIR];                              /* VLDR, VSTR */
    if (first & 0x0180u || first & 0x0020u) return (second & 0xFFu) * costs[MULTIPLE]; /* VLDM, VSTM, VPUSH, VPOP */
  }
  if ((first & 0xFFB0u) == 0xEE80u && (second & 0x0050u) == 0) return costs[FLOAT_DIVIDE];       /* VDIV */
  if ((first & 0xFFBFu) == 0xEEB1u && (second & 0x00D0u) == 0x00C0u) return costs[FLOAT_DIVIDE]; /* VSQRT */
  return 0;
}

static instruction_cost cost_of_wide(uint16_t first, uint16_t second) {
  instruction_cost cost = {OTHER, costs[INSTRUCTION]};
  if ((first & 0xFE00u) == 0xF800u) {
    if (first & 0x0010u) {
      cost.kind = LOAD;
    } else {
      cost.cost += costs[STORE];
    }
  } else if ((first & 0xFE40u) == 0xE800u) { /* LDM, STM, wide PUSH and POP */
    cost.cost += __builtin_popcount(second) * costs[MULTIPLE];
    if (first == 0xE8BDu && second & 0x8000u) cost.cost += costs[POP_PC];
  } else if ((first & 0xFFF0u) == 0xE8D0u && (second & 0xFFE0u) == 0xF000u) { /* TBB, TBH read their table */
    cost.kind = LOAD;
  } else if ((first & 0xFE40u) == 0xE840u) { /* LDRD, STRD, exclusives */
    cost.cost += costs[PAIR];
  } else if ((first & 0xFF00u) == 0xFB00u) {
    cost.cost += multiply_cost(first, second);
  } else if ((first & 0xFFCFu) == 0xF00Fu && (second & 0xF001u) == 0xC001u) { /* LE, LETP */
    cost = (instruction_cost){LOOP_END, costs[LOOP]};
  } else if ((first & 0xF800u) == 0xF000u && (second & 0xD000u) == 0xD000u) { /* BL */
    cost.kind = LINK;
    cost.cost += costs[CALL];
  } else if ((first & 0xEC00u) == 0xEC00u && (second & 0x0E00u) == 0x0A00u && (first & 0xEF00u) != 0xEF00u) {
    cost.cost += float_cost(first, second);
  } else if ((first & 0xFFBFu) == 0xFE31u && (second & 0x1FFFu) == 0x0F4Du) { /* VPST */
  } else if ((first & 0xEE00u) == 0xEC00u && (second & 0x0E00u) == 0x0E00u) {
    cost.kind = VECTOR_MEMORY;
  } else if ((first & 0xEF00u) == 0xEF00u || ((first & 0xEF00u) == 0xEE00u && (second & 0x0E00u) == 0x0E00u)) {
    cost.kind = VECTOR_ARITHMETIC;
  }
  return cost;
}

/* What an instruction costs for the one before it. */
static int64_t cost_after(instruction_kind before, instruction_kind kind) {
  if (kind == LOAD) return costs[before == LOAD ? NEXT_LOAD : LOAD_COST];
  if (kind == VECTOR_MEMORY || kind == VECTOR_ARITHMETIC) return before == kind ? costs[VECTOR] : 0;
  return 0;
}

/* Adds what an instruction costs and returns its size. The size comes from the encoding: for the last instruction of a
 * page QEMU's own includes the one after, which it looks at to see whether it crosses into the next page. */
static uint32_t decode(const struct qemu_plugin_insn *insn, instruction_cost *cost) {
  uint16_t code[2] = {0, 0};
  const void *data = qemu_plugin_insn_data(insn);
  memcpy(code, data, sizeof code[0]);
  if (code[0] < 0xE800u) {
    *cost = cost_of_narrow(code[0]);
    return 2;
  }
  if (qemu_plugin_insn_size(insn) >= sizeof code) memcpy(code, data, sizeof code);
  *cost = cost_of_wide(code[0], code[1]);
  return 4;
}

static bool inside(uint64_t address, range r) { return r.start <= address && address < r.end; }

static void classify(block *b) {
  b->kind = PLAIN;
  b->resets = b->start == reset_start;
  b->reads_clock = b->start == clock_start;
  if (b->start == invoke.start) {
    b->kind = ENTRY;
  } else if (inside(b->start, invoke)) {
    b->kind = INVOKE;
  } else if (inside(b->start, handlers)) {
    b->kind = HANDLER;
  }
  for (int i = 0; i < layers; ++i) {
    if (layer_start[i] == b->start) {
      b->kind = LAYER;
      b->layer = i;
    }
  }
}

static void begin_inference(void) {
  memset(&invoke_count, 0, sizeof invoke_count);
  memset(layer_count, 0, sizeof layer_count);
  current = &invoke_count;
  previous = NULL;
}

static int64_t cycles(count c) { return (c.cost + 50) / 100; }

static void end_inference(void) {
  count total = invoke_count;
  for (int i = 0; i < layers; ++i) {
    total.instructions += layer_count[i].instructions;
    total.cost += layer_count[i].cost;
  }
  fprintf(output, "%" PRIu64 " %" PRId64, total.instructions, cycles(total));
  for (int i = 0; i < layers; ++i) {
    fprintf(output, " %" PRIu64 ":%" PRId64, layer_count[i].instructions, cycles(layer_count[i]));
  }
  fputc('\n', output);
  if (fflush(output)) {
    fprintf(stderr, "tn_cycles: cannot write the counts: %s\n", strerror(errno));
    exit(1);
  }
  current = NULL;
}

/* What the step from block to block costs. */
static int64_t step_cost(const block *from, const block *to) {
  if (!from) return 0;
  if (to->start == from->end) return cost_after(from->last, to->first) - cost_after(OTHER, to->first);
  return from->last == LOOP_END ? 0 : costs[TAKEN];
}

static void write_lag(void) {
  double ticks = (double)since_reset.cost / 100 * stall - (double)since_reset.instructions * clock_hz * 1e-9;
  int64_t lag = (int64_t)ticks;
  if (cpu_memory_rw_debug(qemu_get_cpu(0), lag_address, &lag, sizeof lag, true)) {
    fprintf(stderr, "tn_cycles: cannot write to the board's memory at %" PRIx64 "\n", lag_address);
    exit(1);
  }
}

static void keep_clock(const block *b) {
  if (b->resets) {
    since_reset = (count){0, 0};
    last_block = NULL;
  }
  since_reset.instructions += b->instructions;
  since_reset.cost += b->cost + step_cost(last_block, b);
  last_block = b;
  if (b->reads_clock) write_lag();
}

static void executed(unsigned vcpu, void *data) {
  (void)vcpu;
  const block *b = data;
  if (clock_start) keep_clock(b);
  if (b->kind == ENTRY) {
    begin_inference();
  } else if (!current || b->kind == HANDLER) {
    return;
  }
  current->cost += step_cost(previous, b); /* it belongs to where control came from */
  if (b->kind == INVOKE) {
    current = &invoke_count;
  } else if (current == &invoke_count) {
    if (b->kind == LAYER) {
      current = &layer_count[b->layer];
    } else if (b->kind == PLAIN && previous->kind != PLAIN && previous->last != LINK) {
      /* Neither called by tn_model_invoke nor inside of what it called: back where it was called from. */
      end_inference();
      return;
    }
  }
  current->instructions += b->instructions;
  current->cost += b->cost;
  previous = b;
}

static void translated(uint64_t id, struct qemu_plugin_tb *tb) {
  (void)id;
  /* Never freed: QEMU may run the block until it exits. A program has some thousands of them. */
  block *b = calloc(1, sizeof *b);
  if (!b) {
    fputs("tn_cycles: out of memory\n", stderr);
    exit(1);
  }
  b->start = b->end = qemu_plugin_tb_vaddr(tb);
  b->instructions = (uint32_t)qemu_plugin_tb_n_insns(tb);
  for (uint32_t i = 0; i < b->instructions; ++i) {
    instruction_cost cost;
    b->end += decode(qemu_plugin_tb_get_insn(tb, i), &cost);
    b->cost += cost.cost + cost_after(b->last, cost.kind);
    b->last = cost.kind;
    if (i == 0) b->first = cost.kind;
  }
  classify(b);
  qemu_plugin_register_vcpu_tb_exec_cb(tb, executed, QEMU_PLUGIN_CB_NO_REGS, b);
}

static bool parse_range(const char *text, range *r) {
  return sscanf(text, "%" SCNx64 "-%" SCNx64, &r->start, &r->end) == 2;
}

static bool parse_layers(const char *text) {
  for (layers = 0; layers < MAX_LAYERS; text++) {
    char *end;
    layer_start[layers++] = strtoull(text, &end, 16);
    if (end == text) return false;
    if (!*end) return true;
    if (*end != ':') return false;
    text = end;
  }
  return false;
}

static bool parse_cost(const char *name, const char *value) {
  double cost;
  if (sscanf(value, "%lf", &cost) != 1 || cost < 0 || cost > 1000) return false;
  for (int i = 0; i < COSTS; ++i) {
    if (strcmp(name, cost_names[i])) continue;
    costs[i] = (int64_t)(cost * 100 + 0.5);
    return true;
  }
  return false;
}

static bool parse_address(const char *text, uint64_t *address) { return sscanf(text, "%" SCNx64, address) == 1; }

static bool parse_positive(const char *text, double *value) { return sscanf(text, "%lf", value) == 1 && *value > 0; }

static bool parse_argument(const char *name, const char *value) {
  if (!strcmp(name, "output")) return (output = fopen(value, "a")) != NULL;
  if (!strcmp(name, "invoke")) return parse_range(value, &invoke);
  if (!strcmp(name, "handlers")) return parse_range(value, &handlers);
  if (!strcmp(name, "layers")) return parse_layers(value);
  if (!strcmp(name, "clock")) return parse_address(value, &clock_start);
  if (!strcmp(name, "lag")) return parse_address(value, &lag_address);
  if (!strcmp(name, "reset")) return parse_address(value, &reset_start);
  if (!strcmp(name, "hz")) return parse_positive(value, &clock_hz);
  if (!strcmp(name, "stall")) return parse_positive(value, &stall);
  return parse_cost(name, value);
}

static bool find_memory(void) {
  *(void **)&qemu_get_cpu = dlsym(RTLD_DEFAULT, "qemu_get_cpu");
  *(void **)&cpu_memory_rw_debug = dlsym(RTLD_DEFAULT, "cpu_memory_rw_debug");
  return qemu_get_cpu && cpu_memory_rw_debug;
}

EXPORT int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv) {
  (void)info;
  for (int i = 0; i < argc; ++i) {
    char name[32];
    const char *equals = strchr(argv[i], '=');
    size_t length = equals ? (size_t)(equals - argv[i]) : sizeof name;
    if (length < sizeof name) {
      memcpy(name, argv[i], length);
      name[length] = 0;
      if (parse_argument(name, equals + 1)) continue;
    }
    fprintf(stderr, "tn_cycles: cannot use the argument '%s'\n", argv[i]);
    return 1;
  }
  if (!output || !invoke.end || !layers) {
    fputs("tn_cycles: output, invoke and layers are needed\n", stderr);
    return 1;
  }
  if (clock_start && (!lag_address || !reset_start || clock_hz <= 0)) {
    fputs("tn_cycles: clock goes with lag, reset and hz\n", stderr);
    return 1;
  }
  if (clock_start && !find_memory()) {
    fputs(
        "tn_cycles: this QEMU gives plugins no access to memory, which the board's clock needs; use a build with "
        "loadable "
        "modules, such as Debian's\n",
        stderr);
    return 1;
  }
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  return 0;
}
