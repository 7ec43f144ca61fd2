/* The MLPerf Tiny serial protocol, device side, and four commands of our own: load, output, layers and ticks, info.
 *
 * A command is text that ends in '%'. Whatever comes, the reply ends in m-ready, and a command that is not exactly
 * right changes nothing and gets an e-[...] line: a wrong result would be worse than none.
 *
 * An inference consumes its input, which lies in the arena. Where the memory that is left can hold it, a pristine copy
 * is kept there. Where it cannot, an input serves one inference; further runs of the same command only take time, and
 * the first one's result is the one that is kept. */
#include "protocol.h"

#include <string.h>

#include "model_info.h"
#include "platform.h"

#define LINE_BYTES 80u
#define WORDS 4u
#define RAW_TIMEOUT_MS 2000u
#define QUIET_MS 100u
#define DEFAULT_WARMUPS 10u

typedef enum { INPUT_NONE, INPUT_LOADING, INPUT_LOADED, INPUT_CONSUMED } input_state;

static struct {
  input_state input;
  uint32_t received;     /* bytes of the input so far */
  uint8_t *copy;         /* the input's pristine copy, or NULL */
  uint8_t *kept;         /* room for the first result, or NULL */
  const uint8_t *result; /* the last result, or NULL */
  uint32_t runs;         /* of the last infer command */
  uint64_t ticks;        /* that these runs took */
} state;

static void put(const char *text) { platform_write(text); }

static void put_number(uint64_t value) {
  char digits[21];
  char *p = digits + sizeof digits - 1;
  *p = 0;
  do {
    *--p = (char)('0' + value % 10u);
    value /= 10u;
  } while (value);
  put(p);
}

static void put_hex(uint32_t value, uint32_t digits) {
  char text[9];
  text[digits] = 0;
  while (digits--) {
    text[digits] = "0123456789abcdef"[value & 15u];
    value >>= 4;
  }
  put(text);
}

static void put_error(const char *text) {
  put("e-[");
  put(text);
  put("]\r\n");
}

/* value as printf's %0.3f would, up to 32 bits; whoever needs more reads the output command's exact bytes. */
static void put_thousandths(float value) {
  if (value != value) {
    put("nan");
    return;
  }
  if (value < 0.0f) {
    put("-");
    value = -value;
  }
  if (value >= 4e9f) {
    put("inf");
    return;
  }
  uint32_t whole = (uint32_t)value;
  uint32_t fraction = (uint32_t)((value - (float)whole) * 1000.0f + 0.5f);
  if (fraction == 1000u) {
    fraction = 0;
    ++whole;
  }
  put_number(whole);
  char text[5] = {'.', (char)('0' + fraction / 100u), (char)('0' + fraction / 10u % 10u), (char)('0' + fraction % 10u),
                  0};
  put(text);
}

/* CRC-32 as in zlib and Ethernet, four bits at a time. */
static uint32_t crc32(const uint8_t *bytes, uint32_t count) {
  static const uint32_t table[16] = {0x00000000u, 0x1DB71064u, 0x3B6E20C8u, 0x26D930ACu, 0x76DC4190u, 0x6B6B51F4u,
                                     0x4DB26158u, 0x5005713Cu, 0xEDB88320u, 0xF00F9344u, 0xD6D6A3E8u, 0xCB61B38Cu,
                                     0x9B64C2B0u, 0x86D3D2D4u, 0xA00AE278u, 0xBDBDF21Cu};
  uint32_t crc = 0xFFFFFFFFu;
  while (count--) {
    crc ^= *bytes++;
    crc = crc >> 4 ^ table[crc & 15u];
    crc = crc >> 4 ^ table[crc & 15u];
  }
  return ~crc;
}

static uint64_t microseconds(uint64_t ticks) {
  uint32_t rate = platform_ticks_per_second();
  return ticks / rate * 1000000u + ticks % rate * 1000000u / rate;
}

static void put_timestamp(void) {
  put("m-lap-us-");
  put_number(microseconds(platform_ticks()));
  put("\r\n");
}

static int equal(const char *a, const char *b) {
  while (*a && *a == *b) ++a, ++b;
  return *a == *b;
}

/* A decimal number of at most nine digits. */
static int parse_number(const char *text, uint32_t *value) {
  uint32_t digits = 0;
  *value = 0;
  for (; *text; ++text, ++digits) {
    if (*text < '0' || *text > '9' || digits == 9u) return 0;
    *value = *value * 10u + (uint32_t)(*text - '0');
  }
  return digits > 0;
}

static int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

static int parse_hex32(const char *text, uint32_t *value) {
  *value = 0;
  for (uint32_t i = 0; i < 8u; ++i) {
    int digit = hex_digit(text[i]);
    if (digit < 0) return 0;
    *value = *value << 4 | (uint32_t)digit;
  }
  return text[8] == 0;
}

/* NULL when there is no room for a whole input. */
static uint8_t *input_buffer(void) {
  if (state.copy) return state.copy;
  return tn_model.input ? (uint8_t *)tn_model.input() : NULL;
}

static void forget_input(void) {
  state.input = INPUT_NONE;
  state.received = 0;
}

/* Whether a load of this many bytes may start; says why not. */
static int begin_load(const char *count) {
  uint32_t bytes;
  forget_input();
  if (!parse_number(count, &bytes) || bytes != tn_model.input_bytes) {
    put("e-[This model takes ");
    put_number(tn_model.input_bytes);
    put(" bytes]\r\n");
    return 0;
  }
  if (!input_buffer()) {
    put_error("No memory for a whole input, which this model takes row by row");
    return 0;
  }
  if (!state.copy) state.result = NULL; /* the result shares the arena with what comes now */
  state.input = INPUT_LOADING;
  put("m-[Expecting ");
  put_number(bytes);
  put(" bytes]\r\n");
  return 1;
}

static void end_load(void) {
  state.input = INPUT_LOADED;
  put("m-load-done\r\n");
}

static void add_hex(const char *hex) {
  uint32_t digits = 0;
  while (hex[digits]) ++digits;
  if (state.input != INPUT_LOADING) {
    put_error("No load is going on: start with db load N");
    return;
  }
  if (digits % 2u || digits / 2u > tn_model.input_bytes - state.received) {
    forget_input();
    put_error("Wrong number of digits: load again");
    return;
  }
  for (uint32_t i = 0; i < digits; i += 2) {
    int high = hex_digit(hex[i]), low = hex_digit(hex[i + 1]);
    if (high < 0 || low < 0) {
      forget_input();
      put_error("Not a hexadecimal number: load again");
      return;
    }
    input_buffer()[state.received++] = (uint8_t)(high << 4 | low);
  }
  if (state.received == tn_model.input_bytes) end_load();
}

static void print_input(void) {
  if (state.input != INPUT_LOADED) {
    put_error("No input: load one first");
    return;
  }
  for (uint32_t i = 0; i < tn_model.input_bytes; ++i) {
    put(i % 8u ? "-" : "m-buffer-");
    put_hex(input_buffer()[i], 2);
    if (i % 8u == 7u || i + 1 == tn_model.input_bytes) put("\r\n");
  }
}

static void command_db(char *words[]) {
  if (words[1] && equal(words[1], "load") && words[2] && !words[3]) {
    begin_load(words[2]);
  } else if (words[1] && equal(words[1], "print") && !words[2]) {
    print_input();
  } else if (words[1] && !words[2]) {
    add_hex(words[1]);
  } else {
    forget_input();
    put_error("Use: db load N, db HH.., or db print");
  }
}

static void command_load(char *words[]) {
  uint32_t crc;
  if (!words[1] || !words[2] || words[3] || !parse_hex32(words[2], &crc)) {
    put_error("Use: load N CRC32 in 8 hexadecimal digits");
    return;
  }
  if (!begin_load(words[1])) return;
  uint8_t *buffer = input_buffer();
  int byte = 0;
  while (state.received < tn_model.input_bytes && (byte = platform_read(RAW_TIMEOUT_MS)) >= 0) {
    buffer[state.received++] = (uint8_t)byte;
  }
  if (byte >= 0 && crc32(buffer, tn_model.input_bytes) == crc) {
    end_load();
    return;
  }
  forget_input();
  /* The rest of what was meant as data must not be taken for commands. */
  while (platform_read(QUIET_MS) != PLATFORM_TIMEOUT) {
  }
  put_error(byte < 0 ? "Bytes are missing: load again" : "CRC mismatch: load again");
}

/* Whether an inference may start; says why not. */
static int input_ready(void) {
  if (state.input == INPUT_LOADED) return 1;
  put_error(state.input == INPUT_CONSUMED ? "Input consumed: load it again" : "No input: load one first");
  return 0;
}

/* One inference by run, which consumes the input. Returns the ticks that it took. */
static uint64_t run_model(void (*run)(const uint8_t *input)) {
  if (state.copy && tn_model.input) memcpy(tn_model.input(), state.copy, tn_model.input_bytes);
  uint64_t start = platform_ticks();
  run(state.copy);
  uint64_t ticks = platform_ticks() - start;
  if (!state.copy && state.input == INPUT_LOADED) {
    state.input = INPUT_CONSUMED;
    state.result = tn_model.output();
    if (state.kept) {
      memcpy(state.kept, tn_model.output(), tn_model.output_bytes);
      state.result = state.kept;
    }
  } else if (state.copy) {
    state.result = tn_model.output();
  }
  return ticks;
}

static void put_results(void) {
  uint32_t elements = tn_model.output_bytes / tn_model.output_element_bytes;
  put("m-results-[");
  for (uint32_t i = 0; i < elements; ++i) {
    float value;
    if (tn_model.output_element_bytes == sizeof value) {
      memcpy(&value, state.result + i * sizeof value, sizeof value);
    } else {
      value = (float)((int8_t)state.result[i] - tn_model.output_zero_point) * tn_model.output_scale;
    }
    if (i) put(",");
    put_thousandths(value);
  }
  put("]\r\n");
}

static int result_ready(void) {
  if (!state.result) put_error("No result: infer first");
  return state.result != NULL;
}

static void command_infer(char *words[]) {
  uint32_t runs = 1, warmups = DEFAULT_WARMUPS;
  if ((words[1] && !parse_number(words[1], &runs)) || (words[1] && words[2] && !parse_number(words[2], &warmups)) ||
      (words[1] && words[2] && words[3]) || runs == 0) {
    put_error("Use: infer N W with N of at least 1");
    return;
  }
  if (!input_ready()) return;
  if (!state.copy && !state.kept && runs + warmups > 1) {
    put_error("No memory to keep the first result: use infer 1 0");
    return;
  }
  put("m-warmup-start-");
  put_number(warmups);
  put("\r\n");
  for (uint32_t i = 0; i < warmups; ++i) run_model(tn_model.invoke);
  put("m-warmup-done\r\nm-infer-start-");
  put_number(runs);
  put("\r\n");
  state.ticks = 0;
  state.runs = runs;
  put_timestamp();
  for (uint32_t i = 0; i < runs; ++i) state.ticks += run_model(tn_model.invoke);
  put_timestamp();
  put("m-infer-done\r\n");
  put_results();
}

/* Room for the ticks of every layer behind the copy of the input or the first result, or NULL. */
static uint64_t *sums(void) {
  size_t free_bytes;
  uint8_t *start = platform_free_memory(&free_bytes);
  size_t used = state.copy ? tn_model.input_bytes : state.kept ? tn_model.output_bytes : 0;
  used = (used + 7u) & ~(size_t)7u;
  if (free_bytes < used + tn_model.layers * sizeof(uint64_t)) return NULL;
  return (uint64_t *)(void *)(start + used);
}

/* Layers that are streamed run many times, in turn with others. What cannot be added up is printed at once. */
static void run_timed_layers(const uint8_t *input) {
  uint64_t *sum = sums();
  for (uint32_t i = 0; sum && i < tn_model.layers; ++i) sum[i] = 0;
  for (uint32_t step = 0; step < tn_model.steps; ++step) {
    uint32_t layer = tn_model.layer_at(step, input);
    if (layer == tn_model.layers) continue;
    uint64_t start = platform_ticks();
    tn_model.layer[layer]();
    uint64_t ticks = platform_ticks() - start;
    if (sum) {
      sum[layer] += ticks;
    } else {
      if (step) put(",");
      put_number(ticks);
    }
  }
}

static void command_layers(void) {
  uint64_t *sum = sums();
  if (!input_ready()) return;
  if (!sum && tn_model.steps != tn_model.layers) {
    put_error("No memory to add up the layers' ticks");
    return;
  }
  put("m-layers-[");
  run_model(run_timed_layers);
  for (uint32_t i = 0; sum && i < tn_model.layers; ++i) {
    if (i) put(",");
    put_number(sum[i]);
  }
  put("]\r\n");
}

static void command_output(void) {
  if (!result_ready()) return;
  put("m-output-[");
  for (uint32_t i = 0; i < tn_model.output_bytes; ++i) put_hex(state.result[i], 2);
  put("]-");
  put_hex(crc32(state.result, tn_model.output_bytes), 8);
  put("\r\n");
}

static void command_ticks(void) {
  if (!result_ready()) return;
  put("m-ticks-[");
  put_number(state.runs);
  put(",");
  put_number(state.ticks);
  put("]\r\n");
}

static void put_field(const char *name, uint32_t value) {
  put(name);
  put_number(value);
}

static void command_info(void) {
  put("m-info-[id=");
  put(tn_model.id);
  put(",name=");
  put(tn_model.name);
  put_field(",arena=", tn_model.arena_bytes);
  put_field(",input=", tn_model.input_bytes);
  put_field(",output=", tn_model.output_bytes);
  put_field(",layers=", tn_model.layers);
  put_field(",ticks-per-second=", platform_ticks_per_second());
  put("]\r\n");
}

static void command_profile(void) {
  put("m-profile-[tinynas-1]\r\nm-model-[");
  put(tn_model.name);
  put("]\r\n");
}

static void command_results(void) {
  if (result_ready()) put_results();
}

static void command_name(void) { put("m-name-dut-[tinynas]\r\n"); }

typedef struct {
  const char *name;
  void (*plain)(void);          /* a command without arguments, */
  void (*with_words)(char *[]); /* or one that takes all words of its line, ended by NULL */
} command;

static const command commands[] = {
    {"name", command_name, NULL},   {"profile", command_profile, NULL}, {"timestamp", put_timestamp, NULL},
    {"db", NULL, command_db},       {"infer", NULL, command_infer},     {"results", command_results, NULL},
    {"load", NULL, command_load},   {"output", command_output, NULL},   {"layers", command_layers, NULL},
    {"ticks", command_ticks, NULL}, {"info", command_info, NULL},
};

static void answer(char *line) {
  char *words[WORDS + 1] = {NULL};
  uint32_t count = 0;
  for (char *p = line; *p;) {
    while (*p == ' ') *p++ = 0;
    if (!*p) break;
    if (count == WORDS) {
      put_error("Too many words");
      return;
    }
    words[count++] = p;
    while (*p && *p != ' ') ++p;
  }
  for (uint32_t i = 0; count && i < sizeof commands / sizeof *commands; ++i) {
    if (!equal(words[0], commands[i].name)) continue;
    if (commands[i].with_words) {
      commands[i].with_words(words);
    } else if (words[1]) {
      put_error("This command takes no arguments");
    } else {
      commands[i].plain();
    }
    return;
  }
  put("e-[Unknown command: ");
  if (count) put(words[0]);
  put("]\r\n");
}

/* Reads one command into line (LINE_BYTES + 1 bytes). Returns NULL, or what is wrong with it. */
static const char *read_command(char *line) {
  const char *error = NULL;
  uint32_t count = 0;
  for (;;) {
    int c = platform_read(0);
    if (c == '%') break;
    if (c == PLATFORM_OVERRUN) {
      error = "Input overrun";
    } else if ((c == '\r' || c == '\n') && count == 0 && !error) {
      continue; /* what a terminal sends after the command before */
    } else if (c < ' ' || c > '~') {
      if (!error) error = "Corrupt command";
    } else if (count == LINE_BYTES) {
      if (!error) error = "Command too long";
    } else {
      line[count++] = (char)c;
    }
  }
  line[count] = 0;
  return error;
}

void protocol_run(void) {
  char line[LINE_BYTES + 1];
  size_t free_bytes;
  uint8_t *free_memory = platform_free_memory(&free_bytes);
  if (free_bytes >= tn_model.input_bytes) {
    state.copy = free_memory;
  } else if (free_bytes >= tn_model.output_bytes) {
    state.kept = free_memory;
  }
  put("m-timestamp-mode-performance\r\n");
  put_timestamp();
  put("m-init-done\r\nm-ready\r\n");
  for (;;) {
    const char *error = read_command(line);
    if (error) {
      /* Perhaps a part of the input went by in it. */
      if (state.input == INPUT_LOADING) forget_input();
      put_error(error);
    } else {
      answer(line);
    }
    put("m-ready\r\n");
  }
}
