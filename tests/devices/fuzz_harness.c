/* Fuzzes the harness's protocol in process, judged by an independent model of it.
 *
 *   fuzz_harness INPUTS SEED          prints one JSON object; exits with 1 at the first fault
 *   fuzz_harness replay INDEX EVENT…  runs one input, as a fault prints it
 *
 * An input is a sequence of events: bytes, overruns, and times in which the line is quiet. Inputs come from a grammar
 * that knows the commands, their checksums and how to spoil them, and from inputs that reached new code, changed. Each
 * is followed by a quiet line, a '%', quiet again, and commands whose replies have to be right: whatever came, the
 * board has to be back.
 *
 * The judge sees what a listener on the line sees: the bytes that the board took and the lines that it wrote. From
 * docs/protocol.md it knows what each reply must be, down to the results of the data that was loaded. All memory is
 * allocated to the byte, so that the sanitizers see whatever lies beyond it. */
#define _GNU_SOURCE
#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#define tn_model (*fuzz_model)
#include "model_info.h"
#include "platform.h"
#include "protocol.h"

void fuzz_power_on(void);
void __sanitizer_cov_trace_pc(void);
const char *__asan_default_options(void);
const char *__ubsan_default_options(void);

enum { INPUT_BYTES = 64, ROW_BYTES = 16, ROWS = INPUT_BYTES / ROW_BYTES, LAYERS = 2, OVERRUN = 256, QUIET = 257 };
enum {
  MOST_EVENTS = 6144,
  MOST_OWN_EVENTS = 4096,
  MOST_REPLY = 4096,
  MOST_RUNS = 400,
  CORPUS = 2048,
  LINE_BYTES = 80,
  PATIENCE_S = 3
};

typedef struct {
  uint16_t event[MOST_EVENTS];
  uint32_t count;
} input;

/* ---- Chance: splitmix64. */

static uint64_t chance_state;

static uint64_t chance(void) {
  uint64_t z = (chance_state += 0x9E3779B97F4A7C15u);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

static uint32_t below(uint32_t limit) { return (uint32_t)(chance() % limit); }

static int one_in(uint32_t times) { return below(times) == 0; }

/* ---- CRC-32, bit by bit: independent of the harness's. */

static uint32_t crc_of(uint32_t crc, const void *data, size_t count) {
  const uint8_t *bytes = data;
  crc = ~crc;
  while (count--) {
    crc ^= *bytes++;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1u ? 0xEDB88320u : 0u);
  }
  return ~crc;
}

/* ---- Models: the same two layers, whole or streamed, with results of one or four bytes. */

typedef struct {
  const char *name;
  tn_model_info model;
  uint32_t free_bytes;
  int streamed, streamed_input;
} configuration;

static uint8_t *arena, *free_memory;
static uint32_t row, layer_calls, runs, received;
static int disturbing;
static jmp_buf out_of_patience;

/* What the model computes. */
static void compute(const uint8_t *data, uint32_t element_bytes, uint8_t *result) {
  int32_t sums[4] = {0};
  for (int i = 0; i < INPUT_BYTES; ++i) sums[i & 3] += (int8_t)(data[i] ^ 0x5A);
  for (int o = 0; o < 4; ++o) {
    int8_t small = (int8_t)(sums[o] / 16);
    if (element_bytes == 1u) {
      result[o] = (uint8_t)small;
    } else {
      uint32_t bits; /* any float: also infinities and what is no number */
      memcpy(&bits, data + 4 * o, sizeof bits);
      float value = (float)small / 7.0f;
      if (data[16 + o] & 1u) memcpy(&value, &bits, sizeof value);
      memcpy(result + 4 * o, &value, sizeof value);
    }
  }
}

static void first_row(uint32_t index) {
  for (int i = 0; i < ROW_BYTES; ++i) arena[ROW_BYTES * index + (uint32_t)i] ^= 0x5A;
}

static void first_layer(void) {
  layer_calls++;
  received += (uint32_t)disturbing;
  if (row < ROWS) first_row(row++);
}

static void whole_first_layer(void) {
  layer_calls++;
  received += (uint32_t)disturbing;
  for (uint32_t i = 0; i < ROWS; ++i) first_row(i);
}

static void last_layer(void) {
  uint8_t data[INPUT_BYTES], result[16];
  layer_calls++;
  received += (uint32_t)disturbing;
  for (int i = 0; i < INPUT_BYTES; ++i) data[i] = arena[i] ^ 0x5A;
  compute(data, tn_model.output_element_bytes, result);
  memcpy(arena, result, tn_model.output_bytes);
}

static void (*const whole_layers[])(void) = {whole_first_layer, last_layer};
static void (*const row_layers[])(void) = {first_layer, last_layer};

static uint32_t whole_layer_at(uint32_t step, const uint8_t *data) {
  (void)data;
  return step;
}

static uint32_t row_layer_at(uint32_t step, const uint8_t *data) {
  (void)data;
  if (step == 0) row = 0;
  return step < ROWS ? 0 : 1;
}

static uint32_t arriving_row_layer_at(uint32_t step, const uint8_t *data) {
  if (step == 0) row = 0;
  if (step == 2 * ROWS) return 1;
  if (step % 2) return 0;
  memcpy(arena + step / 2 * ROW_BYTES, data + step / 2 * ROW_BYTES, ROW_BYTES);
  return LAYERS;
}

static void invoke(const uint8_t *data) {
  if (++runs > MOST_RUNS) longjmp(out_of_patience, 1); /* right, but it would go on for hours */
  for (uint32_t step = 0; step < tn_model.steps; ++step) {
    uint32_t layer = tn_model.layer_at(step, data);
    if (layer == LAYERS) continue;
    int counting = disturbing;
    disturbing = 0;
    tn_model.layer[layer]();
    disturbing = counting;
  }
  received += (uint32_t)disturbing;
}

static void *input_of(void) { return arena; }
static const void *output_of(void) { return arena; }

#define MODEL(STEPS, ELEMENT, INPUT, AT, LAYER)                                                       \
  {                                                                                                   \
    .name = "toy", .id = "0123456789abcdef", .benchmark = "toy", .arena_bytes = INPUT_BYTES,          \
    .input_bytes = INPUT_BYTES, .input_element_bytes = 1, .output_bytes = 4 * (ELEMENT),              \
    .output_element_bytes = (ELEMENT), .layers = LAYERS, .steps = (STEPS), .input_scale = 0.5f,       \
    .input_zero_point = -3, .output_scale = 0.00390625f, .output_zero_point = -128, .input = (INPUT), \
    .output = output_of, .invoke = invoke, .layer_at = (AT), .layer = (LAYER)                         \
  }
#define WHOLE(ELEMENT) MODEL(LAYERS, ELEMENT, input_of, whole_layer_at, whole_layers)
#define STREAMED MODEL(ROWS + 1, 1, input_of, row_layer_at, row_layers)
#define STREAMED_INPUT MODEL(2 * ROWS + 1, 1, NULL, arriving_row_layer_at, row_layers)

static const configuration configurations[] = {
    {"room for a copy", WHOLE(1), INPUT_BYTES, 0, 0},
    {"room for a copy and the layers' ticks", WHOLE(1), INPUT_BYTES + 16, 0, 0},
    {"room for the output", WHOLE(1), INPUT_BYTES - 1, 0, 0},
    {"no room", WHOLE(1), 3, 0, 0},
    {"streamed", STREAMED, INPUT_BYTES + 16, 1, 0},
    {"streamed, no room for ticks", STREAMED, INPUT_BYTES + 15, 1, 0},
    {"streamed input", STREAMED_INPUT, INPUT_BYTES + 16, 1, 1},
    {"streamed input, no room", STREAMED_INPUT, INPUT_BYTES - 1, 1, 1},
    {"float results", WHOLE(4), INPUT_BYTES, 0, 0},
    {"float results, room for the output", WHOLE(4), 16, 0, 0},
};
enum { CONFIGURATIONS = sizeof configurations / sizeof *configurations };

const tn_model_info *fuzz_model;
static const configuration *chosen;

/* ---- The judge. */

typedef enum { NONE, LOADING, PIECES, LOADED, CONSUMED } input_state;

static struct {
  char line[LINE_BYTES + 1]; /* the command that is arriving */
  uint32_t line_count;
  const char *line_error;
  char reply[MOST_REPLY];
  uint32_t reply_count;
  uint16_t raw[MOST_EVENTS];
  uint32_t raw_count;
  int raw_follows;
  int booting, restarts;
  uint32_t next_baud, baud, noise;
  int on_trial, trial_over;
  input_state state;
  uint32_t announced, loaded;
  uint8_t data[INPUT_BYTES], partial[4];
  int has_result;
  uint8_t result[16];
  uint32_t runs, disturbed;
} seen;

static struct {
  uint64_t exchanges, checked, refused_checks, pieces, spoilt_pieces, loads, inferences, refusals, restarts, rates,
      long_runs;
} statistics;

static input current;
static uint64_t current_index;
static uint32_t position;

static void dump(void) {
  fprintf(stderr, "\nthe input that did it: replay %" PRIu64, current_index);
  for (uint32_t i = 0; i < current.count; ++i) fprintf(stderr, " %u", current.event[i]);
  fprintf(stderr, "\n");
}

const char *__asan_default_options(void) { return "abort_on_error=1"; }
const char *__ubsan_default_options(void) { return "abort_on_error=1:print_stacktrace=1"; }

/* A sanitizer's abort, or time that is up: the process ends here, so that it may print. */
static void died(int signal_number) {
  if (signal_number == SIGVTALRM) fprintf(stderr, "fault: it hangs");
  dump();
  _exit(1);
}

static void be_patient(void) {
  const struct itimerval patience = {.it_value = {.tv_sec = PATIENCE_S}};
  setitimer(ITIMER_VIRTUAL, &patience, NULL);
}

static void fault(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fprintf(stderr, "fault in input %" PRIu64 " (%s): ", current_index, chosen->name);
  vfprintf(stderr, format, arguments);
  fprintf(stderr, "\nthe command: %s\nthe reply: %.*s\n", seen.line, (int)seen.reply_count, seen.reply);
  va_end(arguments);
  dump();
  exit(1);
}

static int room_for_copy(void) { return chosen->free_bytes >= INPUT_BYTES; }
static int room_for_output(void) { return chosen->free_bytes >= tn_model.output_bytes; }
static int room_for_input(void) { return room_for_copy() || !chosen->streamed_input; }

static int room_for_ticks(void) {
  uint32_t used = room_for_copy() ? INPUT_BYTES : room_for_output() ? (tn_model.output_bytes + 7u) & ~7u : 0;
  return chosen->free_bytes >= used + LAYERS * 8u;
}

/* What the reply must be: text in which the byte 1 stands for a number and 2 for anything within brackets. */
static char wanted[MOST_REPLY];

__attribute__((format(printf, 1, 2))) static void want(const char *format, ...) {
  size_t used = strlen(wanted);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(wanted + used, sizeof wanted - used, format, arguments);
  va_end(arguments);
}

static int matches(const char *pattern, const char *text, const char *end) {
  for (; *pattern; ++pattern) {
    if (*pattern == 1) {
      if (text == end || *text < '0' || *text > '9') return 0;
      while (text < end && *text >= '0' && *text <= '9') ++text;
    } else if (*pattern == 2) {
      while (text < end && *text != ']') ++text;
    } else if (text == end || *text++ != *pattern) {
      return 0;
    }
  }
  return text == end;
}

static int number_of(const char *text, uint32_t *value) {
  size_t digits = strspn(text, "0123456789");
  if (digits == 0 || digits > 9 || text[digits]) return 0;
  *value = (uint32_t)strtoul(text, NULL, 10);
  return 1;
}

static int crc_text(const char *text, uint32_t *value) {
  if (strlen(text) != 8 || strspn(text, "0123456789abcdefABCDEF") != 8) return 0;
  *value = (uint32_t)strtoul(text, NULL, 16);
  return 1;
}

static void forget(void) {
  seen.state = NONE;
  seen.loaded = 0;
}

/* A float as LiteRT quantizes it. */
static uint8_t quantized(float value) {
  double steps = (double)roundf(value / 0.5f) - 3.0;
  return (uint8_t)(int8_t)fmin(fmax(steps, -128), 127);
}

static const char *take_digits(const char *digits) {
  size_t count = strlen(digits);
  if (count % 2 || count / 2 > seen.announced - seen.loaded) return "Wrong number of digits: load again";
  for (; *digits; digits += 2) {
    char pair[3] = {digits[0], digits[1], 0};
    if (strspn(pair, "0123456789abcdefABCDEF") != 2) return "Not a hexadecimal number: load again";
    uint8_t byte = (uint8_t)strtoul(pair, NULL, 16);
    uint32_t at = seen.loaded++;
    if (seen.announced == INPUT_BYTES) {
      seen.data[at] = byte;
    } else {
      seen.partial[at % 4] = byte;
      if (at % 4 == 3) {
        float value;
        memcpy(&value, seen.partial, sizeof value);
        if (isnan(value)) return "Not a number: load again";
        seen.data[at / 4] = quantized(value);
      }
    }
  }
  return NULL;
}

static void want_load_done(void) {
  seen.state = LOADED;
  seen.announced = seen.loaded = INPUT_BYTES;
  statistics.loads++;
  want("m-load-done\r\n");
}

/* Whether a load may start. */
static int want_start(uint32_t bytes, int floats_too) {
  forget();
  if (bytes != INPUT_BYTES && !(floats_too && bytes == 4 * INPUT_BYTES)) {
    want("e-[This model takes %d bytes]\r\n", INPUT_BYTES);
    return 0;
  }
  if (!room_for_input()) {
    want("e-[No memory for a whole input, which this model takes row by row]\r\n");
    return 0;
  }
  if (!room_for_copy()) seen.has_result = 0;
  seen.announced = bytes;
  return 1;
}

static void want_db(char **words, uint32_t count) {
  if (count == 3 && !strcmp(words[1], "load")) {
    uint32_t bytes = 0;
    if (!number_of(words[2], &bytes)) bytes = 0;
    if (!want_start(bytes, 1)) return;
    seen.state = LOADING;
    want("m-[Expecting %u bytes]\r\n", bytes);
  } else if (count == 2 && !strcmp(words[1], "print")) {
    if (seen.state != LOADED) {
      want("e-[No input: load one first]\r\n");
      return;
    }
    for (int i = 0; i < INPUT_BYTES; ++i) {
      want("%s%02x%s", i % 8 ? "-" : "m-buffer-", seen.data[i], i % 8 == 7 ? "\r\n" : "");
    }
  } else if (count == 2) {
    if (seen.state != LOADING) {
      want("e-[No load is going on: start with db load N]\r\n");
      return;
    }
    const char *error = take_digits(words[1]);
    if (error) {
      forget();
      want("e-[%s]\r\n", error);
    } else if (seen.loaded == seen.announced) {
      want_load_done();
    }
  } else {
    forget();
    want("e-[Use: db load N, db HH.., or db print]\r\n");
  }
}

static void want_load(char **words, uint32_t count, int checked) {
  uint32_t bytes, offset, length, crc;
  if (!checked) {
    want("e-[Only inside of a check]\r\n");
    return;
  }
  if (count != 5 || !number_of(words[1], &bytes) || !number_of(words[2], &offset) || !number_of(words[3], &length) ||
      !crc_text(words[4], &crc)) {
    want("e-[Use: load N OFFSET COUNT CRC32 in 8 hexadecimal digits]\r\n");
    return;
  }
  if (offset == 0) {
    if (!want_start(bytes, 0)) return;
  } else if ((seen.state != PIECES && seen.state != LOADED) || bytes != seen.announced || offset > seen.loaded) {
    want("e-[A piece is missing before this one: load from the start]\r\n");
    return;
  }
  if (length == 0 || length > bytes - offset) {
    want("e-[Too many bytes for this input]\r\n");
    return;
  }
  want("m-[Expecting %u bytes]\r\n", length);
  seen.state = PIECES;
  seen.loaded = offset;
  if (!room_for_copy()) seen.has_result = 0;
  uint8_t piece[INPUT_BYTES];
  uint32_t taken = 0;
  while (taken < length && taken < seen.raw_count && seen.raw[taken] < 256) {
    piece[taken] = (uint8_t)seen.raw[taken];
    taken++;
  }
  if (taken < length || crc_of(0, piece, length) != crc) {
    statistics.spoilt_pieces++;
    want(taken < length ? "e-[Bytes are missing: load again]\r\n" : "e-[CRC mismatch: load again]\r\n");
    if (seen.raw[seen.raw_count - 1] != QUIET) fault("it did not wait until the line was quiet");
    return;
  }
  if (seen.raw_count != length) fault("it took %u raw bytes", seen.raw_count);
  statistics.pieces++;
  memcpy(seen.data + offset, piece, length);
  seen.loaded = offset + length;
  want("m-loaded-[%u]\r\n", seen.loaded);
  if (seen.loaded == bytes) want_load_done();
}

static int want_input(void) {
  if (seen.state == LOADED) return 1;
  want(seen.state == CONSUMED ? "e-[Input consumed: load it again]\r\n" : "e-[No input: load one first]\r\n");
  return 0;
}

static int want_result(void) {
  if (!seen.has_result) want("e-[No result: infer first]\r\n");
  return seen.has_result;
}

static void infer_once(void) {
  compute(seen.data, tn_model.output_element_bytes, seen.result);
  seen.has_result = 1;
  if (!room_for_copy()) {
    forget();
    seen.state = CONSUMED;
  }
}

static void want_results(void) {
  want("m-results-[");
  for (int o = 0; o < 4; ++o) {
    int steps = (int8_t)seen.result[o] + 128;
    int thousandths = (2000 * steps + 256) / 512;
    if (tn_model.output_element_bytes == 1) want("%s%d.%03d", o ? "," : "", thousandths / 1000, thousandths % 1000);
  }
  want(tn_model.output_element_bytes == 1 ? "]\r\n" : "\2]\r\n");
}

static void want_infer(char **words, uint32_t count) {
  uint32_t times = 1, warmups = 10;
  if (count > 3 || (count > 1 && !number_of(words[1], &times)) || (count > 2 && !number_of(words[2], &warmups)) ||
      times == 0) {
    want("e-[Use: infer N W with N of at least 1]\r\n");
    return;
  }
  if (!want_input()) return;
  if (!room_for_output() && times + warmups > 1) {
    want("e-[No memory to keep the first result: use infer 1 0]\r\n");
    return;
  }
  statistics.inferences++;
  infer_once();
  seen.runs = times;
  seen.disturbed = disturbing ? times : 0;
  if (runs != times + warmups) fault("%u runs in place of %u", runs, times + warmups);
  want("m-warmup-start-%u\r\nm-warmup-done\r\nm-infer-start-%u\r\nm-lap-us-\1\r\nm-lap-us-\1\r\nm-infer-done\r\n",
       warmups, times);
  want_results();
}

static void want_layers(void) {
  if (!want_input()) return;
  if (!room_for_ticks() && chosen->streamed) {
    want("e-[No memory to add up the layers' ticks]\r\n");
    return;
  }
  infer_once();
  want("m-layers-[\1,\1]\r\nm-disturbed-[%u]\r\n", disturbing ? layer_calls : 0);
}

static void want_output(void) {
  if (!want_result()) return;
  want("m-output-[");
  for (uint32_t i = 0; i < tn_model.output_bytes; ++i) want("%02x", seen.result[i]);
  want("]-%08x\r\n", crc_of(0, seen.result, tn_model.output_bytes));
}

static void want_plain(const char *name) {
  if (!strcmp(name, "name")) {
    want("m-name-dut-[tinynas]\r\n");
  } else if (!strcmp(name, "profile")) {
    want("m-profile-[tinynas-1]\r\nm-model-[toy]\r\n");
  } else if (!strcmp(name, "timestamp")) {
    want("m-lap-us-\1\r\n");
  } else if (!strcmp(name, "results")) {
    if (want_result()) want_results();
  } else if (!strcmp(name, "output")) {
    want_output();
  } else if (!strcmp(name, "layers")) {
    want_layers();
  } else if (!strcmp(name, "ticks")) {
    if (want_result()) want("m-ticks-[%u,\1,%u]\r\n", seen.runs, seen.disturbed);
  } else if (!strcmp(name, "info")) {
    want(
        "m-info-[id=0123456789abcdef,name=toy,arena=%d,input=%d,output=%u,layers=2,ticks-per-second=1000000,baud=%u]"
        "\r\n",
        INPUT_BYTES, INPUT_BYTES, tn_model.output_bytes, seen.baud);
  } else if (!strcmp(name, "memory")) {
    want("m-memory-[arena=%d,static=100,stack=4096,stack-used=600,free=%u]\r\n", INPUT_BYTES, chosen->free_bytes);
  } else if (!strcmp(name, "restart")) {
    seen.restarts = 1;
  } else {
    want("e-[Unknown command: %s]\r\n", name);
  }
}

static int is_plain(const char *name) {
  static const char *const names[] = {"name",   "profile", "timestamp", "results", "output",
                                      "layers", "ticks",   "info",      "memory",  "restart"};
  for (size_t i = 0; i < sizeof names / sizeof *names; ++i) {
    if (!strcmp(name, names[i])) return 1;
  }
  return 0;
}

/* Whether a line begins with a command's name. */
static int is_known(const char *line) {
  static const char *const others[] = {"db", "load", "infer", "baud"};
  char copy[LINE_BYTES + 1];
  strcpy(copy, line);
  char *rest = NULL, *name = strtok_r(copy, " ", &rest), *word = name;
  for (int count = 1; word; ++count) {
    word = strtok_r(NULL, " ", &rest);
    if (word && count == 5) return 0; /* too many words */
  }
  for (size_t i = 0; name && i < sizeof others / sizeof *others; ++i) {
    if (!strcmp(name, others[i])) return 1;
  }
  return name && is_plain(name);
}

static void want_command(const char *text, int checked) {
  char copy[LINE_BYTES + 1], *words[8], *rest = NULL;
  uint32_t count = 0;
  strcpy(copy, text);
  for (char *word = strtok_r(copy, " ", &rest); word && count < 6; word = strtok_r(NULL, " ", &rest)) {
    words[count++] = word;
  }
  if (count == 6) {
    want("e-[Too many words]\r\n");
  } else if (count == 0) {
    want("e-[Unknown command: ]\r\n");
  } else if (!strcmp(words[0], "db")) {
    want_db(words, count);
  } else if (!strcmp(words[0], "load")) {
    want_load(words, count, checked);
  } else if (!strcmp(words[0], "infer")) {
    want_infer(words, count);
  } else if (!strcmp(words[0], "baud")) {
    uint32_t baud;
    if (count == 2 && number_of(words[1], &baud)) {
      seen.next_baud = platform_baud(baud);
      want("m-baud-[%u]\r\n", seen.next_baud);
    } else {
      want("e-[Use: baud N]\r\n");
    }
  } else if (is_plain(words[0]) && count > 1) {
    want("e-[This command takes no arguments]\r\n");
  } else {
    want_plain(words[0]);
  }
}

/* The text behind "check SEQ CRC " if both are right, or NULL; seq is SEQ and the space. */
static const char *right_check(const char *text, char *seq) {
  uint32_t number, crc;
  char crc_word[9];
  const char *space = strchr(text, ' ');
  if (!space || space - text > 9) return NULL;
  memcpy(seq, text, (size_t)(space - text));
  seq[space - text] = 0;
  if (!number_of(seq, &number) || strlen(space) < 10 || space[9] != ' ') return NULL;
  memcpy(crc_word, space + 1, 8);
  crc_word[8] = 0;
  if (!crc_text(crc_word, &crc)) return NULL;
  strcat(seq, " ");
  return crc_of(crc_of(0, seq, strlen(seq)), space + 10, strlen(space + 10)) == crc ? space + 10 : NULL;
}

/* Real values against what is printed, to the precision of three decimals and a float. */
static void judge_floats(void) {
  const char *results = memmem(seen.reply, seen.reply_count, "m-results-[", 11);
  if (tn_model.output_element_bytes == 1 || !results || !seen.has_result) return;
  results += 11;
  for (int o = 0; o < 4; ++o) {
    float value;
    char *end;
    memcpy(&value, seen.result + 4 * o, sizeof value);
    double printed = strtod(results, &end);
    int right = end > results && *end == (o < 3 ? ',' : ']');
    if (isnan(value)) {
      right = right && isnan(printed);
    } else if (fabsf(value) >= 4e9f) {
      right = right && isinf(printed) && !signbit(printed) == !signbit(value);
    } else {
      right = right && fabs(printed - (double)value) <= 0.00051 + 1e-6 * fabs((double)value);
    }
    if (!right) fault("a result of %g is printed as %.*s", (double)value, (int)(end - results), results);
    results = end + 1;
  }
}

static void judge_lines(void) {
  const char *end = seen.reply + seen.reply_count;
  for (const char *line = seen.reply; line < end;) {
    const char *stop = memchr(line, '\r', (size_t)(end - line));
    if (!stop || stop + 1 == end || stop[1] != '\n') fault("a line does not end in CR LF");
    for (const char *c = line; c < stop; ++c) {
      if (*c < ' ' || *c > '~') fault("a line holds the byte %u", (unsigned)(uint8_t)*c);
    }
    int refusal = !strncmp(line, "e-[", 3) && stop[-1] == ']';
    if (strncmp(line, "m-", 2) && !refusal) fault("a line is neither m- nor e-[]");
    statistics.refusals += (uint64_t)refusal;
    line = stop + 2;
  }
}

/* A command, the raw bytes that went with it, and the whole reply to it. */
static void judge(void) {
  char seq[16];
  statistics.exchanges++;
  judge_lines();
  wanted[0] = 0;
  uint32_t inner_bytes = 0; /* of a checked reply */
  const char *checked = NULL;
  if (seen.booting) {
    want("m-timestamp-mode-performance\r\nm-lap-us-\1\r\nm-init-done\r\n");
    seen.booting = 0;
  } else if (seen.line_error) {
    if (seen.state == LOADING) forget();
    want("e-[%s]\r\n", seen.line_error);
  } else if (!strncmp(seen.line, "check ", 6)) {
    checked = right_check(seen.line + 6, seq);
    if (!checked) {
      statistics.refused_checks++;
      want("e-[Check failed: send it again]\r\n");
    } else {
      statistics.checked++;
      want_command(checked, 1);
      const char *line = memmem(seen.reply, seen.reply_count, "m-check-[", 9);
      if (!line) fault("a checked command has no checked reply");
      inner_bytes = (uint32_t)(line - seen.reply);
      want("m-check-[%.*s,%08x]\r\n", (int)strlen(seq) - 1, seq,
           crc_of(crc_of(0, seq, strlen(seq)), seen.reply, inner_bytes));
    }
  } else {
    want_command(seen.line, 0);
  }
  want("m-ready\r\n");
  if (!matches(wanted, seen.reply, seen.reply + seen.reply_count)) fault("it should be: %s", wanted);
  judge_floats();
  if (!seen.line_error && (checked || !strcmp(seen.line, "name"))) seen.on_trial = 0;
  if (!seen.line_error && (checked || is_known(seen.line))) seen.noise = 0;
  seen.reply_count = seen.raw_count = seen.line_count = 0;
  seen.line[0] = 0;
  seen.line_error = NULL;
  seen.raw_follows = 0;
  runs = layer_calls = 0;
}

/* ---- The platform. */

static jmp_buf out_of_events, powered_off;
static uint64_t ticks;

static void command_byte(uint16_t event) {
  if (seen.baud != 115200 && (event < ' ' || event > '~')) seen.noise++;
  if (event == OVERRUN) {
    seen.line_error = "Input overrun";
  } else if ((event == '\r' || event == '\n') && seen.line_count == 0 && !seen.line_error) {
    return;
  } else if (event < ' ' || event > '~') {
    if (!seen.line_error) seen.line_error = "Corrupt command";
  } else if (seen.line_count == LINE_BYTES) {
    if (!seen.line_error) seen.line_error = "Command too long";
  } else if (event != '%') {
    seen.line[seen.line_count++] = (char)event;
    seen.line[seen.line_count] = 0;
  }
}

void platform_start(void) {}

int platform_read(uint32_t timeout_ms) {
  if (seen.trial_over) fault("its new rate was never proven, and it keeps it");
  if (seen.noise >= 32) fault("it keeps a rate at which only noise comes");
  for (;;) {
    if (position == current.count) longjmp(out_of_events, 1);
    uint16_t event = current.event[position++];
    if (event == QUIET) ticks += 10000000;
    if (seen.raw_follows) {
      if (!timeout_ms) fault("it waits for ever for raw bytes");
      seen.raw[seen.raw_count++] = event;
    } else if (event == QUIET) {
      if (!timeout_ms && seen.on_trial) fault("it waits for ever for the proof of its new rate");
      if (!timeout_ms) continue;
      seen.trial_over = seen.on_trial;
    } else if (event != '%') {
      command_byte(event);
    }
    return event == QUIET ? PLATFORM_TIMEOUT : event == OVERRUN ? PLATFORM_OVERRUN : event;
  }
}

void platform_write(const char *text) {
  size_t count = strlen(text);
  if (seen.reply_count + count > sizeof seen.reply) fault("the reply has no end");
  memcpy(seen.reply + seen.reply_count, text, count);
  seen.reply_count += (uint32_t)count;
  /* Raw bytes follow a checked load's answer, and no other's. */
  if (!strcmp(text, " bytes]\r\n") && !strncmp(seen.reply, "m-[Expecting ", 13) && strstr(seen.line, " load ") &&
      !strncmp(seen.line, "check ", 6) && !strstr(seen.line, " db ")) {
    seen.raw_follows = 1;
  }
  if (count >= 9 && !strcmp(text + count - 9, "m-ready\r\n")) judge();
}

uint32_t platform_received_bytes(void) { return received; }

/* One real rate, one that is a little off, none else. */
uint32_t platform_baud(uint32_t baud) { return baud == 230400 ? 231884 : baud == 57600 || baud == 115200 ? baud : 0; }

void platform_set_baud(uint32_t baud) {
  if (baud != 115200 && baud != seen.next_baud) fault("it changes to %u baud", baud);
  statistics.rates++;
  seen.on_trial = baud == seen.next_baud; /* else it goes back */
  seen.baud = baud;
  seen.next_baud = seen.noise = 0;
  seen.trial_over = 0;
  seen.line_count = 0;
  seen.line[0] = 0;
  seen.line_error = NULL;
}

void platform_restart(void) {
  if (!seen.restarts) fault("it restarts unasked");
  statistics.restarts++;
  longjmp(powered_off, 1);
}

void platform_measure_memory(platform_memory *memory) {
  *memory = (platform_memory){100, 4096, 600, chosen->free_bytes};
}

uint64_t platform_ticks(void) { return ticks += 15; }

uint32_t platform_ticks_per_second(void) { return 1000000; }

uint8_t *platform_free_memory(size_t *bytes) {
  *bytes = chosen->free_bytes;
  return free_memory;
}

/* ---- Coverage: which code was ever reached. */

static uint8_t reached[1 << 14];
static uintptr_t last_place;
static int news;

void __sanitizer_cov_trace_pc(void) {
  uintptr_t place = (uintptr_t)__builtin_return_address(0) - (uintptr_t)protocol_run;
  uintptr_t edge = (place ^ (last_place << 3)) % sizeof reached;
  last_place = place;
  if (!reached[edge]) reached[edge] = news = 1;
}

/* ---- Inputs. */

static uint32_t most_events = MOST_OWN_EVENTS; /* the rest is for the end that every input has */

static void add(uint16_t event) {
  if (current.count < most_events) current.event[current.count++] = event;
}

static void add_bytes(const void *data, size_t count) {
  for (size_t i = 0; i < count; ++i) add(((const uint8_t *)data)[i]);
}

static void add_text(const char *text) { add_bytes(text, strlen(text)); }

static uint32_t next_sequence(void) {
  return one_in(8) ? below(1000000000) : (uint32_t)(current_index % 1000) + below(4);
}

/* A command as it is, or within a check, which may be wrong. */
static void add_command(const char *command, int checked) {
  char text[256];
  if (checked) {
    char content[200];
    int seq = snprintf(content, sizeof content, "%u ", next_sequence());
    snprintf(content + seq, sizeof content - (size_t)seq, "%s", command);
    uint32_t crc = crc_of(0, content, strlen(content)) ^ (one_in(20) ? 1u << below(32) : 0u);
    snprintf(text, sizeof text, "check %.*s%08x %s", seq, content, crc, command);
  } else {
    snprintf(text, sizeof text, "%s", command);
  }
  add_text(text);
  add('%');
}

static uint32_t planned_offset; /* where a piece has to go on if all went well */

static const char *some_number(void) {
  static char text[24];
  static const char *const odd[] = {"",   "-1", "+1", "0x40", "1e3", "999999999",  "1000000000", "4294967295",
                                    "64", "63", "65", "256",  "255", "4294967296", "00064",      "0"};
  if (one_in(3)) return odd[below(sizeof odd / sizeof *odd)];
  snprintf(text, sizeof text, "%u", one_in(2) ? below(70) : below(400));
  return text;
}

static void add_piece(void) {
  char command[100];
  uint8_t data[INPUT_BYTES];
  uint32_t offset = one_in(6) ? below(70) : one_in(4) ? 0 : planned_offset % INPUT_BYTES;
  uint32_t most = offset < INPUT_BYTES ? INPUT_BYTES - offset : 1;
  uint32_t count = one_in(3) ? most : 1 + below(most);
  for (uint32_t i = 0; i < count; ++i) data[i] = (uint8_t)chance();
  uint32_t crc = crc_of(0, data, count) ^ (one_in(20) ? 1u << below(32) : 0u);
  snprintf(command, sizeof command, "load %s %u %u %08x", one_in(20) ? some_number() : "64", offset,
           one_in(20) ? below(70) : count, crc);
  add_command(command, !one_in(30));
  uint32_t spoilt = one_in(8) ? below(count) : count;
  for (uint32_t i = 0; i < count; ++i) {
    if (i == spoilt && one_in(4)) continue;
    if (i == spoilt && one_in(4)) add(one_in(2) ? QUIET : OVERRUN);
    add(i == spoilt ? (uint16_t)(uint8_t)chance() : data[i]);
  }
  if (spoilt < count || one_in(16)) add(QUIET);
  planned_offset = spoilt < count ? offset : offset + count;
}

static void add_plain_load(void) {
  char command[100];
  uint8_t data[4 * INPUT_BYTES];
  int floats = one_in(2);
  uint32_t total = floats ? 4 * INPUT_BYTES : INPUT_BYTES, sent = 0;
  for (uint32_t i = 0; i < total; ++i) data[i] = (uint8_t)chance();
  for (uint32_t i = 0; floats && i < total; i += 4) {
    float value = (float)((int32_t)below(600) - 300) * 0.125f; /* halves of the scale among them */
    if (!one_in(10)) memcpy(data + i, &value, sizeof value);
  }
  snprintf(command, sizeof command, "db load %u", total);
  add_command(command, one_in(10));
  while (sent < total) {
    uint32_t count = one_in(10) ? 1 + below(38) : 31;
    if (count > total - sent && !one_in(20)) count = total - sent;
    char *end = command + sprintf(command, "db ");
    for (uint32_t i = sent; i < sent + count; ++i) end += sprintf(end, one_in(2) ? "%02x" : "%02X", data[i % total]);
    if (one_in(100)) command[3 + below((uint32_t)(end - command - 3))] = (char)(' ' + below(95));
    if (one_in(200)) end[-1] = 0;
    add_command(command, one_in(40));
    sent += count;
    if (one_in(60)) return;
  }
}

static void add_simple(void) {
  static const char *const names[] = {"name",
                                      "profile",
                                      "timestamp",
                                      "results",
                                      "output",
                                      "layers",
                                      "ticks",
                                      "info",
                                      "memory",
                                      "db print",
                                      "infer",
                                      "infer 1 0",
                                      "infer 2 1",
                                      "db 00",
                                      "check",
                                      "baud",
                                      "load",
                                      "db load",
                                      "db",
                                      "restart",
                                      "baud 230400",
                                      "help",
                                      "",
                                      "Name",
                                      "baud 57600",
                                      "load 64 0 64 00000000"};
  char command[100];
  int count = snprintf(command, sizeof command, "%s", names[below(sizeof names / sizeof *names)]);
  while (one_in(5) && count < 70) {
    count += snprintf(command + count, sizeof command - (size_t)count, " %s", some_number());
  }
  add_command(command, one_in(2));
  if (one_in(8)) add_text("\r\n");
}

static void add_item(void) {
  switch (below(12)) {
    case 0:
    case 1:
    case 2:
      add_piece();
      break;
    case 3:
      add_plain_load();
      break;
    case 4:
      add_command(one_in(2) ? "infer 1 0" : "infer 3 2", one_in(2));
      break;
    case 5:
      for (uint32_t i = below(100); i; --i) add((uint16_t)(uint8_t)chance());
      break;
    case 6:
      add(one_in(3) ? OVERRUN : QUIET);
      break;
    case 7:
      for (uint32_t i = below(90); i; --i) add((uint16_t)(' ' + below(95)));
      add('%');
      break;
    default:
      add_simple();
  }
}

static void change_input(void) {
  for (uint32_t changes = 1 + below(4); changes && current.count; --changes) {
    uint32_t at = below(current.count);
    uint32_t length = 1 + below(one_in(3) ? 64 : 4);
    if (length > current.count - at) length = current.count - at;
    uint16_t *event = current.event + at;
    switch (below(6)) {
      case 0:
        *event = *event < 256 ? *event ^ (uint16_t)(1u << below(8)) : '%';
        break;
      case 1:
        *event = (uint16_t)below(QUIET + 1);
        break;
      case 2: /* lost */
        memmove(event, event + length, (current.count - at - length) * sizeof *event);
        current.count -= length;
        break;
      case 3: /* twice */
        if (current.count + length > MOST_OWN_EVENTS) break;
        memmove(event + length, event, (current.count - at) * sizeof *event);
        current.count += length;
        break;
      case 4:
        *event = one_in(2) ? QUIET : OVERRUN;
        break;
      default: /* a command more */
        add_simple();
    }
  }
}

/* What has to be right after whatever came before. */
static void add_end(void) {
  char command[100];
  uint8_t data[INPUT_BYTES];
  uint32_t count = 8 + below(INPUT_BYTES - 8);
  add(QUIET);
  add('%');
  add(QUIET); /* twice, for the '%' may have ended a load, which waits for its data and then for silence */
  add(QUIET);
  add_text("name%");
  if (!one_in(4)) return;
  for (uint32_t i = 0; i < INPUT_BYTES; ++i) data[i] = (uint8_t)chance();
  for (uint32_t offset = 0; offset < INPUT_BYTES; offset += count) {
    uint32_t piece = count < INPUT_BYTES - offset ? count : INPUT_BYTES - offset;
    snprintf(command, sizeof command, "load 64 %u %u %08x", offset, piece, crc_of(0, data + offset, piece));
    add_command(command, 1);
    add_bytes(data + offset, piece);
    add(QUIET);
  }
  add_command("infer 1 0", 1);
  add_command("output", 1);
  add_text("name%");
}

static input corpus[CORPUS];
static uint32_t corpus_count;

static void make_input(uint64_t seed) {
  chance_state = seed ^ (current_index * 0xD1342543DE82EF95u);
  current.count = 0;
  planned_offset = 0;
  if (corpus_count && one_in(3)) {
    const input *parent = &corpus[below(corpus_count)];
    memcpy(current.event, parent->event, parent->count * sizeof *parent->event);
    current.count = parent->count;
    change_input();
  } else {
    for (uint32_t items = 1 + below(12); items; --items) add_item();
    if (one_in(8)) change_input();
  }
}

/* ---- One input. */

static void power_on(void) {
  memset(arena, 0xA5, INPUT_BYTES);
  memset(free_memory, 0xA5, chosen->free_bytes);
  memset(&seen, 0, sizeof seen);
  seen.booting = 1;
  seen.baud = 115200;
  runs = layer_calls = row = 0;
  fuzz_power_on();
}

static void run(void) {
  const configuration *next = &configurations[current_index % CONFIGURATIONS];
  if (chosen != next) {
    chosen = next;
    fuzz_model = &chosen->model;
    free(free_memory);
    free_memory = malloc(chosen->free_bytes);
    if (!free_memory) abort();
  }
  disturbing = current_index / CONFIGURATIONS % 2 == 1;
  position = 0;
  news = 0;
  if (setjmp(out_of_patience)) {
    statistics.long_runs++;
    return;
  }
  setjmp(powered_off);
  power_on();
  if (!setjmp(out_of_events)) protocol_run();
  if (seen.line_count || seen.reply_count) fault("the last command has no reply");
}

int main(int argc, char *argv[]) {
  arena = malloc(INPUT_BYTES);
  signal(SIGABRT, died);
  signal(SIGVTALRM, died);
  be_patient();
  if (argc > 2 && !strcmp(argv[1], "replay")) {
    current_index = strtoull(argv[2], NULL, 10);
    for (int i = 3; i < argc && current.count < MOST_EVENTS; ++i) {
      current.event[current.count++] = (uint16_t)strtoul(argv[i], NULL, 10);
    }
    run();
    printf("no fault\n");
    return 0;
  }
  if (argc != 3) {
    fputs("usage: fuzz_harness INPUTS SEED, or fuzz_harness replay INDEX EVENT...\n", stderr);
    return 2;
  }
  uint64_t inputs = strtoull(argv[1], NULL, 10), seed = strtoull(argv[2], NULL, 10);
  for (current_index = 0; current_index < inputs; ++current_index) {
    if (current_index % 4096 == 0) be_patient();
    make_input(seed);
    uint32_t own = current.count;
    most_events = MOST_EVENTS;
    add_end();
    most_events = MOST_OWN_EVENTS;
    run();
    if (news && own && corpus_count < CORPUS) {
      corpus[corpus_count] = current;
      corpus[corpus_count++].count = own;
    }
  }
  uint32_t edges = 0;
  for (size_t i = 0; i < sizeof reached; ++i) edges += reached[i];
  printf("{\"inputs\": %" PRIu64 ", \"seed\": %" PRIu64 ", \"edges\": %u, \"corpus\": %u, \"exchanges\": %" PRIu64
         ", \"checked\": %" PRIu64 ", \"refused_checks\": %" PRIu64 ", \"pieces\": %" PRIu64
         ", \"spoilt_pieces\": %" PRIu64 ", \"loads\": %" PRIu64 ", \"inferences\": %" PRIu64 ", \"refusals\": %" PRIu64
         ", \"restarts\": %" PRIu64 ", \"rates\": %" PRIu64 ", \"long_runs\": %" PRIu64 "}\n",
         inputs, seed, edges, corpus_count, statistics.exchanges, statistics.checked, statistics.refused_checks,
         statistics.pieces, statistics.spoilt_pieces, statistics.loads, statistics.inferences, statistics.refusals,
         statistics.restarts, statistics.rates, statistics.long_runs);
  return 0;
}
