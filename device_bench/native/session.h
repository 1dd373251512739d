/* One ONNX model opened in a libonnxruntime that is loaded at run time, so that one binary serves every version. */
#ifndef BENCH_SESSION_H
#define BENCH_SESSION_H

#include <stdbool.h>
#include <stdint.h>

#include "onnxruntime_c_api.h"

enum { IDS, MASK, TYPES, MOST_INPUTS };

/* A model input, one of the three of a text encoder; a dimension of -1 is free. */
struct input {
  int kind;
  char name[32];
  bool is_int64;
  int64_t batch, length;
};

struct runtime {
  const OrtApi *api;
  OrtEnv *env;
  const char *version;
};

/* An opened model. `inputs` are in the order input_ids, attention_mask, token_type_ids (if it has them). */
struct session {
  struct runtime runtime;
  const char *file_name;
  OrtSession *handle;
  struct input inputs[MOST_INPUTS];
  int input_count;
  char *output;
  OrtValue *values[MOST_INPUTS];
  const char *names[MOST_INPUTS];
  OrtValue *answer;
};

/* The answer to one run: dimensions [batch, labels] or [batch, length, labels] and the values, owned by the session. */
struct logits {
  const float *values;
  int64_t shape[3];
  size_t rank;
};

/* Loads the shared library; the process ends with code 6 when it cannot be loaded or is too old. */
struct runtime load_runtime(const char *library);

/* Opens the file; the process ends with code 6 unless it is a text encoder that the runtime takes. */
struct session open_session(struct runtime runtime, const char *path, const char *file_name, int threads);

/* Sets what `run_session` runs on: for each kind the row-major integers [batch, length], copied in the model's type. */
void bind_inputs(struct session *session, const int64_t *const rows[MOST_INPUTS], int64_t batch, int64_t length);

/* One inference; the answer stays until the next one. */
void run_session(struct session *session);

struct logits last_logits(const struct session *session);

#endif
