/* The harness's protocol for the fuzzer: over a model that is chosen at run time, and with a way back to power-on. */
#define tn_model (*fuzz_model)
#include "protocol.c"

void fuzz_power_on(void);

void fuzz_power_on(void) { memset(&state, 0, sizeof state); }
