/* The JSON line of one benchmark, as device_bench.result reads it. */
#ifndef BENCH_RECORD_H
#define BENCH_RECORD_H

#include "inputs.h"
#include "machine.h"

struct record {
  const char *file_name;
  char sha256[65];
  int64_t file_bytes;
  const char *runtime_version;
  const char *clock; /* "wall" or "cpu" */
  int threads;
  int64_t batch, length, clock_tick_ns, warmup_runs;
  int64_t *samples_ns;
  int64_t runs, load_ns, first_inference_ns, baseline_rss_bytes, peak_rss_bytes;
  double cpu_share;
  bool any_core, cores_known;
  bool cores_asked[MOST_CORES], cores_actual[MOST_CORES];
  bool has_golden;
  struct golden_check golden;
  struct snapshot before, after;
};

void print_record(const struct record *record);

#endif
