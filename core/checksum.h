/* A checksum of bytes of our own that may have been torn: fast, 128 bits, no defence against anyone. */
#ifndef RB_CORE_CHECKSUM_H
#define RB_CORE_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

typedef struct rb_checksum {
    uint8_t bytes[16];
} rb_checksum;

/* At most 2^30 bytes. Any thread. */
rb_status rb_checksum_bytes(rb_checksum *out, const void *bytes, size_t size_bytes, rb_error *err);

#endif
