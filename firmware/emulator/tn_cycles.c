/* A QEMU plugin that counts the instructions and zero-wait cycles of every inference, layer by layer.
 *
 *   -plugin tn_cycles.so,output=FILE,invoke=START-END,layers=ADDRESS:ADDRESS:...[,handlers=START-END]
 *           [,load=1][,pair=1][,multiple=1][,taken=2][,divide=5][,float_divide=13]
 *
 * Addresses are hexadecimal. After each completed tn_model_invoke one line is appended to FILE:
 *
 *   total_instructions total_cycles instructions:cycles instructions:cycles ...
 *
 * An instruction costs one cycle (IT none: it is folded), and on top of that
 *   load          once for each run of back-to-back single loads,
 *   pair          for LDRD, STRD and a single FP load or store,
 *   multiple      for each register of LDM, STM, PUSH, POP and their FP kin,
 *   taken         for each taken branch,
 *   divide        for SDIV and UDIV, float_divide for VDIV and VSQRT.
 * The costs are those of a Cortex-M4 unless given (Arm DDI0439, chapter 3.3.1).
 *
 * Costs are summed per translation block when QEMU translates it. Whether a branch was taken is seen from where the
 * next block starts. QEMU may cut a block anywhere (a timer, a page's end); a run of loads across a cut counts once, so
 * the figures depend on the program alone. Interrupt handlers are left out.
 *
 * QEMU 7.2 ships no header for plugins: what is used of its interface, version 1, is declared here. */
#define _GNU_SOURCE
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
  uint64_t instructions, cycles;
} count;

typedef enum { PLAIN, ENTRY, INVOKE, LAYER, HANDLER } block_kind;

typedef struct {
  uint64_t start, end;
  uint32_t instructions, cycles;
  block_kind kind;
  int layer; /* of a LAYER */
  bool first_is_load, last_is_load;
} block;

typedef enum { OTHER, SINGLE_LOAD } instruction_kind;

typedef struct {
  instruction_kind kind;
  uint32_t cycles; /* without what a run of loads adds */
} instruction_cost;

static struct {
  uint32_t load, pair, multiple, taken, divide, float_divide;
} costs = {.load = 1, .pair = 1, .multiple = 1, .taken = 2, .divide = 5, .float_divide = 13};

static FILE *output;
static range invoke, handlers;
static uint64_t layer_start[MAX_LAYERS];
static int layers;

static count invoke_count, layer_count[MAX_LAYERS];
static count *current; /* what is being counted; NULL outside an inference */
static const block *previous;

static instruction_cost cost_of_narrow(uint16_t code) {
  if ((code & 0xFF00u) == 0xBF00u && (code & 0x000Fu)) return (instruction_cost){OTHER, 0}; /* IT */
  bool load = (code & 0xF800u) == 0x4800u ||                                                /* literal */
              ((code & 0xF000u) == 0x5000u && (code >> 9 & 7u) >= 3u) ||                    /* register offset */
              ((code & 0xE000u) == 0x6000u && code & 0x0800u) || /* word and byte, immediate offset */
              ((code & 0xE000u) == 0x8000u && code & 0x0800u);   /* halfword; from the stack */
  if (load) return (instruction_cost){SINGLE_LOAD, 1};
  uint32_t registers = 0;
  if ((code & 0xF600u) == 0xB400u) registers = (uint32_t)__builtin_popcount(code & 0x1FFu); /* PUSH, POP */
  if ((code & 0xF000u) == 0xC000u) registers = (uint32_t)__builtin_popcount(code & 0x0FFu); /* STM, LDM */
  return (instruction_cost){OTHER, 1 + registers * costs.multiple};
}

static instruction_cost cost_of_wide(uint16_t first, uint16_t second) {
  instruction_cost cost = {OTHER, 1};
  if ((first & 0xFE00u) == 0xF800u) {
    if (first & 0x0010u) cost.kind = SINGLE_LOAD;
  } else if ((first & 0xFE40u) == 0xE800u) { /* LDM, STM, wide PUSH and POP */
    cost.cycles += (uint32_t)__builtin_popcount(second) * costs.multiple;
  } else if ((first & 0xFFF0u) == 0xE8D0u && (second & 0xFFE0u) == 0xF000u) { /* TBB, TBH read their table */
    cost.kind = SINGLE_LOAD;
  } else if ((first & 0xFE40u) == 0xE840u) { /* LDRD, STRD, exclusives */
    cost.cycles += costs.pair;
  } else if ((first & 0xFE00u) == 0xEC00u && (second & 0x0E00u) == 0x0A00u) {
    if ((first & 0x0120u) == 0x0100u) { /* VLDR, VSTR */
      cost.cycles += costs.pair;
    } else if (first & 0x0180u || first & 0x0020u) { /* VLDM, VSTM, VPUSH, VPOP */
      cost.cycles += (second & 0xFFu) * costs.multiple;
    }
  } else if ((first & 0xFFB0u) == 0xEE80u && (second & 0x0E50u) == 0x0A00u) { /* VDIV */
    cost.cycles += costs.float_divide;
  } else if ((first & 0xFFBFu) == 0xEEB1u && (second & 0x0ED0u) == 0x0AC0u) { /* VSQRT */
    cost.cycles += costs.float_divide;
  } else if ((first & 0xFFD0u) == 0xFB90u && (second & 0x00F0u) == 0x00F0u) { /* SDIV, UDIV */
    cost.cycles += costs.divide;
  }
  return cost;
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

static void end_inference(void) {
  count total = invoke_count;
  for (int i = 0; i < layers; ++i) {
    total.instructions += layer_count[i].instructions;
    total.cycles += layer_count[i].cycles;
  }
  fprintf(output, "%" PRIu64 " %" PRIu64, total.instructions, total.cycles);
  for (int i = 0; i < layers; ++i) {
    fprintf(output, " %" PRIu64 ":%" PRIu64, layer_count[i].instructions, layer_count[i].cycles);
  }
  fputc('\n', output);
  if (fflush(output)) {
    fprintf(stderr, "tn_cycles: cannot write the counts: %s\n", strerror(errno));
    exit(1);
  }
  current = NULL;
}

static void executed(unsigned vcpu, void *data) {
  (void)vcpu;
  const block *b = data;
  if (b->kind == ENTRY) {
    begin_inference();
  } else if (!current || b->kind == HANDLER) {
    return;
  }
  if (previous) {
    /* The step from block to block belongs to where control came from. */
    if (b->start != previous->end) {
      current->cycles += costs.taken;
    } else if (previous->last_is_load && b->first_is_load) {
      current->cycles -= costs.load;
    }
  }
  if (b->kind == INVOKE) {
    current = &invoke_count;
  } else if (current == &invoke_count) {
    if (b->kind == LAYER) {
      current = &layer_count[b->layer];
    } else if (b->kind == PLAIN) {
      end_inference();
      return;
    }
  }
  current->instructions += b->instructions;
  current->cycles += b->cycles;
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
  bool in_run = false;
  for (uint32_t i = 0; i < b->instructions; ++i) {
    instruction_cost cost;
    b->end += decode(qemu_plugin_tb_get_insn(tb, i), &cost);
    bool load = cost.kind == SINGLE_LOAD;
    b->cycles += cost.cycles + (load && !in_run ? costs.load : 0);
    in_run = load;
    if (i == 0) b->first_is_load = load;
  }
  b->last_is_load = in_run;
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

static bool parse_cost(const char *text, uint32_t *cost) { return sscanf(text, "%" SCNu32, cost) == 1; }

static bool parse_argument(const char *name, const char *value) {
  if (!strcmp(name, "output")) return (output = fopen(value, "a")) != NULL;
  if (!strcmp(name, "invoke")) return parse_range(value, &invoke);
  if (!strcmp(name, "handlers")) return parse_range(value, &handlers);
  if (!strcmp(name, "layers")) return parse_layers(value);
  if (!strcmp(name, "load")) return parse_cost(value, &costs.load);
  if (!strcmp(name, "pair")) return parse_cost(value, &costs.pair);
  if (!strcmp(name, "multiple")) return parse_cost(value, &costs.multiple);
  if (!strcmp(name, "taken")) return parse_cost(value, &costs.taken);
  if (!strcmp(name, "divide")) return parse_cost(value, &costs.divide);
  if (!strcmp(name, "float_divide")) return parse_cost(value, &costs.float_divide);
  return false;
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
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  return 0;
}
