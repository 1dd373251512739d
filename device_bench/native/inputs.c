#include "inputs.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "failure.h"

/* The Mersenne Twister MT19937 seeded with the one-word key {0}, and the 53-bit fractions made of two of its words:
   Matsumoto and Nishimura, "Mersenne Twister", ACM TOMACS 8(1), 1998, with the seeding by a key of 2002. Python's
   random.Random(0) is this generator. */
enum { STATE = 624, SHIFT = 397 };

struct twister {
  uint32_t words[STATE];
  int next;
};

static uint32_t stirred(const struct twister *twister, int at, uint32_t factor) {
  const uint32_t before = twister->words[at - 1];
  return twister->words[at] ^ ((before ^ (before >> 30)) * factor);
}

static int advanced(struct twister *twister, int at) {
  if (at + 1 < STATE) return at + 1;
  twister->words[0] = twister->words[STATE - 1];
  return 1;
}

static struct twister seeded(void) {
  struct twister twister = {.next = STATE};
  twister.words[0] = 19650218u;
  for (uint32_t i = 1; i < STATE; ++i) {
    const uint32_t before = twister.words[i - 1];
    twister.words[i] = 1812433253u * (before ^ (before >> 30)) + i;
  }
  int at = 1;
  for (int k = 0; k < STATE; ++k) { /* the key's word and its index, both 0, would be added here */
    twister.words[at] = stirred(&twister, at, 1664525u);
    at = advanced(&twister, at);
  }
  for (int k = 1; k < STATE; ++k) {
    twister.words[at] = stirred(&twister, at, 1566083941u) - (uint32_t)at;
    at = advanced(&twister, at);
  }
  twister.words[0] = 0x80000000u;
  return twister;
}

static uint32_t random_word(struct twister *twister) {
  if (twister->next == STATE) {
    for (int i = 0; i < STATE; ++i) {
      const uint32_t mixed = (twister->words[i] & 0x80000000u) | (twister->words[(i + 1) % STATE] & 0x7fffffffu);
      twister->words[i] = twister->words[(i + SHIFT) % STATE] ^ (mixed >> 1) ^ ((mixed & 1u) ? 0x9908b0dfu : 0u);
    }
    twister->next = 0;
  }
  uint32_t value = twister->words[twister->next++];
  value ^= value >> 11;
  value ^= (value << 7) & 0x9d2c5680u;
  value ^= (value << 15) & 0xefc60000u;
  return value ^ (value >> 18);
}

static double random_fraction(struct twister *twister) {
  const double high = random_word(twister) >> 5, low = random_word(twister) >> 6;
  return (high * 67108864.0 + low) / 9007199254740992.0;
}

void bind_synthetic(struct session *session, int64_t batch, int64_t length, int64_t vocabulary) {
  const int64_t count = batch * length;
  int64_t *ids = allocate((size_t)count, sizeof *ids), *ones = allocate((size_t)count, sizeof *ones);
  struct twister twister = seeded();
  for (int64_t i = 0; i < count; ++i) {
    ids[i] = (int64_t)(random_fraction(&twister) * (double)vocabulary);
    ones[i] = 1;
  }
  const int64_t *const rows[MOST_INPUTS] = {ids, ones, allocate((size_t)count, sizeof(int64_t))};
  bind_inputs(session, rows, batch, length);
}

/* Reads `count` whole numbers, or gives NULL at the first that is none. */
static int64_t *read_numbers(FILE *file, int64_t count) {
  int64_t *numbers = allocate((size_t)count, sizeof *numbers);
  for (int64_t i = 0; i < count; ++i) {
    long long value;
    if (fscanf(file, "%lld", &value) != 1) return NULL;
    numbers[i] = value;
  }
  return numbers;
}

/* Reads one row; false if it is broken. */
static bool read_row(FILE *file, int64_t length, struct golden_row *row) {
  long long tokens, answered, labels;
  if (fscanf(file, " row %lld %lld %lld", &tokens, &answered, &labels) != 3) return false;
  if (tokens < 1 || tokens > length || answered < 0 || answered > tokens || labels < 1 || labels > 1000000) return false;
  *row = (struct golden_row){tokens, answered, labels, {NULL}, NULL};
  for (int kind = 0; kind < MOST_INPUTS; ++kind) {
    row->rows[kind] = read_numbers(file, tokens);
    if (row->rows[kind] == NULL) return false;
  }
  const int64_t values = labels * (answered ? answered : 1);
  row->logits = allocate((size_t)values, sizeof *row->logits);
  for (int64_t i = 0; i < values; ++i) {
    if (fscanf(file, "%lf", &row->logits[i]) != 1 || !isfinite(row->logits[i])) return false;
  }
  return true;
}

struct golden read_golden(const char *path) {
  FILE *file = fopen(path, "r");
  if (file == NULL) fail(EXIT_USAGE, "%s: no such file", path);
  struct golden golden = {.count = 0};
  int version;
  long long length;
  const int read = fscanf(file, "golden %d %lld %d %lf", &version, &length, &golden.count, &golden.bound);
  if (read != 4 || version != 1 || length < 1 || length > 1000000 || golden.count < 1 || golden.count > 1000000) {
    fail(EXIT_GOLDEN, "%s is broken: it does not begin as golden rows do; write it again", path);
  }
  golden.length = length;
  golden.rows = allocate((size_t)golden.count, sizeof *golden.rows);
  for (int i = 0; i < golden.count; ++i) {
    if (!read_row(file, golden.length, &golden.rows[i])) fail(EXIT_GOLDEN, "%s: row %d is broken; write it again", path, i);
  }
  fclose(file);
  return golden;
}

int64_t golden_vocabulary(const struct golden *golden) {
  int64_t largest = 0;
  for (int i = 0; i < golden->count; ++i) {
    for (int64_t k = 0; k < golden->rows[i].tokens; ++k) {
      if (golden->rows[i].rows[IDS][k] > largest) largest = golden->rows[i].rows[IDS][k];
    }
  }
  return largest + 1;
}

/* The row padded with masked zeros to `length`, in every place of the batch. */
static void bind_row(struct session *session, const struct golden_row *row, int64_t batch, int64_t length) {
  const int64_t *padded[MOST_INPUTS];
  for (int kind = 0; kind < MOST_INPUTS; ++kind) {
    int64_t *values = allocate((size_t)(batch * length), sizeof *values);
    for (int64_t place = 0; place < batch; ++place) {
      memcpy(values + place * length, row->rows[kind], (size_t)row->tokens * sizeof *values);
    }
    padded[kind] = values;
  }
  bind_inputs(session, padded, batch, length);
}

struct golden_check check_golden(struct session *session, const struct golden *golden) {
  const struct input *first = &session->inputs[0];
  const int64_t batch = first->batch > 0 ? first->batch : 1;
  const int64_t length = first->length > 0 ? first->length : golden->length;
  if (length < golden->length) {
    fail(EXIT_GOLDEN, "the golden rows need length %lld, %s has %lld; leave --golden out", (long long)golden->length,
         session->file_name, (long long)length);
  }
  struct golden_check found = {.rows = golden->count, .finite = true, .bound = golden->bound};
  double square_error = 0, square_truth = 0;
  for (int i = 0; i < golden->count; ++i) {
    const struct golden_row *row = &golden->rows[i];
    bind_row(session, row, batch, length);
    run_session(session);
    const struct logits got = last_logits(session);
    if ((got.rank == 3) != (row->answered > 0) || got.shape[got.rank - 1] != row->labels) {
      fail(EXIT_GOLDEN, "the golden rows have %lld logits, %s gives %lld; they are of another model; leave --golden out",
           (long long)row->labels, session->file_name, (long long)got.shape[got.rank - 1]);
    }
    const int64_t values = row->labels * (row->answered ? row->answered : 1);
    for (int64_t k = 0; k < values; ++k) {
      const double difference = (double)got.values[k] - row->logits[k];
      found.finite = found.finite && isfinite(got.values[k]);
      square_error += difference * difference;
      square_truth += row->logits[k] * row->logits[k];
      found.max_abs = fmax(found.max_abs, fabs(difference));
    }
  }
  found.relative_rmse = square_truth > 0 ? sqrt(square_error / square_truth) : (square_error > 0 ? 1.0 : 0.0);
  found.ok = found.finite && found.relative_rmse <= found.bound;
  return found;
}
