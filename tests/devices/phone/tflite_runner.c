// A stand-in for benchmark_model over TensorFlow Lite's C API (tensorflow/lite/c/c_api.h), for arm64 under qemu-user:
// takes the flags that outputs go by, prints what benchmark_model prints after one run. Its times are the emulator's
// and mean nothing.

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct TfLiteModel TfLiteModel;
typedef struct TfLiteInterpreter TfLiteInterpreter;
typedef struct TfLiteInterpreterOptions TfLiteInterpreterOptions;
typedef struct TfLiteTensor TfLiteTensor;

TfLiteModel* TfLiteModelCreateFromFile(const char* path);
TfLiteInterpreterOptions* TfLiteInterpreterOptionsCreate(void);
void TfLiteInterpreterOptionsSetNumThreads(TfLiteInterpreterOptions* options, int threads);
TfLiteInterpreter* TfLiteInterpreterCreate(const TfLiteModel* model, const TfLiteInterpreterOptions* options);
int TfLiteInterpreterAllocateTensors(TfLiteInterpreter* interpreter);
TfLiteTensor* TfLiteInterpreterGetInputTensor(const TfLiteInterpreter* interpreter, int index);
const TfLiteTensor* TfLiteInterpreterGetOutputTensor(const TfLiteInterpreter* interpreter, int index);
size_t TfLiteTensorByteSize(const TfLiteTensor* tensor);
int TfLiteTensorCopyFromBuffer(TfLiteTensor* tensor, const void* data, size_t size);
int TfLiteTensorCopyToBuffer(const TfLiteTensor* tensor, void* data, size_t size);
int TfLiteInterpreterInvoke(TfLiteInterpreter* interpreter);

static int fail(const char* what) {
  fprintf(stderr, "ERROR: %s\nERROR: Benchmarking failed.\n", what);
  return EXIT_FAILURE;
}

static const char* value_of(const char* argument, const char* flag) {
  const size_t length = strlen(flag);
  return strncmp(argument, flag, length) == 0 ? argument + length : NULL;
}

static long long now_us(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000000LL + now.tv_nsec / 1000;
}

int main(int argc, char** argv) {
  const char *graph = NULL, *input_path = NULL, *output_path = NULL;
  int threads = 1, runs = 50;
  for (int i = 1; i < argc; ++i) {
    const char* value;
    if ((value = value_of(argv[i], "--graph=")) != NULL) graph = value;
    if ((value = value_of(argv[i], "--input_layer_value_files=input:")) != NULL) input_path = value;
    if ((value = value_of(argv[i], "--output_filepath=")) != NULL) output_path = value;
    if ((value = value_of(argv[i], "--num_threads=")) != NULL) threads = atoi(value);
    if ((value = value_of(argv[i], "--num_runs=")) != NULL) runs = atoi(value);
  }
  if (graph == NULL) return fail("Please specify the name of your TF Lite input file with --graph");
  TfLiteModel* model = TfLiteModelCreateFromFile(graph);
  if (model == NULL) return fail("Failed to load the model");
  TfLiteInterpreterOptions* options = TfLiteInterpreterOptionsCreate();
  TfLiteInterpreterOptionsSetNumThreads(options, threads);
  TfLiteInterpreter* interpreter = TfLiteInterpreterCreate(model, options);
  if (interpreter == NULL || TfLiteInterpreterAllocateTensors(interpreter) != 0) {
    return fail("Failed to allocate tensors!");
  }

  TfLiteTensor* input = TfLiteInterpreterGetInputTensor(interpreter, 0);
  const size_t input_bytes = TfLiteTensorByteSize(input);
  char* buffer = calloc(1, input_bytes);
  if (input_path != NULL) {
    FILE* file = fopen(input_path, "rb");
    if (file == NULL || fread(buffer, 1, input_bytes, file) != input_bytes || fgetc(file) != EOF) {
      return fail("The input file has another size than the input");
    }
    fclose(file);
  }
  if (TfLiteTensorCopyFromBuffer(input, buffer, input_bytes) != 0) return fail("Failed to set the input");

  long long total_us = 0, first_us = 0, last_us = 0, min_us = 0, max_us = 0;
  for (int run = 0; run < runs; ++run) {
    const long long begun_us = now_us();
    if (TfLiteInterpreterInvoke(interpreter) != 0) return fail("Failed to invoke!");
    last_us = now_us() - begun_us;
    total_us += last_us;
    if (run == 0) first_us = min_us = max_us = last_us;
    if (last_us < min_us) min_us = last_us;
    if (last_us > max_us) max_us = last_us;
  }

  if (output_path != NULL) {
    const TfLiteTensor* output = TfLiteInterpreterGetOutputTensor(interpreter, 0);
    const size_t output_bytes = TfLiteTensorByteSize(output);
    char* result = malloc(output_bytes);
    FILE* file = fopen(output_path, "wb");
    if (file == NULL || TfLiteTensorCopyToBuffer(output, result, output_bytes) != 0 ||
        fwrite(result, 1, output_bytes, file) != output_bytes || fclose(file) != 0) {
      return fail("Failed to write the output");
    }
  }
  const double mean_us = (double)total_us / runs;
  printf("INFO: count=0\n");
  if (min_us == max_us) {
    printf("INFO: count=%d curr=%lld%s\n", runs, last_us, runs > 1 ? "(all same)" : "");
  } else {
    printf("INFO: count=%d first=%lld curr=%lld min=%lld max=%lld avg=%g std=0\n", runs, first_us, last_us, min_us,
           max_us, mean_us);
  }
  printf("INFO: Inference timings in us: Init: 0, First inference: 0, Warmup (avg): 0, Inference (avg): %g\n", mean_us);
  return EXIT_SUCCESS;
}
