/* The MLPerf Tiny serial protocol, device side, and commands of our own beside it: docs/protocol.md has the grammar.
 *
 * A command is text that ends in '%'. Whatever comes, the reply ends in m-ready, and a command that is not exactly
 * right changes nothing and gets an e-[...] line: a wrong result would be worse than none. Inside of a check, a command
 * and its reply carry a number and a CRC-32, so that neither noise nor a late reply is taken for an answer.
 *
 * An inference consumes its input, which lies in the arena. Where the memory that is left can hold it, a pristine copy
 * is kept there. Where it cannot, an input serves one inference; further runs of the same command only take time, and
 * the first one's result is the one that is kept. */
#include "protocol.h"

#include <string.h>

#include "model_info.h"
#include "platform.h"

#define LINE_BYTES 80u
#define WORDS 5u
/* USB serial adapters hold bytes back for 16 ms, and a busy host sends nothing for some such times: a pause of a
 * quarter of a second inside of raw data means that bytes were lost, and three such times without a byte that all are
 * through. */
#define RAW_TIMEOUT_MS 250u
#define QUIET_MS 50u
#define DEFAULT_WARMUPS 10u
#define DEFAULT_BAUD 115200u
#define BAUD_TRIAL_MS 1000u
#define NOISE_BYTES 32u /* so many that no command can hold, and the other end speaks at another rate */

/* A load by db, without checksums, ends with the first line that is corrupt; one in checked pieces goes on. */
typedef enum { INPUT_NONE, INPUT_LOADING, INPUT_PIECES, INPUT_LOADED, INPUT_CONSUMED } input_state;

static struct {
  input_state input;
  uint32_t announced;    /* bytes of the load that is going on; four times the input's when they are floats */
  uint32_t received;     /* of these */
  uint8_t partial[4];    /* of a float */
  uint8_t *copy;         /* the input's pristine copy, or NULL */
  uint8_t *kept;         /* room for the first result, or NULL */
  const uint8_t *result; /* the last result, or NULL */
  uint32_t runs;         /* of the last infer command */
  uint32_t disturbed;    /* bytes that came meanwhile */
  uint64_t ticks;        /* that these runs took */
  const char *sequence;  /* of the check that is being answered, or NULL */
  uint32_t crc;          /* of its reply so far */
  uint32_t baud;         /* the UART's rate now */
  uint32_t next_baud;    /* the rate after this reply, or 0 */
  uint64_t trial_end;    /* when the rate goes back unless it has proved itself, or 0 */
  uint32_t noise;        /* bytes since the last good command that no command can hold */
  int restart;           /* after this reply */
} state;

static size_t length(const char *text) {
  const char *end = text;
  while (*end) ++end;
  return (size_t)(end - text);
}

/* CRC-32 as in zlib and Ethernet, four bits at a time; crc is that of what came before, 0 at first. */
static uint32_t crc32(uint32_t crc, const void *data, size_t count) {
  static const uint32_t table[16] = {0x00000000u, 0x1DB71064u, 0x3B6E20C8u, 0x26D930ACu, 0x76DC4190u, 0x6B6B51F4u,
                                     0x4DB26158u, 0x5005713Cu, 0xEDB88320u, 0xF00F9344u, 0xD6D6A3E8u, 0xCB61B38Cu,
                                     0x9B64C2B0u, 0x86D3D2D4u, 0xA00AE278u, 0xBDBDF21Cu};
  const uint8_t *bytes = data;
  crc = ~crc;
  while (count--) {
    crc ^= *bytes++;
    crc = crc >> 4 ^ table[crc & 15u];
    crc = crc >> 4 ^ table[crc & 15u];
  }
  return ~crc;
}

static void put(const char *text) {
  if (state.sequence) state.crc = crc32(state.crc, text, length(text));
  platform_write(text);
}

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

static void put_bytes(const char *before, uint32_t bytes) {
  put(before);
  put_number(bytes);
  put(" bytes]\r\n");
}

/* Whether a load of this many bytes may start; says why not. */
static int begin_load(uint32_t bytes, int floats_too) {
  forget_input();
  if (bytes != tn_model.input_bytes &&
      !(floats_too && tn_model.input_element_bytes == 1u && bytes == tn_model.input_bytes * sizeof(float))) {
    put_bytes("e-[This model takes ", tn_model.input_bytes);
    return 0;
  }
  if (!input_buffer()) {
    put_error("No memory for a whole input, which this model takes row by row");
    return 0;
  }
  if (!state.copy) state.result = NULL; /* the result shares the arena with what comes now */
  state.announced = bytes;
  return 1;
}

static void end_load(void) {
  state.input = INPUT_LOADED;
  state.announced = state.received = tn_model.input_bytes; /* floats have become bytes */
  put("m-load-done\r\n");
}

/* Quantizes as LiteRT does: rounds half away from zero, clamps. Returns 0 if value is no number. */
static int quantize(float value, uint8_t *quantized) {
  float scaled = value / tn_model.input_scale;
  if (scaled != scaled) return 0;
  if (scaled > 512.0f) scaled = 512.0f; /* beyond what any zero point leaves unclamped */
  if (scaled < -512.0f) scaled = -512.0f;
  int32_t whole = (int32_t)scaled;
  float rest = scaled - (float)whole;
  whole += tn_model.input_zero_point + (rest >= 0.5f) - (rest <= -0.5f);
  *quantized = (uint8_t)(whole < -128 ? -128 : whole > 127 ? 127 : whole);
  return 1;
}

/* The next byte of a db load. Returns 0 if it ends a float that is no number. */
static int take_byte(uint8_t byte) {
  uint32_t at = state.received++;
  if (state.announced == tn_model.input_bytes) {
    input_buffer()[at] = byte;
    return 1;
  }
  state.partial[at % 4u] = byte;
  if (at % 4u != 3u) return 1;
  float value;
  memcpy(&value, state.partial, sizeof value);
  return quantize(value, &input_buffer()[at / 4u]);
}

static const char *add_hex(const char *hex) {
  size_t digits = length(hex);
  if (digits % 2u || digits / 2u > state.announced - state.received) return "Wrong number of digits: load again";
  for (; *hex; hex += 2) {
    int high = hex_digit(hex[0]), low = hex_digit(hex[1]);
    if (high < 0 || low < 0) return "Not a hexadecimal number: load again";
    if (!take_byte((uint8_t)(high << 4 | low))) return "Not a number: load again";
  }
  return NULL;
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
    uint32_t bytes;
    /* Zero bytes are never the model's. */
    if (!begin_load(parse_number(words[2], &bytes) ? bytes : 0, 1)) return;
    state.input = INPUT_LOADING;
    put_bytes("m-[Expecting ", bytes);
  } else if (words[1] && equal(words[1], "print") && !words[2]) {
    print_input();
  } else if (words[1] && !words[2]) {
    if (state.input != INPUT_LOADING) {
      put_error("No load is going on: start with db load N");
      return;
    }
    const char *error = add_hex(words[1]);
    if (error) {
      forget_input();
      put_error(error);
    } else if (state.received == state.announced) {
      end_load();
    }
  } else {
    forget_input();
    put_error("Use: db load N, db HH.., or db print");
  }
}

/* A piece of the input, which follows as raw bytes. */
static void command_load(char *words[]) {
  uint32_t bytes, offset, count, crc;
  if (!state.sequence) {
    put_error("Only inside of a check");
    return;
  }
  if (!words[1] || !words[2] || !words[3] || !words[4] || !parse_number(words[1], &bytes) ||
      !parse_number(words[2], &offset) || !parse_number(words[3], &count) || !parse_hex32(words[4], &crc)) {
    put_error("Use: load N OFFSET COUNT CRC32 in 8 hexadecimal digits");
    return;
  }
  if (offset == 0) {
    if (!begin_load(bytes, 0)) return;
  } else if ((state.input != INPUT_PIECES && state.input != INPUT_LOADED) || bytes != state.announced ||
             offset > state.received) {
    put_error("A piece is missing before this one: load from the start");
    return;
  }
  if (count == 0 || count > bytes - offset) {
    put_error("Too many bytes for this input");
    return;
  }
  state.input = INPUT_PIECES;
  state.received = offset;
  if (!state.copy) state.result = NULL;
  put_bytes("m-[Expecting ", count);
  uint8_t *piece = input_buffer() + offset;
  uint32_t taken = 0;
  int byte = 0;
  while (taken < count && (byte = platform_read(RAW_TIMEOUT_MS)) >= 0) piece[taken++] = (uint8_t)byte;
  if (byte < 0 || crc32(0, piece, count) != crc) {
    /* The rest of what was meant as data must not be taken for commands. */
    while (platform_read(QUIET_MS) != PLATFORM_TIMEOUT) {
    }
    put_error(byte < 0 ? "Bytes are missing: load again" : "CRC mismatch: load again");
    return;
  }
  state.received += count;
  put("m-loaded-[");
  put_number(state.received);
  put("]\r\n");
  if (state.received == bytes) end_load();
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
    forget_input();
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
  uint32_t received = platform_received_bytes();
  for (uint32_t i = 0; i < runs; ++i) state.ticks += run_model(tn_model.invoke);
  state.disturbed = platform_received_bytes() - received;
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
  uint32_t received = platform_received_bytes();
  run_model(run_timed_layers);
  uint32_t disturbed = platform_received_bytes() - received;
  for (uint32_t i = 0; sum && i < tn_model.layers; ++i) {
    if (i) put(",");
    put_number(sum[i]);
  }
  put("]\r\nm-disturbed-[");
  put_number(disturbed);
  put("]\r\n");
}

static void command_output(void) {
  if (!result_ready()) return;
  put("m-output-[");
  for (uint32_t i = 0; i < tn_model.output_bytes; ++i) put_hex(state.result[i], 2);
  put("]-");
  put_hex(crc32(0, state.result, tn_model.output_bytes), 8);
  put("\r\n");
}

static void command_ticks(void) {
  if (!result_ready()) return;
  put("m-ticks-[");
  put_number(state.runs);
  put(",");
  put_number(state.ticks);
  put(",");
  put_number(state.disturbed);
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
  put_field(",baud=", state.baud);
  put("]\r\n");
}

static void command_memory(void) {
  platform_memory memory;
  platform_measure_memory(&memory);
  put_field("m-memory-[arena=", tn_model.arena_bytes);
  put_field(",static=", memory.static_bytes);
  put_field(",stack=", memory.stack_bytes);
  put_field(",stack-used=", memory.stack_used_bytes);
  put_field(",free=", memory.free_bytes);
  put("]\r\n");
}

static void command_baud(char *words[]) {
  uint32_t wanted;
  if (!words[1] || words[2] || !parse_number(words[1], &wanted)) {
    put_error("Use: baud N");
    return;
  }
  state.next_baud = platform_baud(wanted);
  put_field("m-baud-[", state.next_baud);
  put("]\r\n");
}

static void command_restart(void) { state.restart = 1; }

static void command_profile(void) {
  put("m-profile-[tinynas-1]\r\nm-model-[");
  put(tn_model.benchmark);
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
    {"name", command_name, NULL},       {"profile", command_profile, NULL}, {"timestamp", put_timestamp, NULL},
    {"db", NULL, command_db},           {"infer", NULL, command_infer},     {"results", command_results, NULL},
    {"load", NULL, command_load},       {"output", command_output, NULL},   {"layers", command_layers, NULL},
    {"ticks", command_ticks, NULL},     {"info", command_info, NULL},       {"memory", command_memory, NULL},
    {"restart", command_restart, NULL}, {"baud", NULL, command_baud},
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
    state.noise = 0;
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

/* The rate at which the other end speaks is known to be this one. */
static void trust_baud(void) {
  state.trial_end = 0;
  state.noise = 0;
}

static void set_baud(uint32_t baud, uint64_t trial_end) {
  platform_set_baud(baud);
  state.baud = baud;
  trust_baud();
  state.trial_end = trial_end;
}

/* Ends the word at text, and returns what follows the space behind it, or NULL if there is none. */
static char *after_word(char *text) {
  while (*text && *text != ' ') ++text;
  if (!*text) return NULL;
  *text = 0;
  return text + 1;
}

/* text is "SEQUENCE CRC COMMAND". */
static void answer_checked(char *text) {
  uint32_t number, expected, crc = 0;
  char *crc_text = after_word(text), *command_text = crc_text ? after_word(crc_text) : NULL;
  if (command_text) crc = crc32(crc32(0, text, length(text)), " ", 1);
  if (!command_text || !parse_number(text, &number) || !parse_hex32(crc_text, &expected) ||
      crc32(crc, command_text, length(command_text)) != expected) {
    put_error("Check failed: send it again");
    return;
  }
  trust_baud();
  state.sequence = text;
  state.crc = crc;
  answer(command_text);
  state.sequence = NULL;
  put("m-check-[");
  put(text);
  put(",");
  put_hex(state.crc, 8);
  put("]\r\n");
}

/* The next byte of a command. A rate that is on trial goes back when its time is up, as one does at which only noise
 * comes: that is PLATFORM_TIMEOUT. */
static int read_byte(void) {
  uint32_t timeout_ms = 0;
  if (state.trial_end) {
    uint64_t now = platform_ticks();
    if (now < state.trial_end) {
      timeout_ms = 1u + (uint32_t)((state.trial_end - now) / (platform_ticks_per_second() / 1000u));
    }
  }
  int c = PLATFORM_TIMEOUT;
  if (!state.trial_end || timeout_ms) c = platform_read(timeout_ms);
  if (c != PLATFORM_TIMEOUT && (c < ' ' || c > '~') && state.baud != DEFAULT_BAUD && ++state.noise == NOISE_BYTES) {
    c = PLATFORM_TIMEOUT;
  }
  if (c == PLATFORM_TIMEOUT) set_baud(DEFAULT_BAUD, 0);
  return c;
}

/* Reads one command into line (LINE_BYTES + 1 bytes). Returns NULL, or what is wrong with it. */
static const char *read_command(char *line) {
  const char *error = NULL;
  uint32_t count = 0;
  for (;;) {
    int c = read_byte();
    if (c == '%') break;
    if (c == PLATFORM_TIMEOUT) {
      error = NULL;
      count = 0;
    } else if (c == PLATFORM_OVERRUN) {
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

/* The text behind a line's beginning, or NULL if it begins otherwise. */
static char *after(const char *beginning, char *line) {
  while (*beginning && *beginning == *line) ++beginning, ++line;
  return *beginning ? NULL : line;
}

static void reply_to(char *line, const char *error) {
  char *checked = after("check ", line);
  if (error) {
    /* Perhaps a part of the input went by in it. */
    if (state.input == INPUT_LOADING) forget_input();
    put_error(error);
  } else if (checked) {
    answer_checked(checked);
  } else {
    answer(line);
  }
  put("m-ready\r\n");
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
  state.baud = DEFAULT_BAUD;
  put("m-timestamp-mode-performance\r\n");
  put_timestamp();
  put("m-init-done\r\nm-ready\r\n");
  for (;;) {
    const char *error = read_command(line);
    if (!error && equal(line, "name")) trust_baud();
    reply_to(line, error);
    if (state.restart) platform_restart();
    if (state.next_baud) {
      uint64_t trial = (uint64_t)BAUD_TRIAL_MS * (platform_ticks_per_second() / 1000u);
      set_baud(state.next_baud, platform_ticks() + trial);
      state.next_baud = 0;
    }
  }
}
