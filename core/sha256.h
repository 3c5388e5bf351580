/* SHA-256 by OpenSSL, as lower-case hex. */
#ifndef RB_CORE_SHA256_H
#define RB_CORE_SHA256_H

#include <stddef.h>

#include "core/status.h"

enum { RB_SHA256_HEX = 65 }; /* 64 digits and NUL */

rb_status rb_sha256_bytes(char hex[RB_SHA256_HEX], const void *bytes, size_t size_bytes, rb_error *err);
rb_status rb_sha256_file(char hex[RB_SHA256_HEX], const char *path, rb_error *err);
/* The same in its own thread, since a GB takes half a second: start it, and finish it when the hash is needed. */
typedef struct rb_sha256_task rb_sha256_task;
rb_status rb_sha256_file_start(rb_sha256_task **out, const char *path, rb_error *err);
/* Waits and frees; nothing on NULL; hex NULL: on failure. */
rb_status rb_sha256_file_finish(rb_sha256_task **task, char hex[RB_SHA256_HEX], rb_error *err);
/* Hash of many parts fed one after the other. */
typedef struct rb_sha256 rb_sha256;
rb_status rb_sha256_begin(rb_sha256 **out, rb_error *err);
rb_status rb_sha256_add(rb_sha256 *hash, const void *bytes, size_t size_bytes, rb_error *err);
/* Frees; call it on failure too, with hex NULL. */
rb_status rb_sha256_end(rb_sha256 **hash, char hex[RB_SHA256_HEX], rb_error *err);

#endif
