/* What to feed a model: the made-up rows of device_bench.inputs, id for id, and the golden rows of a bundle. */
#ifndef BENCH_INPUTS_H
#define BENCH_INPUTS_H

#include "session.h"

/* One text: `tokens` ids, mask and token types, and the logits its original gives: `labels` of them for the whole text
   (`answered` is 0), or for each of `answered` real tokens. */
struct golden_row {
  int64_t tokens, answered, labels;
  int64_t *rows[MOST_INPUTS];
  double *logits;
};

/* The golden rows of one model file, padded to `length`; `bound` is the allowed relative RMSE. */
struct golden {
  int64_t length;
  double bound;
  int count;
  struct golden_row *rows;
};

/* How far the model is from its golden logits; without `finite` the distances have no meaning. */
struct golden_check {
  int rows;
  bool finite, ok;
  double relative_rmse, max_abs, bound;
};

/* Binds random ids in [0, vocabulary), the same ones as Python's random.Random(0) gives, mask ones, token types zero. */
void bind_synthetic(struct session *session, int64_t batch, int64_t length, int64_t vocabulary);

/* Reads the text that `edgebert.remote.native` writes. The process ends with code 4 if it is broken. */
struct golden read_golden(const char *path);

/* The largest id plus one: a vocabulary size that is surely not too large. */
int64_t golden_vocabulary(const struct golden *golden);

/* Runs every golden row in every place of a batch. The process ends with code 4 if the rows are of another model. */
struct golden_check check_golden(struct session *session, const struct golden *golden);

#endif
