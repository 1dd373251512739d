/* The machine as its own files tell it, and what this process takes of it. */
#ifndef BENCH_MACHINE_H
#define BENCH_MACHINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MOST_CORES = 1024 };

/* One file of /proc or /sys with its text, or a folder whose name alone tells something (one for each core; no text). */
struct machine_file {
  char *path;
  char *text;
};

/* The files of one moment. The host reads them with the code that reads its own /proc and /sys, so nothing is
   interpreted here. */
struct snapshot {
  struct machine_file *files;
  size_t count;
  char architecture[65]; /* as `uname` gives it */
  char running[256];     /* the program behind /proc/thread-self/exe: under user-mode emulation, the emulator */
};

struct snapshot read_machine(void);

/* A `kB` line of /proc/self/status in bytes (VmHWM: largest resident size so far, VmRSS: now); -1 where unknown. */
int64_t status_bytes(const char *field);

/* Restricts this process, and the threads it starts later, to the cores that are true; a refusal shows in
   `current_cores`, which gives false where the system does not tell. */
void pin_to(const bool cores[MOST_CORES]);
bool current_cores(bool cores[MOST_CORES]);

/* Nanoseconds of the monotonic clock and of this thread's CPU time, and the smallest step that a clock shows. */
int64_t wall_ns(void);
int64_t thread_cpu_ns(void);
int64_t clock_tick_ns(int64_t (*clock)(void));

/* Reads the whole file, which also puts it in the page cache, and gives its size; ends the process with code 2 if there
   is none and 6 if it cannot be read. */
int64_t fingerprint(const char *path, char sha256_text[65]);

#endif
