#include "record.h"

#include <stdio.h>
#include <stdlib.h>

enum { SCHEMA = 2 }; /* device_bench.result.SCHEMA */

/* ASCII only: bytes above 126, of a board's name say, become question marks. */
static void print_text(const char *text) {
  putchar('"');
  for (const char *at = text; *at != '\0'; ++at) {
    const unsigned char byte = (unsigned char)*at;
    if (byte == '"' || byte == '\\') {
      printf("\\%c", byte);
    } else if (byte < 0x20) {
      printf("\\u%04x", byte);
    } else {
      putchar(byte > 126 ? '?' : byte);
    }
  }
  putchar('"');
}

static void print_name(const char *name) { printf(", \"%s\": ", name); }

static void print_whole(const char *name, int64_t value) {
  print_name(name);
  printf("%lld", (long long)value);
}

/* Bytes, or null where a negative number says that they are unknown. */
static void print_bytes(const char *name, int64_t value) {
  if (value >= 0) {
    print_whole(name, value);
  } else {
    print_name(name);
    printf("null");
  }
}

static void print_cores(const char *name, bool known, const bool cores[MOST_CORES]) {
  printf("\"%s\": %s", name, known ? "[" : "null");
  const char *comma = "";
  for (int core = 0; known && core < MOST_CORES; ++core) {
    if (!cores[core]) continue;
    printf("%s%d", comma, core);
    comma = ", ";
  }
  if (known) putchar(']');
}

static void print_files(const char *name, const struct snapshot *snapshot) {
  print_name(name);
  printf("{\"files\": {");
  for (size_t i = 0; i < snapshot->count; ++i) {
    if (i > 0) printf(", ");
    print_text(snapshot->files[i].path + 1);
    printf(": ");
    if (snapshot->files[i].text != NULL) {
      print_text(snapshot->files[i].text);
    } else {
      printf("null");
    }
  }
  printf("}, \"architecture\": ");
  print_text(snapshot->architecture);
  printf(", \"running\": ");
  print_text(snapshot->running);
  printf(", \"emulator\": ");
  const char *emulator = getenv("EDGEBERT_EMULATED"); /* as device_bench.device_facts.EMULATED */
  print_text(emulator == NULL ? "" : emulator);
  putchar('}');
}

static void print_golden(const struct golden_check *check) {
  print_name("golden");
  printf("{\"rows\": %d, \"bound\": %.17g, \"ok\": %s", check->rows, check->bound, check->ok ? "true" : "false");
  if (check->finite) {
    printf(", \"relative_rmse\": %.17g, \"max_abs\": %.17g}", check->relative_rmse, check->max_abs);
  } else {
    printf(", \"relative_rmse\": null, \"max_abs\": null}");
  }
}

void print_record(const struct record *record) {
  printf("{\"schema\": %d, \"format\": \"onnx\", \"runtime\": \"onnxruntime\"", SCHEMA);
  print_name("clock");
  print_text(record->clock);
  print_name("file_name");
  print_text(record->file_name);
  print_name("sha256");
  print_text(record->sha256);
  print_whole("file_bytes", record->file_bytes);
  print_name("runtime_version");
  print_text(record->runtime_version);
  print_whole("threads", record->threads);
  print_whole("batch", record->batch);
  print_whole("length", record->length);
  print_whole("clock_tick_ns", record->clock_tick_ns);
  print_whole("warmup_runs", record->warmup_runs);
  print_name("load_ms");
  printf("%.6f", (double)record->load_ns / 1e6);
  print_name("first_inference_ms");
  printf("%.6f", (double)record->first_inference_ns / 1e6);
  print_bytes("baseline_rss_bytes", record->baseline_rss_bytes);
  print_bytes("peak_rss_bytes", record->peak_rss_bytes);
  print_name("cpu_share");
  printf("%.6f", record->cpu_share);
  print_name("affinity");
  putchar('{');
  print_cores("asked", !record->any_core, record->cores_asked);
  printf(", ");
  print_cores("actual", record->cores_known, record->cores_actual);
  putchar('}');
  if (record->has_golden) {
    print_golden(&record->golden);
  } else {
    print_name("golden");
    printf("null");
  }
  print_files("device_before", &record->before);
  print_files("device_after", &record->after);
  print_name("samples_ns");
  for (int64_t i = 0; i < record->runs; ++i) printf("%s%lld", i ? ", " : "[", (long long)record->samples_ns[i]);
  printf("]}\n");
  fflush(stdout);
}
