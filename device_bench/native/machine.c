#define _GNU_SOURCE
#include "machine.h"

#include <glob.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "failure.h"
#include "sha256.h"

#define CPU_FOLDER "/sys/devices/system/cpu/cpu[0-9]*"

static const char *const FILES[] = {
    "/proc/cpuinfo", "/proc/meminfo", "/proc/loadavg", "/proc/sys/kernel/osrelease", "/proc/device-tree/model",
    "/sys/class/dmi/id/product_name", "/sys/devices/system/cpu/online",
    CPU_FOLDER "/cpufreq/scaling_governor", CPU_FOLDER "/cpufreq/scaling_cur_freq",
    CPU_FOLDER "/cpufreq/cpuinfo_max_freq", CPU_FOLDER "/cpufreq/scaling_max_freq", CPU_FOLDER "/cache/index*/level",
    CPU_FOLDER "/cache/index*/type", CPU_FOLDER "/cache/index*/size", CPU_FOLDER "/cache/index*/shared_cpu_list",
    "/sys/class/thermal/thermal_zone*/type", "/sys/class/thermal/thermal_zone*/temp", "/sys/class/hwmon/hwmon*/name",
    "/sys/class/hwmon/hwmon*/temp*_input",
};

/* The text of a small file, or NULL: many of these files exist but refuse to be read. */
static char *text_of(const char *path) {
  FILE *file = fopen(path, "rb");
  if (file == NULL) return NULL;
  size_t used = 0, room = 4096;
  char *text = allocate(room, 1);
  for (size_t got; (got = fread(text + used, 1, room - used - 1, file)) > 0;) {
    used += got;
    if (used + 1 == room) {
      room *= 2;
      text = realloc(text, room);
      if (text == NULL) fail(EXIT_DEVICE, "out of memory while reading %s", path);
    }
  }
  text[used] = '\0';
  const bool failed = ferror(file);
  fclose(file);
  return failed ? NULL : text;
}

static void add_matching(struct snapshot *snapshot, const char *pattern, bool with_text) {
  glob_t found;
  if (glob(pattern, 0, NULL, &found) != 0) return; /* no match, or no right to look: the host sees no file */
  snapshot->files = realloc(snapshot->files, (snapshot->count + found.gl_pathc) * sizeof *snapshot->files);
  if (snapshot->files == NULL) fail(EXIT_DEVICE, "out of memory while reading %s", pattern);
  for (size_t i = 0; i < found.gl_pathc; ++i) {
    char *text = with_text ? text_of(found.gl_pathv[i]) : NULL;
    if (with_text && text == NULL) continue;
    snapshot->files[snapshot->count++] = (struct machine_file){strdup(found.gl_pathv[i]), text};
  }
  globfree(&found);
}

struct snapshot read_machine(void) {
  struct snapshot snapshot = {.count = 0};
  struct utsname names;
  if (uname(&names) == 0) snprintf(snapshot.architecture, sizeof snapshot.architecture, "%s", names.machine);
  char link[4096];
  const ssize_t size = readlink("/proc/thread-self/exe", link, sizeof link - 1);
  if (size > 0) {
    link[size] = '\0';
    const char *slash = strrchr(link, '/');
    snprintf(snapshot.running, sizeof snapshot.running, "%s", slash == NULL ? link : slash + 1);
  }
  for (size_t i = 0; i < sizeof FILES / sizeof *FILES; ++i) add_matching(&snapshot, FILES[i], true);
  add_matching(&snapshot, CPU_FOLDER, false);
  return snapshot;
}

int64_t status_bytes(const char *field) {
  FILE *file = fopen("/proc/self/status", "r");
  char line[256];
  int64_t bytes = -1;
  const size_t size = strlen(field);
  while (file != NULL && fgets(line, sizeof line, file) != NULL) {
    if (strncmp(line, field, size) == 0 && line[size] == ':') bytes = atoll(line + size + 1) * 1024;
  }
  if (file != NULL) fclose(file);
  return bytes;
}

void pin_to(const bool cores[MOST_CORES]) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int core = 0; core < MOST_CORES; ++core) {
    if (cores[core]) CPU_SET(core, &set);
  }
  if (sched_setaffinity(0, sizeof set, &set) != 0) return; /* the record tells which cores it really has */
}

bool current_cores(bool cores[MOST_CORES]) {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return false;
  for (int core = 0; core < MOST_CORES; ++core) cores[core] = CPU_ISSET(core, &set);
  return true;
}

static int64_t read_clock(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int64_t wall_ns(void) { return read_clock(CLOCK_MONOTONIC); }

int64_t thread_cpu_ns(void) { return read_clock(CLOCK_THREAD_CPUTIME_ID); }

int64_t clock_tick_ns(int64_t (*clock)(void)) {
  int64_t least = 0;
  for (int i = 0; i < 200; ++i) {
    const int64_t before = clock(), step = clock() - before;
    if (step > 0 && (least == 0 || step < least)) least = step;
  }
  return least;
}

int64_t fingerprint(const char *path, char sha256_text[65]) {
  FILE *file = fopen(path, "rb");
  if (file == NULL) fail(EXIT_USAGE, "%s: no such file", path);
  struct sha256 digest = sha256_start();
  const size_t room = 1 << 20;
  uint8_t *chunk = allocate(room, 1);
  for (size_t got; (got = fread(chunk, 1, room, file)) > 0;) sha256_add(&digest, chunk, got);
  if (ferror(file)) fail(EXIT_DEVICE, "%s cannot be read to its end; copy it again", path);
  fclose(file);
  free(chunk);
  const int64_t bytes = (int64_t)digest.bytes;
  sha256_finish(&digest, sha256_text);
  return bytes;
}
