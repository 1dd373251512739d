/* The failures a person is meant to read: one line on standard error, and the exit code that ends the process. */
#ifndef BENCH_FAILURE_H
#define BENCH_FAILURE_H

#include <stddef.h>

/* Those of bench.pyz: usage, the model does not reproduce its golden rows, runtime or model. */
enum exit_code { EXIT_USAGE = 2, EXIT_GOLDEN = 4, EXIT_DEVICE = 6 };

/* Prints `bench: ...` and ends the process, which frees what it held: nothing here outlives one benchmark. */
_Noreturn void fail(enum exit_code code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Zeroed memory for `count` values of `size` bytes, or the end of the process. */
void *allocate(size_t count, size_t size);

#endif
