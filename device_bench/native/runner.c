/* Times one ONNX text encoder on the machine it runs on, where there is no Python: the flags, warm-up, inputs and record
   of bench.pyz, so that the host reads both alike. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "failure.h"
#include "record.h"

/* The warm-up of device_bench.measure: until two windows of five agree within 5 %, in a quarter of the time. */
enum { WINDOW = 5, MOST_WARM_UP = 100, MOST_SAMPLES = 100000 };
enum { DEFAULT_LENGTH = 64, DEFAULT_VOCABULARY = 1000 };
static const double STEADY_WITHIN = 0.05, WARM_UP_SHARE = 0.25;

static const char *const USAGE =
    "usage: bench_onnx --library LIBONNXRUNTIME [--threads N] [--length L] [--batch B] [--runs N] [--warmup N]\n"
    "                  [--max-seconds S] [--clock wall|cpu] [--affinity MASK] [--vocabulary N] [--golden FILE]\n"
    "                  MODEL.onnx\n"
    "Prints one JSON line. Exit codes: 0 ok, 2 usage, 4 the model does not reproduce its golden rows, 6 the runtime is\n"
    "missing or refuses the model.\n";

/* A number of 0 (of -1 for the warm-up) means: let the file decide. */
struct options {
  const char *library, *model, *golden;
  int64_t threads, runs, length, batch, warmup, vocabulary;
  double max_seconds;
  uint64_t core_mask;
  bool cpu_clock;
};

static int64_t whole(const char *flag, const char *text, int64_t least) {
  char *end;
  const long long value = strtoll(text, &end, 10);
  if (*text == '\0' || *end != '\0' || value < least || value > 1000000000) {
    fail(EXIT_USAGE, "%s is %s; give a whole number, %lld or more", flag, text, (long long)least);
  }
  return value;
}

static double seconds(const char *flag, const char *text) {
  char *end;
  const double value = strtod(text, &end);
  if (*text == '\0' || *end != '\0' || !(value > 0) || !(value < 1e8)) {
    fail(EXIT_USAGE, "%s is %s; give a number of seconds above 0", flag, text);
  }
  return value;
}

static uint64_t core_mask(const char *flag, const char *text) {
  char *end;
  errno = 0;
  const unsigned long long mask = strtoull(text, &end, 16);
  if (*text == '-' || *end != '\0' || mask == 0 || errno != 0) {
    fail(EXIT_USAGE, "%s is %s; give a hexadecimal mask such as 0xF0 for cores 4 to 7", flag, text);
  }
  return mask;
}

static bool cpu_clock(const char *flag, const char *text) {
  if (strcmp(text, "wall") != 0 && strcmp(text, "cpu") != 0) fail(EXIT_USAGE, "%s is %s; choose wall or cpu", flag, text);
  return strcmp(text, "cpu") == 0;
}

static struct options parse(int count, char **words) {
  struct options options = {.threads = 1, .runs = 200, .warmup = -1, .max_seconds = 20};
  for (int i = 1; i < count; ++i) {
    const char *flag = words[i];
    if (strncmp(flag, "--", 2) != 0) {
      if (options.model != NULL) fail(EXIT_USAGE, "give one model at a time");
      options.model = flag;
      continue;
    }
    const char *value = words[++i];
    if (i == count) fail(EXIT_USAGE, "%s needs a value", flag);
    if (strcmp(flag, "--library") == 0) options.library = value;
    else if (strcmp(flag, "--golden") == 0) options.golden = value;
    else if (strcmp(flag, "--threads") == 0) options.threads = whole(flag, value, 1);
    else if (strcmp(flag, "--length") == 0) options.length = whole(flag, value, 1);
    else if (strcmp(flag, "--batch") == 0) options.batch = whole(flag, value, 1);
    else if (strcmp(flag, "--runs") == 0) options.runs = whole(flag, value, 1);
    else if (strcmp(flag, "--warmup") == 0) options.warmup = whole(flag, value, 0);
    else if (strcmp(flag, "--vocabulary") == 0) options.vocabulary = whole(flag, value, 1);
    else if (strcmp(flag, "--max-seconds") == 0) options.max_seconds = seconds(flag, value);
    else if (strcmp(flag, "--clock") == 0) options.cpu_clock = cpu_clock(flag, value);
    else if (strcmp(flag, "--affinity") == 0) options.core_mask = core_mask(flag, value);
    else fail(EXIT_USAGE, "%s is unknown", flag);
  }
  if (options.model == NULL || options.library == NULL) {
    fail(EXIT_USAGE, "give --library and a model; run it without arguments for help");
  }
  if (options.cpu_clock && options.threads != 1) fail(EXIT_USAGE, "--clock cpu counts one thread; leave --threads out");
  return options;
}

static int by_size(const void *left, const void *right) {
  const int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
  return (a > b) - (a < b);
}

/* The median of WINDOW values. */
static double median(const int64_t *window) {
  int64_t ordered[WINDOW];
  memcpy(ordered, window, sizeof ordered);
  qsort(ordered, WINDOW, sizeof *ordered, by_size);
  return (double)ordered[WINDOW / 2];
}

static int64_t once(struct session *session, int64_t (*clock)(void)) {
  const int64_t start = clock();
  run_session(session);
  return clock() - start;
}

/* Untimed calls: `asked` of them, or until steady when it is negative; fewer past the deadline. Gives their number. */
static int64_t warm_up(struct session *session, int64_t (*clock)(void), int64_t asked, int64_t deadline_ns) {
  int64_t latest[2 * WINDOW], calls = 0;
  const int64_t most = asked < 0 ? MOST_WARM_UP : asked;
  while (calls < most && wall_ns() < deadline_ns) {
    memmove(latest, latest + 1, sizeof latest - sizeof *latest);
    latest[2 * WINDOW - 1] = once(session, clock);
    ++calls;
    if (asked >= 0 || calls < 2 * WINDOW) continue;
    const double older = median(latest), newer = median(latest + WINDOW);
    if (fabs(newer - older) <= STEADY_WITHIN * older) break;
  }
  return calls;
}

/* The length to run at: the one asked for, else the file's own, else that of the golden rows, else 64. */
static int64_t chosen_length(const struct options *options, const struct input *input, const struct golden *golden,
                             const char *file_name) {
  if (options->length > 0 && input->length > 0 && options->length != input->length) {
    fail(EXIT_USAGE, "%s has no length %lld; it has %lld", file_name, (long long)options->length, (long long)input->length);
  }
  if (options->length > 0) return options->length;
  if (input->length > 0) return input->length;
  return golden->count > 0 ? golden->length : DEFAULT_LENGTH;
}

static int64_t chosen_batch(const struct options *options, const struct input *input, const char *file_name) {
  if (options->batch > 0 && input->batch > 0 && options->batch != input->batch) {
    fail(EXIT_USAGE, "%s is made for batch %lld; leave --batch out", file_name, (long long)input->batch);
  }
  return options->batch > 0 ? options->batch : input->batch > 0 ? input->batch : 1;
}

/* Warms up and times, reading the machine before and after; fills the record. */
static void measure(struct session *session, const struct options *options, struct record *record) {
  const int64_t most_ns = (int64_t)(options->max_seconds * 1e9);
  const int64_t most_runs = options->runs < MOST_SAMPLES ? options->runs : MOST_SAMPLES;
  record->samples_ns = allocate((size_t)most_runs, sizeof *record->samples_ns);
  int64_t (*clock)(void) = options->cpu_clock ? thread_cpu_ns : wall_ns;
  record->clock_tick_ns = clock_tick_ns(clock);
  record->before = read_machine();
  const int64_t start = wall_ns();
  const int64_t warm_ns = (int64_t)(options->max_seconds * 1e9 * WARM_UP_SHARE);
  record->warmup_runs = warm_up(session, clock, options->warmup, start + warm_ns);
  const int64_t timed = wall_ns(), timed_cpu = thread_cpu_ns();
  do {
    record->samples_ns[record->runs++] = once(session, clock);
  } while (record->runs < most_runs && wall_ns() < start + most_ns);
  record->cpu_share = (double)(thread_cpu_ns() - timed_cpu) / fmax((double)(wall_ns() - timed), 1);
  record->after = read_machine();
  record->peak_rss_bytes = status_bytes("VmHWM");
}

int main(int count, char **words) {
  if (count < 2) {
    fputs(USAGE, stderr);
    return EXIT_USAGE;
  }
  const struct options options = parse(count, words);
  struct record record = {.any_core = options.core_mask == 0, .threads = (int)options.threads,
                          .clock = options.cpu_clock ? "cpu" : "wall"};
  for (int core = 0; core < 64; ++core) record.cores_asked[core] = options.core_mask >> core & 1;
  if (!record.any_core) pin_to(record.cores_asked); /* before the runtime starts threads: they keep their cores */
  record.cores_known = current_cores(record.cores_actual);
  const char *slash = strrchr(options.model, '/');
  record.file_name = slash == NULL ? options.model : slash + 1;
  record.file_bytes = fingerprint(options.model, record.sha256);
  struct golden golden = {.count = 0};
  if (options.golden != NULL) golden = read_golden(options.golden);

  setenv("ORT_DISABLE_TELEMETRY", "1", 1);
  const struct runtime runtime = load_runtime(options.library);
  record.runtime_version = runtime.version;
  record.baseline_rss_bytes = status_bytes("VmRSS");
  const int64_t opening = wall_ns();
  struct session session = open_session(runtime, options.model, record.file_name, record.threads);
  record.load_ns = wall_ns() - opening;
  record.length = chosen_length(&options, &session.inputs[0], &golden, record.file_name);
  record.batch = chosen_batch(&options, &session.inputs[0], record.file_name);
  const int64_t vocabulary = options.vocabulary ? options.vocabulary
                             : golden.count     ? golden_vocabulary(&golden)
                                                : DEFAULT_VOCABULARY;
  bind_synthetic(&session, record.batch, record.length, vocabulary);
  record.first_inference_ns = once(&session, wall_ns);
  measure(&session, &options, &record);

  record.has_golden = golden.count > 0;
  if (record.has_golden) record.golden = check_golden(&session, &golden); /* after the peak is read: a second length */
  print_record(&record);
  if (record.has_golden && !record.golden.ok) {
    fail(EXIT_GOLDEN, "%s does not reproduce its golden rows under onnxruntime %s (relative RMSE %.3g, allowed %.3g): "
         "do not ship it with this runtime", record.file_name, runtime.version,
         record.golden.finite ? record.golden.relative_rmse : (double)NAN, golden.bound);
  }
  return 0;
}
