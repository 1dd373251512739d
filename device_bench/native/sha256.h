/* SHA-256 as in FIPS 180-4, section 6.2. */
#ifndef BENCH_SHA256_H
#define BENCH_SHA256_H

#include <stddef.h>
#include <stdint.h>

struct sha256 {
  uint32_t state[8];
  uint8_t block[64];
  size_t used;
  uint64_t bytes;
};

struct sha256 sha256_start(void);
void sha256_add(struct sha256 *digest, const uint8_t *data, size_t count);
/* Writes 64 hexadecimal digits and a zero. */
void sha256_finish(struct sha256 *digest, char text[65]);

#endif
